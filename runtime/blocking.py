"""One question to the running service, over a blocking socket: for commands such as `status`, which must start fast.

Imports no trio, no HTTP, no pydantic, and of a turn's classes none unless the service answers with an error. Programs
that post turns use client.py.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import loopforge
from loopforge.workers.frame_types import PROTOCOL, FrameType, pack, unpack_header
from loopforge.workers.framing import Frame, FrameError, Framer, encode
from loopforge.workers.packing import Malformed

if TYPE_CHECKING:
    from loopforge.drivers.errors import TurnError

ANSWER_S = 5.0
"""A healthy service answers within a millisecond; one that hangs should be named, not waited for."""

_START = "start one with 'loopforge serve'"
_SEE_LOG = "see its log; if it hangs, restart it"
_RECEIVE_BYTES = 65536
_QUESTION = 1  # the turn number of the one question asked


class NoAnswer(Exception):
    """No service answered; the text says why, and what to do."""


def ask_status(path: Path, *, answer_s: float = ANSWER_S) -> dict[str, Any]:
    """What runtime/status.py describes. Raises NoAnswer, or the TurnError that the service answers with."""
    return _map(ask_service(path, FrameType.STATUS, answer_s=answer_s).body, path)


def ask_cancel(path: Path, turn_id: str, *, why: str, answer_s: float = ANSWER_S) -> bool:
    """Cancel a turn by its id, whoever posted it. False when it had ended already.

    Raises NoAnswer, or the TurnError that the service answers with: UnknownTurn.
    """
    frame = ask_service(path, FrameType.CANCEL, pack({"id": turn_id, "why": why}), answer_s=answer_s)
    return bool(_map(frame.header, path).get("live"))


def ask_query(path: Path, header: dict[str, Any], *, answer_s: float = ANSWER_S) -> dict[str, Any]:
    """What the service's journal answers, as runtime/queries.py says. Raises NoAnswer, TurnError as `ask_status`."""
    return _map(ask_service(path, FrameType.QUERY, pack(header), answer_s=answer_s).body, path)


def ask_retry(path: Path, turn_id: str, *, answer_s: float = ANSWER_S) -> None:
    """Have a turn that failed or was cancelled tried again. Raises NoAnswer, or the TurnError that says why not."""
    ask_service(path, FrameType.QUERY, pack({"what": "retry", "id": turn_id}), answer_s=answer_s)


def ask_reload(path: Path, *, answer_s: float = ANSWER_S) -> dict[str, Any]:
    """Have the configuration read again: {"ok": True, "path", "summary", "changes", "warnings"}, else "problems".

    Raises NoAnswer, or the TurnError that the service answers with.
    """
    return _map(ask_service(path, FrameType.RELOAD, answer_s=answer_s).body, path)


def ask_service(path: Path, kind: FrameType, header: bytes = b"", *, answer_s: float = ANSWER_S) -> Frame:
    """Post one frame to the service at `path` and wait for its answer, at most `answer_s`.

    Raises NoAnswer when there is no service, it may not be used, or it is silent; else what it answers with.
    """
    hello = {"protocol": PROTOCOL, "version": loopforge.__version__, "pid": os.getpid()}
    question = encode(FrameType.HELLO, header=pack(hello)) + encode(kind, _QUESTION, header=header)
    with socket.socket(socket.AF_UNIX) as sock:
        _connect(sock, path, answer_s)
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # turned away: the reason is there to read
                sock.sendall(question)
            for frame in _frames(sock, time.monotonic() + answer_s):
                if frame.type == FrameType.ERROR:
                    raise _told(frame)
                if frame.turn == _QUESTION:
                    return frame
        except TimeoutError:
            raise NoAnswer(f"the service at {path} did not answer within {answer_s:g} s; {_SEE_LOG}") from None
        except ConnectionResetError:
            pass  # it hung up before it had read everything
        except (FrameError, Malformed) as exc:
            raise NoAnswer(
                f"what listens on {path} is no LoopForge service ({exc}); stop it, or set LOOPFORGE_SOCKET"
            ) from exc
    raise NoAnswer(f"the service at {path} hung up without an answer; {_SEE_LOG}")


def _connect(sock: socket.socket, path: Path, answer_s: float) -> None:
    # Unlike settimeout() this waits for a place in a full backlog; without one EAGAIN says so in the end: unix(7).
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", *divmod(int(answer_s * 1e6), 1_000_000)))
    try:
        sock.connect(os.fspath(path))
    except BlockingIOError:
        raise NoAnswer(f"the service at {path} takes no connections; {_SEE_LOG}") from None
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise NoAnswer(f"no service is running: there is no socket at {path}; {_START}") from exc
    except ConnectionRefusedError as exc:
        raise NoAnswer(f"no service is running: nobody listens on {path}; {_START}") from exc
    except PermissionError as exc:
        raise NoAnswer(
            f"you may not connect to {path}; ask the service's owner to add you to allow_users in [runtime]"
        ) from exc
    except OSError as exc:
        raise NoAnswer(f"{path}: {exc.strerror or exc}; check LOOPFORGE_SOCKET, and socket in [runtime]") from exc


def _frames(sock: socket.socket, deadline: float) -> Iterator[Frame]:
    """Frames until the service hangs up. Raises TimeoutError, ConnectionResetError, FrameError."""
    framer = Framer()
    while True:
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        data = sock.recv(_RECEIVE_BYTES)
        if not data:
            framer.close()
            return
        yield from framer.feed(data)


def _told(frame: Frame) -> TurnError:
    """The error that the service answers with. Raises Malformed."""
    from loopforge.drivers.errors import TurnError

    import_module("loopforge.runtime.errors")  # from_fields makes the classes that have been imported
    fields = unpack_header(frame.header).get("fields")
    if not isinstance(fields, dict):
        raise Malformed("ERROR.fields", "missing")
    return TurnError.from_fields(fields)


def _map(data: bytes, path: Path) -> dict[str, Any]:
    try:
        return unpack_header(data)
    except Malformed as exc:
        raise NoAnswer(f"the answer of the service at {path} makes no sense ({exc}); restart it") from exc

"""A vendor's own SDK beside our driver: the same conversations, with the simulator at the other end of both.

The SDK runs in a process and an environment of its own (scripts/locks/sdk-NAME.txt, sdk_clients/NAME.py) against a
server on loopback whose answers are those of the simulator's wire; requests and answers are kept. Our driver reads the
same answers, and the messages that come of them go into its next turn: so the echo of a tool loop is compared, too. A
kind's test says which conversations, and where its bodies differ on purpose.

The environment is made once and kept in the temporary folder under its lock's digest. Its wheels are those that
scripts/check-slow fetches: tests have no network.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from loopforge.drivers.fold import Fold
from loopforge.drivers.simulator.faults import PROBLEMS, fault_of_model
from loopforge.drivers.simulator.profile import Profile
from loopforge.drivers.simulator.wires import Answer, Call, Wire, open_wire
from loopforge.drivers.turn import Message, Reply, Text, ToolResult, Turn, user
from loopforge.drivers.wire import Driver, HttpRequest

ROOT = Path(__file__).resolve().parents[2]
WHEELS = ROOT / ".tmp" / "wheels"
CLIENTS = Path(__file__).with_name("sdk_clients")
SHORT = Profile(answer_tokens=12)
_OF_THE_CONNECTION = {"host", "connection", "accept-encoding", "content-length", "user-agent"}
Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """One conversation, in the SDK's words and in ours.

    `how`: the SDK's method, as its client names it. `asked`: its keyword arguments; bytes stand as {"$bytes": base64}.
    `turn`: the first turn. While an answer makes calls, their results are added and it goes on; else with the next of
    `then`, until there is none. `failing`: of `results`, the tools whose results are errors.
    """

    name: str
    how: str = "whole"
    asked: Json
    turn: Turn
    profile: Profile = SHORT
    results: Mapping[str, str] = field(default_factory=dict)
    failing: tuple[str, ...] = ()
    then: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Exchanged:
    """A request as the server saw it, and what it answered. `path`: with the query, behind the conversation's name."""

    path: str
    headers: Mapping[str, str]
    body: Any
    status: int
    answer_headers: Mapping[str, str]
    answer: bytes


@dataclass(frozen=True, kw_only=True)
class Held:
    """By conversation: what was exchanged, and what the SDK made of each answer.

    An answer as it read it has `text`, `thinking`, `calls` ([id, name, arguments] each), `finish` and `usage` (input
    and output); a failure is {"error": its class}.
    """

    exchanged: Mapping[str, list[Exchanged]]
    said: Mapping[str, list[Json]]


@dataclass(frozen=True, kw_only=True)
class Ours:
    """Our half of one exchange."""

    request: HttpRequest
    reply: Reply
    notices: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Where a body of ours is another than the SDK's on purpose, in which conversations, and why."""

    place: str
    names: frozenset[str]
    why: str


def differs(place: str, *names: str, why: str) -> Difference:
    return Difference(place=place, names=frozenset(names), why=why)


# -- the SDK's half ---------------------------------------------------------------------------------------------------


def hold(lock: str, kind: str, conversations: Sequence[Conversation], client: str = "") -> Held:
    """Have the SDK of scripts/locks/sdk-LOCK.txt hold the conversations against the simulator's wire of `kind`."""
    python = sdk_python(lock)
    with _recorder(open_wire(kind), conversations) as (base_url, exchanged):
        plain = [
            {
                "name": item.name,
                "how": item.how,
                "asked": item.asked,
                "results": dict(item.results),
                "failing": item.failing,
                "then": item.then,
            }
            for item in conversations
        ]
        # Not -I: the client imports from its own folder. What else that lets in, the environment's variables, is out.
        given = json.dumps({"base_url": base_url, "conversations": plain})
        said = run(python, "-E", "-s", "-B", CLIENTS / f"{client or lock}_client.py", given=given)
    return Held(exchanged=exchanged, said=json.loads(said))


def sdk_python(lock: str) -> Path:
    """The interpreter of an environment with exactly what the lock lists, made when it is not there yet."""
    listed = ROOT / "scripts" / "locks" / f"sdk-{lock}.txt"
    digest = hashlib.sha256(listed.read_bytes() + sys.version.encode()).hexdigest()[:16]
    environment = Path(tempfile.gettempdir()) / f"loopforge-sdk-{lock}-{os.getuid()}-{digest}"
    if not environment.exists():
        if not WHEELS.is_dir():
            pytest.fail(f"{WHEELS} is not there: run scripts/check-slow, which fetches locked wheels", pytrace=False)
        unfinished = Path(tempfile.mkdtemp(prefix="loopforge-sdk-"))
        run(sys.executable, "-m", "venv", "--without-pip", unfinished / "venv")
        pip = (sys.executable, "-m", "pip", "--python", unfinished / "venv" / "bin" / "python", "--quiet", "install")
        run(*pip, "--no-index", "--find-links", WHEELS, "--require-hashes", "--requirement", listed)
        try:
            (unfinished / "venv").rename(environment)
        except OSError:  # another run was quicker
            assert environment.exists()
        shutil.rmtree(unfinished)
    assert environment.stat().st_uid == os.getuid(), f"{environment} is somebody else's"
    return environment / "bin" / "python"


def run(*command: str | Path, given: str = "") -> str:
    """What the command says. Without the person's proxies and keys: an SDK reads both from the environment."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
    done = subprocess.run(command, input=given, capture_output=True, text=True, env=kept)
    if done.returncode != 0:
        pytest.fail(f"{command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}", pytrace=False)
    return done.stdout


class _Recorder(BaseHTTPRequestHandler):
    """Answers a request to /NAME/... as the simulator's wire does with that conversation's profile, and keeps both."""

    protocol_version = "HTTP/1.1"
    wire: Wire
    profiles: Mapping[str, Profile]
    exchanged: dict[str, list[Exchanged]]

    def do_POST(self) -> None:
        name, _, rest = self.path.removeprefix("/").partition("/")
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {header.lower(): value for header, value in self.headers.items()}
        kept = self.exchanged.setdefault(name, [])
        call = Call(method="POST", path=f"/{rest.partition('?')[0]}", headers=headers, body=body)
        answer = _answer(self.wire, call, self.profiles[name], seed=len(kept))
        data = answer.body if answer.steps is None else b"".join(answer.steps)
        kept.append(
            Exchanged(
                path=f"/{rest}",
                headers=headers,
                body=json.loads(body),
                status=answer.status,
                answer_headers=dict(answer.headers),
                answer=data,
            )
        )
        self.send_response(answer.status)
        for header, value in answer.headers:
            self.send_header(header, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def _answer(wire: Wire, call: Call, profile: Profile, *, seed: int) -> Answer:
    asked = wire.read(call, profile)
    if isinstance(asked, Answer):
        return asked
    fault = fault_of_model(asked.model)
    if fault is not None:
        return wire.problem(PROBLEMS[fault], profile, asked)
    return wire.answer(asked, profile, random.Random(seed))


@contextmanager
def _recorder(wire: Wire, conversations: Sequence[Conversation]) -> Iterator[tuple[str, dict[str, list[Exchanged]]]]:
    exchanged: dict[str, list[Exchanged]] = {}
    profiles = {item.name: item.profile for item in conversations}
    handler = type("Handler", (_Recorder,), {"wire": wire, "profiles": profiles, "exchanged": exchanged})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True  # an SDK that leaves a connection open is no reason to wait
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", exchanged
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# -- our half ---------------------------------------------------------------------------------------------------------


def our_half(conversation: Conversation, driver: Driver, exchanged: Sequence[Exchanged]) -> list[Ours]:
    """What we send in the same conversation, and read of the same answers."""
    turn, later, done = conversation.turn, list(conversation.then), list[Ours]()
    for answered in exchanged:
        assert answered.status == 200, answered.answer
        reader, fold = driver.new_reader(turn, answered.answer_headers), Fold()
        for delta in [*reader.feed(answered.answer), *reader.close()]:
            fold.add(delta)
        reply = fold.reply(turn)
        done.append(Ours(request=driver.build_request(turn), reply=reply, notices=driver.notices(turn)))
        turn = replace(turn, messages=(*turn.messages, reply.message, *_what_follows(conversation, reply, later)))
    assert not later, "the SDK left off before its end"
    return done


def _what_follows(conversation: Conversation, reply: Reply, later: list[str]) -> list[Message]:
    if reply.tool_calls:
        return [
            Message(
                role="tool",
                content=(
                    ToolResult(
                        call_id=call.id,
                        name=call.name,
                        content=(Text(text=conversation.results[call.name]),),
                        is_error=call.name in conversation.failing,
                    ),
                ),
            )
            for call in reply.tool_calls
        ]
    return [user(later.pop(0))] if later else []


def as_said(reply: Reply) -> Json:
    """A reply in the form in which clients tell what an SDK read."""
    return {
        "text": reply.text,
        "thinking": reply.message.thinking,
        "calls": [[call.id, call.name, call.parsed] for call in reply.tool_calls],
        "finish": reply.finish_raw,
        "usage": [reply.usage.input, reply.usage.output],
    }


# -- comparing --------------------------------------------------------------------------------------------------------


def differences(ours: Any, theirs: Any, place: str = "") -> Iterator[str]:
    """Where two JSON values differ, as in "messages[].content". A null member is as none."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name in sorted(ours.keys() | theirs.keys()):
            yield from differences(ours.get(name), theirs.get(name), f"{place}.{name}" if place else name)
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for one, other in zip(ours, theirs, strict=True):
            yield from differences(one, other, f"{place}[]")
    elif ours != theirs:
        yield place


def check_bodies(
    conversation: Conversation,
    driver: Driver,
    held: Held,
    deliberate: Sequence[Difference],
    normal: Callable[[Any], Any] = lambda body: body,
) -> list[Ours]:
    """Paths are the same, and bodies but for the deliberate differences, every one of which is there.

    `normal`: a body in a form in which the same is always written alike.
    """
    exchanged = held.exchanged[conversation.name]
    ours = our_half(conversation, driver, exchanged)
    found: set[str] = set()
    for one, other in zip(ours, exchanged, strict=True):
        assert one.request.url.removeprefix("http://host") == other.path
        found |= set(differences(normal(json.loads(one.request.body)), normal(other.body)))
    expected = {item.place for item in deliberate if conversation.name in item.names}
    bodies = [(json.loads(ours[at].request.body), other.body) for at, other in enumerate(exchanged)]
    assert found == expected, (found ^ expected, bodies)
    return ours


def check_answers(
    conversation: Conversation, driver: Driver, held: Held, text: Callable[[str], str] = lambda text: text
) -> None:
    """The SDK reads in the simulator's answers what our reader does. `text`: what of an answer's text is compared."""
    ours = our_half(conversation, driver, held.exchanged[conversation.name])
    said = [{**answer, "text": text(answer["text"])} for answer in held.said[conversation.name]]
    assert said == [as_said(one.reply) for one in ours]


def check_headers(
    signed: Mapping[str, HttpRequest], held: Held, deliberate: Mapping[str, str], telemetry: tuple[str, ...]
) -> None:
    """Headers are the SDK's but for the deliberate differences, every one of which is seen somewhere.

    `signed`: our first request of each conversation. `telemetry`: how names begin of what an SDK tells of itself.
    """
    found: set[str] = set()
    for name, request in signed.items():
        theirs = held.exchanged[name][0].headers
        names = {*request.headers, *theirs} - _OF_THE_CONNECTION
        found |= {
            header
            for header in names
            if not header.startswith(telemetry) and request.headers.get(header) != theirs.get(header)
        }
    assert found == deliberate.keys()


def check_table(deliberate: Sequence[Difference], conversations: Sequence[Conversation]) -> None:
    """Every deliberate difference names conversations that are held."""
    names = {item.name for item in conversations}
    assert [item for item in deliberate if not item.names or not item.names <= names or not item.why] == []


def plain_bytes(data: bytes) -> Json:
    """Bytes in an SDK's arguments."""
    return {"$bytes": base64.b64encode(data).decode()}

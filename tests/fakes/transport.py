"""A transport without a network: it plays canned answers, in virtual time where there is one.

Passes tests/suites/transport.py, which the real one passes, too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import trio

from loopforge.drivers.errors import DriverError, StreamBroken, WireMismatch
from loopforge.drivers.transport import MAX_ERROR_BYTES
from loopforge.drivers.wire import HttpRequest, Response

Piece: TypeAlias = bytes | float | Exception
"""Bytes that come, seconds that pass, or what goes wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Canned:
    """One answer. `instead`: raised in place of a head. `hangs`: the body never ends."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    pieces: Iterable[Piece] = ()
    head_after_s: float = 0.0
    instead: DriverError | None = None
    hangs: bool = False


SILENCE = Canned(head_after_s=float("inf"))


class FakeTransport:
    """Answers requests by a function of theirs, or with the given answers in turn. Keeps the books.

    `whole`: bodies read to their end. `left`: opened, then left before that. `open_now`: not yet left.
    """

    def __init__(self, *answers: Canned | Callable[[HttpRequest], Canned], max_bytes: int = 2**20) -> None:
        self.requests: list[HttpRequest] = []
        self.whole = 0
        self.left = 0
        self.open_now = 0
        self._answers = list(answers)
        self._max_bytes = max_bytes

    def open(self, request: HttpRequest) -> AbstractAsyncContextManager[Response]:
        return self._open(request)

    @asynccontextmanager
    async def _open(self, request: HttpRequest) -> AsyncIterator[Response]:
        self.requests.append(request)
        answer = self._answers[0] if len(self._answers) == 1 else self._answers.pop(0)
        canned = answer if isinstance(answer, Canned) else answer(request)
        body = _Body(canned, self._max_bytes)
        self.open_now += 1
        try:
            await trio.sleep(canned.head_after_s)
            if canned.instead is not None:
                raise canned.instead
            yield body
        finally:
            self.open_now -= 1
            if body.ended:
                self.whole += 1
            elif canned.instead is None:
                self.left += 1


class _Body:
    def __init__(self, canned: Canned, max_bytes: int) -> None:
        self.status = canned.status
        self.headers = canned.headers
        self.ended = False
        self._pieces = iter(canned.pieces)
        self._hangs = canned.hangs
        self._left = max_bytes

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        for piece in self._pieces:
            if isinstance(piece, Exception):
                raise piece
            if isinstance(piece, bytes):
                self._left -= len(piece)
                if self._left < 0:
                    raise WireMismatch("fake", "the body is too long")
                return piece
            await trio.sleep(piece)
        if self._hangs:
            await trio.sleep_forever()
        self.ended = True
        raise StopAsyncIteration

    async def read_all(self) -> bytes:
        body = b""
        try:
            async for data in self:
                body += data
                if len(body) > MAX_ERROR_BYTES:
                    break
        except StreamBroken:
            pass
        return body[:MAX_ERROR_BYTES]

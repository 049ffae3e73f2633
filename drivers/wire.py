"""The shapes between a driver and the network. No behaviour.

A driver is a frozen dataclass of settings with three pure methods; a reader folds one response into deltas; a
transport is the only thing that holds a socket; an auth puts the key on what leaves.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from loopforge.drivers.errors import CredentialsRejected, DriverError
from loopforge.drivers.turn import Delta, Turn, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """One request. `headers`: lower-case names; no key among them until Auth.sign. `url` is absolute."""

    method: str = "POST"
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)


class Reader(Protocol):
    """Folds one response into deltas. Feed bytes in any cut; keeps only what later events need."""

    events: int
    """Wire events read so far. Keep-alive comments and blank lines are none: the watchdogs count these."""

    def feed(self, data: bytes) -> list[Delta]:
        """The deltas that `data` completes. Raises DriverError."""

    def close(self) -> list[Delta]:
        """The body ended: the deltas still due. Raises StreamBroken if that cut the turn short, or a DriverError."""

    def known_usage(self) -> Usage | None:
        """The latest count that the answer has told, in a delta already or not; None while it has told none.

        Asked of an answer that ended without a reply, whatever ended it. Asking changes nothing.
        """


class Driver(Protocol):
    """Settings of one provider, and its wire format. Pure: no socket, clock, environment or log."""

    def build_request(self, turn: Turn) -> HttpRequest:
        """`turn.model` is the model to ask. Raises TurnRefused when this wire cannot carry the turn at all."""

    def notices(self, turn: Turn) -> tuple[str, ...]:
        """What of the turn this wire, vendor or model will not carry; each lands in the reply's warnings."""

    def new_reader(self, turn: Turn, headers: Mapping[str, str]) -> Reader:
        """A reader for the response (status 200) to `turn`. `headers`: lower-case names."""

    def explain(self, turn: Turn, status: int, headers: Mapping[str, str], body: bytes) -> DriverError:
        """The error that a response with another status is."""


class Response(Protocol):
    """A response whose head has come. Iterate over the body's bytes as they arrive."""

    status: int
    headers: Mapping[str, str]

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def read_all(self) -> bytes:
        """The body, at most the transport's bound for error bodies; the rest is dropped."""


class Transport(Protocol):
    def open(self, request: HttpRequest) -> AbstractAsyncContextManager[Response]:
        """Send; the block holds the response open. Leaving it, or being cancelled, closes the connection promptly.

        Raises ProviderUnavailable (connect, TLS, reset before the head), StreamBroken (reset inside the body),
        TurnRefused (the URL is unusable), WireMismatch (not HTTP).
        """


class Auth(Protocol):
    async def sign(self, request: HttpRequest) -> HttpRequest:
        """The request with its key on. Raises CredentialsRejected when there is none. May await (AWS refresh)."""


@runtime_checkable
class RenewableAuth(Auth, Protocol):
    """An auth that signs with something short-lived, which a clock or a cache can make worthless before its time."""

    def rejected(self, error: CredentialsRejected, headers: Mapping[str, str]) -> bool:
        """The answer to what was signed last is `error`, which this may complete. True: sign anew and send once more.

        Nothing was generated then, so that nothing is billed twice. `headers`: of the answer, lower-case names.
        """

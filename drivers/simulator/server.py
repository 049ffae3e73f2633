"""The simulator's HTTP/1.1 server: one process plays several providers at http://127.0.0.1:PORT/PROVIDER/v1.

Owns connections, limits and the order of things; what is said comes from a wire, when from a profile, what breaks
from a fault. h11 over trio, as in h11's own examples; chunks of a stream are framed by hand, which is what makes
thousands of tokens a second cheap. Loopback only: there is no TLS and no protection here.
"""

from __future__ import annotations

import json
import random
import socket
import struct
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import h11
import trio

from loopforge.drivers.simulator.faults import FaultName, fault_of_model, problem_of, spoil
from loopforge.drivers.simulator.pacing import Gone, Pacer, send
from loopforge.drivers.simulator.play import Play, paced
from loopforge.drivers.simulator.profile import ANY_PROVIDER, Profile, Profiles, profile_of
from loopforge.drivers.simulator.stats import ProviderStats, Stats
from loopforge.drivers.simulator.wires import Answer, Asked, Call, TellsReset, Wire, open_wire

MAX_HEAD_BYTES = 64 * 2**10
MAX_BODY_BYTES = 64 * 2**20
MAX_CONNECTIONS = 8192
IDLE_S = 75.0  # a kept connection without a request; nginx's default
REQUEST_S = 60.0  # from the first byte of a request to its last
LINGER_S = 1.0  # after an answer that ends a connection: to let the client read it before it meets a reset
_READ_BYTES = 64 * 2**10
_STATS_PATH = "/_simulator/stats"
_JSON = (("content-type", "application/json"),)


class Simulator:
    """A running simulator. `profiles` may be changed while it runs: the next request sees it.

    `resets_at`: when the quota of a provider that met "quota-reset" is whole again, in unix seconds by `wall`.
    """

    def __init__(
        self,
        profiles: Profiles | None = None,
        *,
        max_connections: int = MAX_CONNECTIONS,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._max_connections = max_connections
        self._wall = wall
        self.resets_at: dict[str, float] = {}
        self.profiles: dict[str, Profile] = dict(profiles or {ANY_PROVIDER: Profile()})
        self.stats = Stats()
        self.pacer = Pacer()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def base_url(self, provider: str) -> str:
        """What a provider's `base_url` is set to, to have it played here."""
        return f"{self.url}/{provider}/v1"

    def is_reset(self, provider: str, profile: Profile) -> bool:
        """Whether this provider's quota is whole again. The first look is when it is used up."""
        now = self._wall()
        return now >= self.resets_at.setdefault(provider, now + profile.quota_reset_s)

    async def serve_connection(self, stream: trio.abc.Stream) -> None:
        """Answer requests until the client leaves. Raises nothing that a client could cause."""
        if self.stats.open_connections >= self._max_connections:
            await trio.aclose_forcefully(stream)
            return
        self.stats.connections += 1
        self.stats.open_connections += 1
        self.stats.note()
        try:
            await _Connection(self, stream).serve()
        except (Gone, h11.ProtocolError):
            pass
        finally:
            self.stats.open_connections -= 1
            self.stats.note()
            await trio.aclose_forcefully(stream)


async def serve_simulator(
    profiles: Profiles | None = None,
    *,
    port: int = 0,
    task_status: trio.TaskStatus[Simulator] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Play the providers of `profiles` on 127.0.0.1 until cancelled; `port` 0 takes a free one.

    Without profiles every name is a provider of the default one. Tells the Simulator once it listens. Raises OSError
    when the port is taken.
    """
    simulator = Simulator(profiles)
    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    simulator.port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(simulator.pacer.run)
        await nursery.start(partial(trio.serve_listeners, simulator.serve_connection, listeners))
        task_status.started(simulator)


@asynccontextmanager
async def open_simulator(profiles: Profiles | None = None, *, port: int = 0) -> AsyncIterator[Simulator]:
    """A simulator inside this process. Leaving the block closes its connections."""
    async with trio.open_nursery() as nursery:
        simulator: Simulator = await nursery.start(partial(serve_simulator, profiles, port=port))
        try:
            yield simulator
        finally:
            nursery.cancel_scope.cancel()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scene:
    """One request with all that decides on its answer."""

    provider: str
    profile: Profile
    wire: Wire
    stats: ProviderStats
    call: Call


class _Connection:
    """One client. Requests one after the other; while an answer takes its time, a second task looks for a hang-up."""

    def __init__(self, simulator: Simulator, stream: trio.abc.Stream) -> None:
        self._simulator = simulator
        self._stream = stream
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._hung_up = False  # the client has
        self._no_body = False  # in the answer to HEAD
        self._closed = False  # we have, for a fault's sake

    async def serve(self) -> None:
        while (call := await self._next_request()) is not None:
            await self._answer(call)
            if self._hung_up or self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                break
            self._http.start_next_cycle()
        if not self._hung_up and self._http.our_state in (h11.DONE, h11.MUST_CLOSE):
            await self._linger()

    # -- reading ------------------------------------------------------------------------------------------------------

    async def _next_request(self) -> Call | None:
        """The next request with its body; None when the client has left, was too slow, or speaks no HTTP."""
        head: h11.Event | None = None
        try:
            with trio.move_on_after(IDLE_S):
                head = await self._next_event()
            if isinstance(head, h11.Request):
                with trio.move_on_after(REQUEST_S):
                    return await self._with_body(head)
        except h11.RemoteProtocolError as exc:
            await self._refuse(exc.error_status_hint, "That is not HTTP/1.1 as this server speaks it.")
        return None

    async def _with_body(self, head: h11.Request) -> Call | None:
        body = bytearray()
        while not isinstance(event := await self._next_event(), h11.EndOfMessage):
            if not isinstance(event, h11.Data):
                return None
            body += event.data
            if len(body) > MAX_BODY_BYTES:
                await self._refuse(413, "The body is too large.")
                return None
        self._no_body = head.method == b"HEAD"
        return Call(
            method=head.method.decode(),
            path=head.target.decode("latin-1").partition("?")[0],
            headers={name.decode(): value.decode("latin-1") for name, value in head.headers},
            body=bytes(body),
        )

    async def _next_event(self) -> h11.Event | None:
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                if self._http.they_are_waiting_for_100_continue:
                    await send(self._stream, self._encode(h11.InformationalResponse(status_code=100, headers=[])))
                self._http.receive_data(await self._receive())
            elif isinstance(event, h11.Request | h11.Data | h11.EndOfMessage):
                return event
            else:  # PAUSED or ConnectionClosed
                return None

    async def _receive(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(_READ_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return b""

    # -- deciding -----------------------------------------------------------------------------------------------------

    async def _answer(self, call: Call) -> None:
        if call.path == _STATS_PATH:
            await self._send_whole(200, _JSON, json.dumps(self._simulator.stats.to_plain()).encode())
            return
        _, _, rest = call.path.partition("/")
        provider, _, path = rest.partition("/")
        profile = profile_of(self._simulator.profiles, provider)
        if profile is None:
            await self._refuse(404, f"No provider {provider!r} is played here.")
            return
        try:
            wire = open_wire(profile.kind)
        except ValueError as exc:
            await self._refuse(501, str(exc))
            return
        stats = self._simulator.stats.of(provider)
        scene = _Scene(provider=provider, profile=profile, wire=wire, stats=stats, call=replace(call, path=f"/{path}"))
        stats.requests += 1
        stats.active += 1
        stats.peak = max(stats.peak, stats.active)
        self._simulator.stats.note()
        try:
            await self._perform(scene, self._direct(scene))
        finally:
            stats.active -= 1
            self._simulator.stats.note()

    def _direct(self, scene: _Scene) -> Play:
        """What happens with this request. Pure but for the counting."""
        profile, wire = scene.profile, scene.wire
        asked = wire.read(scene.call, profile)
        if isinstance(asked, Answer):
            return _at_once(asked)
        scene.stats.models[asked.model] += 1
        if 0 < profile.max_concurrency < scene.stats.active:
            return _at_once(wire.problem("rate_limited", profile, asked))
        rng = random.Random(profile.seed << 32 ^ zlib.crc32(scene.call.body))
        try:
            fault = fault_of_model(asked.model) or _fault_of_profile(profile, rng)
        except ValueError:
            return _at_once(wire.problem("model_not_found", profile, asked))
        if fault == "quota-reset" and self._simulator.is_reset(scene.provider, profile):
            fault = None
        if fault:
            scene.stats.faults[fault] += 1
        if fault == "quota-reset":
            return _at_once(self._used_up(scene, asked))
        if fault and (problem := problem_of(fault)):
            return _at_once(wire.problem(problem, profile, asked))
        play = _in_time(wire.answer(asked, profile, rng), profile, rng)
        if fault:
            return spoil(play, fault, wire, after=profile.fault_after_tokens, slow_s=profile.slow_s)
        return play

    def _used_up(self, scene: _Scene, asked: Asked) -> Answer:
        """The quota problem, with its end where the vendor tells it."""
        answer = None
        if isinstance(scene.wire, TellsReset):
            answer = scene.wire.used_up(self._simulator.resets_at[scene.provider], asked)
        return answer or scene.wire.problem("quota", scene.profile, asked)

    # -- answering ----------------------------------------------------------------------------------------------------

    async def _perform(self, scene: _Scene, play: Play) -> None:
        """Play it, unless the client leaves; count how it went."""
        scene.stats.statuses[str(play.status) if play.has_head else "none"] += 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, nursery.cancel_scope)
            try:
                await self._play(scene, play)
            except Gone:
                self._hung_up = True
            nursery.cancel_scope.cancel()
        if self._hung_up:
            scene.stats.cancelled += 1
        elif play.ending == "whole":
            scene.stats.whole += 1
        else:
            scene.stats.broken += 1

    async def _watch(self, scope: trio.CancelScope) -> None:
        """Notice that the client hangs up. A next request sent early is kept for its turn, and watching ends."""
        data = await self._receive()
        if data:
            self._http.receive_data(data)
        elif not self._closed:
            self._hung_up = True
            scope.cancel()

    async def _play(self, scene: _Scene, play: Play) -> None:
        if play.has_head:
            await self._play_body(scene, play, trio.current_time())
        match play.ending:
            case "whole":
                return
            case "hang":
                await trio.sleep_forever()
            case "reset":
                _reset_on_close(self._stream)
        self._closed = True
        await trio.aclose_forcefully(self._stream)

    async def _play_body(self, scene: _Scene, play: Play, start: float) -> None:
        if play.length is not None:
            await self._play_whole(play, start)
            return
        head = list(play.headers)
        framed = self._http.their_http_version != b"1.0"
        if framed:
            head.append(("transfer-encoding", "chunked"))
        await send(self._stream, self._encode(h11.Response(status_code=play.status, headers=head)))
        frames = ((start + at, b"%x\r\n%b\r\n" % (len(data), data) if framed else data) for at, data in play.steps)
        if play.tokens_per_send:
            await self._flood(scene, frames, play.tokens_per_send)
        else:
            await self._simulator.pacer.play(self._stream, frames, scene.stats.count_steps)
        if play.ending == "whole":
            await send(self._stream, self._encode(h11.EndOfMessage()))

    async def _flood(self, scene: _Scene, frames: Iterator[tuple[float, bytes]], per_send: int) -> None:
        while batch := list(islice(frames, per_send)):
            if batch[0][0] > trio.current_time():
                await trio.sleep_until(batch[0][0])
            await send(self._stream, b"".join(data for _, data in batch))
            scene.stats.count_steps(len(batch))

    async def _play_whole(self, play: Play, start: float) -> None:
        """A body of known length. The head waits for it, as servers that do not stream have nothing to send before."""
        head = h11.Response(status_code=play.status, headers=[*play.headers, ("content-length", str(play.length))])
        waiting = self._encode(head)
        for at, data in play.steps:
            await trio.sleep_until(start + at)
            body = b"" if self._no_body else self._encode(h11.Data(data=data))
            await send(self._stream, waiting + body)
            waiting = b""
        if play.ending == "whole":
            self._encode(h11.EndOfMessage())

    async def _send_whole(self, status: int, headers: tuple[tuple[str, str], ...], body: bytes) -> None:
        play = _at_once(Answer(status=status, headers=headers, body=body))
        await self._play_whole(play, trio.current_time())

    async def _refuse(self, status: int, message: str) -> None:
        """An answer of the server's own, not of a provider."""
        if self._http.our_state is h11.IDLE or self._http.our_state is h11.SEND_RESPONSE:
            body = json.dumps({"error": {"message": message, "type": "simulator"}}).encode()
            await self._send_whole(status, _JSON, body)

    async def _linger(self) -> None:
        """Let the client read the last answer: closing with its bytes unread here would reset the connection."""
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            try:
                await self._stream.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            with trio.move_on_after(LINGER_S):
                while await self._receive():
                    pass

    def _encode(self, event: h11.Event) -> bytes:
        return self._http.send(event) or b""


def _at_once(answer: Answer) -> Play:
    """An answer that took no thinking: errors, lists."""
    return Play(status=answer.status, headers=answer.headers, steps=iter([(0.0, answer.body)]), length=len(answer.body))


def _in_time(answer: Answer, profile: Profile, rng: random.Random) -> Play:
    """The answer at the profile's pace."""
    if answer.steps is None:
        per_token = 1 / profile.tokens_per_s if profile.tokens_per_s else 0.0
        spread = 1 + profile.jitter * (rng.random() - 0.5)
        at = (profile.first_token_s + max(0, answer.tokens - 1) * per_token) * spread
        return replace(_at_once(answer), steps=iter([(at, answer.body)]))
    steps = paced(
        answer.steps,
        first_s=profile.first_token_s,
        tokens_per_s=profile.tokens_per_s,
        jitter=profile.jitter,
        rng=rng,
    )
    together = 0 if profile.tokens_per_s else profile.tokens_per_send
    return Play(status=answer.status, headers=answer.headers, steps=steps, length=None, tokens_per_send=together)


def _fault_of_profile(profile: Profile, rng: random.Random) -> FaultName | None:
    return profile.fault if profile.fault and rng.random() < profile.fault_share else None


def _reset_on_close(stream: trio.abc.Stream) -> None:
    """Closing sends RST in place of FIN: SO_LINGER with time 0, see socket(7)."""
    if isinstance(stream, trio.SocketStream):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

"""What local servers say of their slots: simulated ones on loopback, and some that say nothing of use."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from loopforge.drivers.auth import NoKey, open_auth
from loopforge.drivers.errors import ProviderUnavailable, StreamBroken, WireMismatch
from loopforge.drivers.registry import MOST_ADAPTIVE, ProviderSettings
from loopforge.drivers.simulator.profile import Profile
from loopforge.drivers.simulator.server import open_simulator
from loopforge.drivers.slots import ASK_S, MAX_ANSWER_BYTES, QUESTIONS, ask_slots, read_slots, slots_request
from loopforge.drivers.transport import open_transport
from loopforge.drivers.wire import Transport
from tests.drivers.asking import answer_all, ask
from tests.fakes.tcp import TcpServer, open_server
from tests.fakes.transport import SILENCE, Canned, FakeTransport

LOCAL = ProviderSettings(
    name="local", kind="openai_compatible", base_url="http://127.0.0.1:8080/v1", vendor="llamacpp", adaptive=True
)
PATIENCE_S = 20.0


def body_of(vendor: str, *counts: Any) -> bytes:
    if vendor == "llamacpp":
        return json.dumps({"total_slots": counts[0]}).encode()
    loaded = [{"id": "m", "config": {"context_length": 1, "parallel": count}} for count in counts]
    return json.dumps({"models": [{"loaded_instances": []}, {"loaded_instances": loaded}]}).encode()


# -- asked on loopback -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vendor", QUESTIONS)
@pytest.mark.parametrize("key", ["", "s3cret"])
async def test_a_simulated_server_tells_its_slots_to_whom_has_the_key_of_the_turns(vendor: str, key: str) -> None:
    profile = Profile(slots=6, api_key=key)
    with trio.fail_after(PATIENCE_S):
        async with open_simulator({"local": profile, "dumb": Profile()}) as simulator:

            async def asked(name: str, sent: str) -> int | None:
                settings = replace(
                    LOCAL, vendor=vendor, base_url=simulator.base_url(name), api_key_env="KEY" if sent else ""
                )
                async with open_transport(settings) as transport:
                    return await ask_slots(settings, open_auth(settings, sent), transport)

            assert await asked("local", key) == 6
            assert await asked("dumb", "") is None
            if key:
                assert await asked("local", "") is None
                assert await asked("local", "another") is None
            assert simulator.stats.of("local").statuses["200"] == 1


async def test_a_server_that_refuses_the_connection_does_not_tell() -> None:
    async with open_server(answer_all) as server:
        settings = replace(LOCAL, base_url=f"{server.url}/v1")
    async with open_transport(settings) as transport:  # nobody listens there any more
        with trio.fail_after(PATIENCE_S):
            assert await ask_slots(settings, NoKey(), transport) is None


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"",
        b'HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\n{"total_slots": 4',
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n<html",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 5\r\n\r\nhello",
        b'HTTP/1.1 503 Loading\r\ncontent-length: 18\r\n\r\n{"total_slots": 4}',
        b"HTTP/1.1 307 There\r\nlocation: http://127.0.0.1:9/props\r\ncontent-length: 0\r\n\r\n",
    ],
)
async def test_a_server_that_answers_garbage_does_not_tell(answer: bytes) -> None:
    async def say(server: TcpServer, stream: trio.SocketStream) -> None:
        await server.read_request(stream)
        await stream.send_all(answer)

    async with open_server(say) as server:
        settings = replace(LOCAL, base_url=f"{server.url}/v1")
        async with open_transport(settings) as transport:
            with trio.fail_after(PATIENCE_S):
                assert await ask_slots(settings, NoKey(), transport) is None
        assert server.accepted == 1


async def test_no_turn_waits_for_a_connection_because_the_server_is_asked_for_its_slots() -> None:
    """Every connection that turns may have is there beside the one on which the server stays silent."""

    async def silent_about_slots(server: TcpServer, stream: trio.SocketStream) -> None:
        head = await server.read_request(stream)
        if head.startswith(b"GET /props "):
            probed.set()
            await server.read_to_end(stream)
            return
        busy.append(stream)
        if len(busy) == MOST_ADAPTIVE:
            full.set()
        await full.wait()
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")

    async def ask_for_ever(settings: ProviderSettings, transport: Transport) -> None:
        """As `ask_slots`, without its bound: after that the connection would be free."""
        request = slots_request(settings)
        assert request is not None
        async with transport.open(request):
            raise AssertionError("it answered")

    busy: list[trio.SocketStream] = []
    probed, full = trio.Event(), trio.Event()
    async with open_server(silent_about_slots) as server:
        settings = replace(LOCAL, base_url=f"{server.url}/v1", max_concurrency=1)
        with trio.fail_after(PATIENCE_S):
            async with open_transport(settings) as transport, trio.open_nursery() as nursery:
                nursery.start_soon(ask_for_ever, settings, transport)
                await probed.wait()
                async with trio.open_nursery() as turns:
                    for _ in range(MOST_ADAPTIVE):
                        turns.start_soon(ask, transport, server.url)
                nursery.cancel_scope.cancel()


# -- what cannot be shown in real time -------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [SILENCE, Canned(pieces=(b'{"total_slots": 4}',), hangs=True)])
async def test_a_server_that_hangs_is_left_after_a_short_while(autojump_clock: MockClock, answer: Canned) -> None:
    transport, start = FakeTransport(answer), trio.current_time()
    assert await ask_slots(LOCAL, NoKey(), transport) is None
    assert trio.current_time() - start == pytest.approx(ASK_S)
    assert transport.open_now == 0


@pytest.mark.parametrize(
    "answer",
    [
        Canned(instead=ProviderUnavailable("local", "out of reach")),
        Canned(instead=WireMismatch("local", "no HTTP")),
        Canned(pieces=(b'{"total_slots": 4}', StreamBroken("local", "hung up"))),
        Canned(pieces=(b'{"total_slots": 4}', LookupError("a bug"))),
        Canned(pieces=(b" " * MAX_ANSWER_BYTES, b'{"total_slots": 4}')),
        Canned(status=404, pieces=(b'{"total_slots": 4}',)),
    ],
)
async def test_whatever_goes_wrong_stays_with_the_question_and_out_of_the_log(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, answer: Canned
) -> None:
    caplog.set_level(logging.INFO)
    assert await ask_slots(LOCAL, NoKey(), FakeTransport(answer, max_bytes=2**24)) is None
    assert caplog.records == []


async def test_a_key_that_is_missing_is_the_turns_business(autojump_clock: MockClock) -> None:
    settings = replace(LOCAL, api_key_env="LOCAL_KEY")
    transport = FakeTransport(Canned(pieces=(body_of("llamacpp", 4),)))
    assert await ask_slots(settings, open_auth(settings, ""), transport) is None
    assert transport.requests == []


async def test_the_answer_may_come_in_any_cut(autojump_clock: MockClock) -> None:
    pieces = [bytes([byte]) for byte in body_of("llamacpp", 4)]
    assert await ask_slots(LOCAL, NoKey(), FakeTransport(Canned(pieces=pieces))) == 4


# -- what is asked, what is read -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vendor", "base_url", "url"),
    [
        ("llamacpp", "http://127.0.0.1:8080/v1", "http://127.0.0.1:8080/props"),
        ("llamacpp", "http://[::1]:8080/", "http://[::1]:8080/props"),
        ("llamacpp", "http://localhost/llm/v1/chat/completions/?a=b", "http://localhost/llm/props"),
        ("llamacpp", "http://localhost:8080/v1/messages", "http://localhost:8080/props"),
        ("lmstudio", "http://127.0.0.1:1234/v1/", "http://127.0.0.1:1234/api/v1/models"),
    ],
)
def test_the_answer_lies_beside_the_wires_own_path(vendor: str, base_url: str, url: str) -> None:
    request = slots_request(replace(LOCAL, vendor=vendor, base_url=base_url, headers={"X-Tenant": "a"}))
    assert request is not None
    assert (request.method, request.url, request.body) == ("GET", url, b"")
    assert request.headers["x-tenant"] == "a"


@pytest.mark.parametrize(
    "settings",
    [
        replace(LOCAL, adaptive=False),
        replace(LOCAL, base_url="http://[::1/v1"),
        *(replace(LOCAL, vendor=name) for name in ("ollama", "vllm", "generic", "")),
    ],
)
def test_nobody_is_asked_who_does_not_tell_or_cannot_be_or_whose_number_somebody_wrote_down(
    settings: ProviderSettings,
) -> None:
    assert slots_request(settings) is None


def test_of_several_loaded_models_the_one_with_the_fewest_counts() -> None:
    assert read_slots("lmstudio", body_of("lmstudio", 8, 2, 4)) == 2
    assert read_slots("lmstudio", body_of("lmstudio", 0, 8)) == 8


@pytest.mark.parametrize("vendor", QUESTIONS)
@pytest.mark.parametrize("count", [0, -1, True, 4.0, "4", None, [4], {"total_slots": 4}, 10**6, 10**30])
def test_what_is_no_sensible_number_is_not_told(vendor: str, count: Any) -> None:
    assert read_slots(vendor, body_of(vendor, count)) is None


def test_no_loaded_model_tells_nothing_and_neither_does_a_router_of_models() -> None:
    assert read_slots("lmstudio", b'{"models": []}') is None
    assert read_slots("llamacpp", b'{"role": "router", "max_instances": 4}') is None


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["total_slots", "models", "loaded_instances", "config", "parallel", "x"]), inner, max_size=4
        )
    ),
)


@given(vendor=st.sampled_from(sorted(QUESTIONS)), body=ANY_JSON.map(lambda plain: json.dumps(plain).encode()))
def test_any_json_is_read_as_a_count_or_as_nothing(vendor: str, body: bytes) -> None:
    slots = read_slots(vendor, body)
    assert slots is None or slots >= 1


@given(vendor=st.sampled_from(sorted(QUESTIONS)), body=st.binary(max_size=50) | st.just(b"[" * 100_000))
def test_any_bytes_are_read_without_raising(vendor: str, body: bytes) -> None:
    read_slots(vendor, body)

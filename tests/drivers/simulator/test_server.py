"""The simulator's server: pace, faults, limits and counts, over streams in memory and in virtual time."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from loopforge.drivers.registry import Kind
from loopforge.drivers.simulator.faults import COMMENT_EVERY_S, DRIP_BYTES, FAULTS, HUGE_BYTES
from loopforge.drivers.simulator.profile import Profile
from loopforge.drivers.simulator.server import IDLE_S, MAX_BODY_BYTES, REQUEST_S, Simulator
from tests.fakes.h11_client import Answer, Cut, H11Client

STEADY = Profile(first_token_s=1, tokens_per_s=2, answer_tokens=10)


@dataclass
class Stage:
    simulator: Simulator
    nursery: trio.Nursery

    def connect(self) -> H11Client:
        ours, theirs = memory_stream_pair()
        self.nursery.start_soon(self.simulator.serve_connection, theirs)
        return H11Client(ours)

    async def cut(self, model: str, *, stream: bool = True) -> Answer:
        """What comes of an answer that ends too early."""
        with pytest.raises(Cut) as caught:
            await self.connect().chat(model=model, stream=stream)
        return caught.value.answer


@asynccontextmanager
async def open_stage(profile: Profile = STEADY, **others: Profile) -> AsyncIterator[Stage]:
    simulator = Simulator({"acme": profile, **others})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(simulator.pacer.run)
        yield Stage(simulator, nursery)
        nursery.cancel_scope.cancel()


# -- pace -------------------------------------------------------------------------------------------------------------


async def test_tokens_come_at_their_time(autojump_clock: MockClock) -> None:
    async with open_stage() as stage:
        answer = await stage.connect().chat(stream=True)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.at == pytest.approx([1 + n / 2 for n in range(10)], abs=0.005)
    assert answer.events[-1] == "[DONE]"


async def test_a_whole_answer_comes_when_its_last_token_would_have(autojump_clock: MockClock) -> None:
    async with open_stage() as stage:
        answer = await stage.connect().chat()
    assert answer.at == pytest.approx([5.5])
    assert answer.json["object"] == "chat.completion"


async def test_jitter_moves_tokens_and_keeps_their_order(autojump_clock: MockClock) -> None:
    async with open_stage(Profile(first_token_s=1, tokens_per_s=2, answer_tokens=200, jitter=1)) as stage:
        first = await stage.connect().chat(stream=True)
        second = await stage.connect().chat(stream=True)
        other = await stage.connect().chat(stream=True, seed=2)
    assert first.at == sorted(first.at)
    assert first.at == pytest.approx(second.at, abs=0.005)
    assert first.at != pytest.approx(other.at, abs=0.005)
    steady = [1 + n / 2 for n in range(200)]
    assert all(abs(came - wanted) <= 0.5 for came, wanted in zip(first.at, steady, strict=True))
    assert any(abs(came - wanted) > 0.1 for came, wanted in zip(first.at, steady, strict=True))


async def test_hundreds_of_streams_keep_their_pace(autojump_clock: MockClock) -> None:
    late: list[float] = []

    async def one(client: H11Client) -> None:
        answer = await client.chat(stream=True)
        late.append(max(abs(came - (1 + n / 2)) for n, came in enumerate(answer.at)))

    async with open_stage() as stage, trio.open_nursery() as nursery:
        for _ in range(300):
            nursery.start_soon(one, stage.connect())
    assert len(late) == 300
    assert max(late) <= 0.005


async def test_a_flood_takes_no_time_and_packs_tokens_together(autojump_clock: MockClock) -> None:
    sends: list[float] = []

    async def count() -> None:
        sends.append(trio.current_time())

    async with open_stage(Profile(first_token_s=0, tokens_per_s=0, answer_tokens=100, tokens_per_send=25)) as stage:
        ours, theirs = memory_stream_pair()
        theirs.send_stream.send_all_hook = count
        stage.nursery.start_soon(stage.simulator.serve_connection, theirs)
        answer = await H11Client(ours).chat(stream=True)
        assert len(answer.text.split()) == 100
        await stage.simulator.stats.wait(lambda stats: stats.active == 0)
        assert stage.simulator.stats.of("acme").steps == 100
    assert sends == [0.0] * 6  # the head, four times 25 tokens, the end


async def test_a_client_that_reads_late_gets_all_that_was_due_and_then_the_pace_again(
    autojump_clock: MockClock,
) -> None:
    async with open_stage() as stage:
        client = stage.connect()
        await client.start("/acme/v1/chat/completions", json.dumps({"model": "m", "stream": True, "messages": [
            {"role": "user", "content": "hello"}]}))  # fmt: skip
        await trio.sleep(3.25)
        came = await client.stream.receive_some(65536)
    assert came.count(b'"content":" ') + came.count(b'"content":"') >= 5


# -- connections ------------------------------------------------------------------------------------------------------


async def test_a_connection_serves_one_request_after_another(autojump_clock: MockClock) -> None:
    async with open_stage() as stage:
        client = stage.connect()
        for stream in (True, False, True):
            assert (await client.chat(stream=stream)).status == 200
        await stage.simulator.stats.wait(lambda stats: stats.active == 0)
        assert stage.simulator.stats.connections == 1
        assert stage.simulator.stats.of("acme").whole == 3


async def test_a_connection_beyond_the_limit_is_closed_at_once(autojump_clock: MockClock) -> None:
    simulator = Simulator({"acme": STEADY}, max_connections=2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(simulator.pacer.run)
        stage = Stage(simulator, nursery)
        clients: list[H11Client] = []
        for _ in range(3):
            clients.append(stage.connect())
            await wait_all_tasks_blocked()
        assert await clients[2].stream.receive_some() == b""
        assert (await clients[0].chat()).status == 200
        assert simulator.stats.connections == 2
        nursery.cancel_scope.cancel()


async def test_an_idle_connection_is_closed(autojump_clock: MockClock) -> None:
    async with open_stage() as stage:
        client = stage.connect()
        assert await client.stream.receive_some() == b""
    assert trio.current_time() == IDLE_S


async def test_half_a_request_is_waited_for_no_longer_than_its_time(autojump_clock: MockClock) -> None:
    async with open_stage() as stage:
        client = stage.connect()
        await client.stream.send_all(b"POST /acme/v1/x HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        assert await client.stream.receive_some() == b""
    assert trio.current_time() == REQUEST_S


@pytest.mark.parametrize(
    ("sent", "status"),
    [(b"nonsense\r\n\r\n", 400), (b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 200_000 + b"\r\n\r\n", 431)],
)
async def test_what_is_not_http_is_refused(autojump_clock: MockClock, sent: bytes, status: int) -> None:
    async with open_stage() as stage:
        client = stage.connect()
        stage.nursery.start_soon(client.stream.send_all, sent)
        assert b"HTTP/1.1 %d" % status in await client.stream.receive_some(1000)


async def test_a_body_beyond_the_limit_is_refused(autojump_clock: MockClock) -> None:
    async with open_stage() as stage:
        client = stage.connect()
        with contextlib.suppress(Cut):
            answer = await client.ask("/acme/v1/chat/completions", bytes(MAX_BODY_BYTES + 1))
            assert answer.status == 413


async def test_a_client_may_ask_whether_to_go_on(autojump_clock: MockClock) -> None:
    async with open_stage() as stage:
        client = stage.connect()
        await client.stream.send_all(
            b"POST /x HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n"
        )
        assert (await client.stream.receive_some(1000)).startswith(b"HTTP/1.1 100")


async def test_http_1_0_gets_a_body_that_ends_with_the_connection(autojump_clock: MockClock) -> None:
    body = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}).encode()
    came = b""
    async with open_stage() as stage:
        client = stage.connect()
        head = b"POST /acme/v1/chat/completions HTTP/1.0\r\ncontent-length: %d\r\n\r\n" % len(body)
        await client.stream.send_all(head + body)
        while data := await client.stream.receive_some(1000):
            came += data
    assert b"chunked" not in came
    assert came.endswith(b"data: [DONE]\n\n")


async def test_head_gets_no_body(autojump_clock: MockClock) -> None:
    async with open_stage() as stage:
        answer = await stage.connect().ask("/acme/v1/models", method="HEAD")
    assert (answer.status, answer.body) == (404, b"")


async def test_a_provider_that_is_not_played_is_not_found(autojump_clock: MockClock) -> None:
    async with open_stage() as stage:
        assert (await stage.connect().chat("other")).status == 404
        stage.simulator.profiles["*"] = STEADY
        assert (await stage.connect().chat("other")).status == 200


async def test_a_kind_that_is_not_spoken_is_told_as_such(autojump_clock: MockClock) -> None:
    async with open_stage(Profile(kind=cast("Kind", "telepathy"))) as stage:
        answer = await stage.connect().chat()
        assert answer.status == 501
        assert "telepathy" in answer.json["error"]["message"]


async def test_providers_have_profiles_and_counts_of_their_own(autojump_clock: MockClock) -> None:
    async with open_stage(STEADY, slow=Profile(first_token_s=60)) as stage:
        await stage.connect().chat("acme")
        assert trio.current_time() < 10
        await stage.connect().chat("slow")
        assert trio.current_time() > 60
        assert {name: one.requests for name, one in stage.simulator.stats.providers.items()} == {"acme": 1, "slow": 1}


async def test_a_profile_changed_while_running_counts_for_the_next_request(autojump_clock: MockClock) -> None:
    async with open_stage() as stage:
        client = stage.connect()
        await client.chat()
        stage.simulator.profiles["acme"] = Profile(fault="500")
        assert (await client.chat()).status == 500


# -- limits and counts ------------------------------------------------------------------------------------------------


async def test_requests_beyond_the_limit_are_told_to_come_back(autojump_clock: MockClock) -> None:
    statuses: list[int] = []

    async def one(client: H11Client) -> None:
        statuses.append((await client.chat()).status)

    async with open_stage(Profile(max_concurrency=3, retry_after_s=7)) as stage:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(one, stage.connect())
        assert sorted(statuses) == [200, 200, 200, 429, 429]
        assert (await stage.connect().chat()).status == 200
        assert stage.simulator.stats.of("acme").peak == 5


async def test_a_client_that_leaves_is_noticed_and_its_place_is_free(autojump_clock: MockClock) -> None:
    async with open_stage(Profile(max_concurrency=1, first_token_s=1000)) as stage:
        for stream in (True, False):
            client = stage.connect()
            asked = json.dumps({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "hi"}]})
            await client.start("/acme/v1/chat/completions", asked)
            await stage.simulator.stats.wait(lambda stats: stats.active == 1)
            await client.stream.aclose()
            await stage.simulator.stats.wait(lambda stats: stats.active == 0 and stats.open_connections == 0)
        assert trio.current_time() == 0
        assert stage.simulator.stats.cancelled == 2
        assert stage.simulator.stats.of("acme").whole == 0


async def test_a_client_that_leaves_a_flood_is_noticed(autojump_clock: MockClock) -> None:
    async with open_stage(Profile(first_token_s=0, tokens_per_s=0, answer_tokens=10**9)) as stage:
        client = stage.connect()
        asked = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]})
        await client.start("/acme/v1/chat/completions", asked)
        for _ in range(20):
            await client.stream.receive_some(1000)
        await client.stream.aclose()
        await stage.simulator.stats.wait(lambda stats: stats.active == 0)
        assert stage.simulator.stats.cancelled == 1


async def test_a_next_request_sent_early_is_answered_in_its_turn(autojump_clock: MockClock) -> None:
    async with open_stage() as stage:
        client = stage.connect()
        first = json.dumps({"model": "a", "messages": [{"role": "user", "content": "hi"}]}).encode()
        request = b"POST /acme/v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (
            len(first),
            first,
        )
        await client.stream.send_all(request + request.replace(b'"a"', b'"b"'))
        came = b""
        while came.count(b"chat.completion") < 2:
            came += await client.stream.receive_some(10_000)
    assert came.index(b'"model":"a"') < came.index(b'"model":"b"')


async def test_counts_can_be_asked_for(autojump_clock: MockClock) -> None:
    async with open_stage() as stage:
        await stage.connect().chat(model="gpt-x", stream=True)
        await stage.connect().chat(model="fault-500")
        await stage.simulator.stats.wait(lambda stats: stats.active == 0)
        told = (await stage.connect().ask("/_simulator/stats", method="GET")).json
    assert told["requests"] == 2
    assert told["connections"] == 3
    provider = told["providers"]["acme"]
    assert provider["models"] == {"gpt-x": 1, "fault-500": 1}
    assert provider["statuses"] == {"200": 1, "500": 1}
    assert provider["faults"] == {"500": 1}
    assert (provider["whole"], provider["steps"], provider["active"]) == (2, 10, 0)


# -- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("401", 401),
        ("429", 429),
        ("quota", 429),
        ("500", 500),
        ("503", 503),
        ("529", 529),
        ("context", 400),
        ("no-model", 404),
    ],
)
async def test_faults_that_are_an_answer_come_at_once(autojump_clock: MockClock, name: str, status: int) -> None:
    async with open_stage() as stage:
        answer = await stage.connect().chat(model=f"fault-{name}", stream=True)
    assert answer.status == status
    assert "message" in answer.json["error"]
    assert trio.current_time() == 0


async def test_a_fault_that_does_not_exist_lists_those_that_do(autojump_clock: MockClock) -> None:
    async with open_stage() as stage:
        assert (await stage.connect().chat(model="fault-nonsense")).status == 404


async def test_a_fault_can_be_the_providers(autojump_clock: MockClock) -> None:
    async with open_stage(Profile(fault="503")) as stage:
        assert (await stage.connect().chat()).status == 503


async def test_a_fault_can_hit_a_share_of_requests_always_the_same_ones(autojump_clock: MockClock) -> None:
    async with open_stage(Profile(fault="500", fault_share=0.3)) as stage:
        client = stage.connect()
        first = [(await client.chat(user=str(n))).status for n in range(200)]
        second = [(await client.chat(user=str(n))).status for n in range(200)]
    assert first == second
    assert 30 < first.count(500) < 90


async def test_a_slow_first_token_is_slow_and_the_rest_is_not(autojump_clock: MockClock) -> None:
    async with open_stage() as stage:
        answer = await stage.connect().chat(model="fault-slow", stream=True)
    assert answer.at[0] == pytest.approx(31, abs=0.005)
    assert answer.at[-1] == pytest.approx(35.5, abs=0.005)


@pytest.mark.parametrize("name", ["silence", "stall", "endless", "comments"])
@pytest.mark.parametrize("stream", [True, False])
async def test_faults_without_end_last_until_the_client_leaves(
    autojump_clock: MockClock, name: str, stream: bool
) -> None:
    async with open_stage() as stage:
        client = stage.connect()
        with trio.move_on_after(3600) as patience:
            await client.chat(model=f"fault-{name}", stream=stream)
        assert patience.cancelled_caught
        assert stage.simulator.stats.active == 1
        await client.stream.aclose()
        await stage.simulator.stats.wait(lambda stats: stats.active == 0)
        assert stage.simulator.stats.cancelled == 1


async def received(stage: Stage, model: str, *, seconds: float, stream: bool = True) -> bytes:
    """What of an answer has come after some time, raw."""
    client = stage.connect()
    asked = json.dumps({"model": model, "stream": stream, "messages": [{"role": "user", "content": "hi"}]})
    await client.start("/acme/v1/chat/completions", asked)
    came = b""
    with trio.move_on_after(seconds):
        while data := await client.stream.receive_some(100_000):
            came += data
    return came


async def test_silence_sends_not_even_a_head(autojump_clock: MockClock) -> None:
    async with open_stage() as stage:
        assert await received(stage, "fault-silence", seconds=3600) == b""


async def test_comments_come_regularly_and_nothing_else(autojump_clock: MockClock) -> None:
    async with open_stage() as stage:
        came = await received(stage, "fault-comments", seconds=10 * COMMENT_EVERY_S - 0.5)
    assert came.count(b": OPENROUTER PROCESSING\n\n") == 10
    assert b"data:" not in came


async def test_blank_lines_keep_a_whole_answer_alive(autojump_clock: MockClock) -> None:
    async with open_stage() as stage:
        came = await received(stage, "fault-comments", seconds=9.5, stream=False)
    assert came.count(b"1\r\n\n\r\n") == 10


async def test_a_stall_stops_after_some_tokens(autojump_clock: MockClock) -> None:
    async with open_stage(Profile(fault_after_tokens=3, answer_tokens=10)) as stage:
        came = await received(stage, "fault-stall", seconds=3600)
        assert stage.simulator.stats.of("acme").steps == 3
    assert came.count(b'"content":"') == 4  # one more is the role's


async def test_an_endless_body_has_all_of_the_answer(autojump_clock: MockClock) -> None:
    async with open_stage() as stage:
        came = await received(stage, "fault-endless", seconds=3600)
        assert b"[DONE]" in came
        assert not came.endswith(b"0\r\n\r\n")
        assert b'"finish_reason":"stop"' in await received(stage, "fault-endless", seconds=3600, stream=False)


@pytest.mark.parametrize("name", ["cut", "reset-midway"])
async def test_a_cut_ends_the_connection_in_the_middle(autojump_clock: MockClock, name: str) -> None:
    async with open_stage() as stage:
        answer = await stage.cut(f"fault-{name}")
        assert len(answer.text.split()) == 5
        assert "[DONE]" not in answer.events
        half = await stage.cut(f"fault-{name}", stream=False)
        assert 0 < len(half.body) < int(half.headers["content-length"])
        await stage.simulator.stats.wait(lambda stats: stats.active == 0)
        assert stage.simulator.stats.of("acme").broken == 2


async def test_a_reset_comes_before_the_head(autojump_clock: MockClock) -> None:
    async with open_stage() as stage:
        assert (await stage.cut("fault-reset")).status == 0


async def test_a_malformed_event_stands_between_good_ones(autojump_clock: MockClock) -> None:
    async with open_stage() as stage:
        answer = await stage.connect().chat(model="fault-malformed", stream=True)
        events = answer.body.split(b"\n\n")
        bad = [event for event in events if event and not _is_good(event)]
        assert len(bad) == 1
        assert events[-2] == b"data: [DONE]"
        whole = await stage.connect().chat(model="fault-malformed")
        with pytest.raises(json.JSONDecodeError):
            assert whole.json


def _is_good(event: bytes) -> bool:
    data = event.removeprefix(b"data: ")
    try:
        return data == b"[DONE]" or bool(json.loads(data))
    except json.JSONDecodeError:
        return False


async def test_an_error_event_ends_the_stream(autojump_clock: MockClock) -> None:
    async with open_stage() as stage:
        answer = await stage.connect().chat(model="fault-error-event", stream=True)
        assert answer.status == 200
        assert answer.events[-1]["error"]["type"] == "server_error"
        assert answer.events[-2]["choices"]
        assert (await stage.connect().chat(model="fault-error-event")).json["error"]


async def test_a_drip_comes_a_few_bytes_at_a_time_and_is_whole_in_the_end(autojump_clock: MockClock) -> None:
    async with open_stage(Profile(answer_tokens=3)) as stage:
        dripped = await stage.connect().chat(model="fault-drip", stream=True)
        whole = await stage.connect().chat(model="fault-drip")
    assert dripped.events[-1] == "[DONE]"
    assert max(len(piece) for piece in dripped.pieces) == DRIP_BYTES
    assert whole.json["object"] == "chat.completion"


async def test_a_huge_body_is_huge(autojump_clock: MockClock) -> None:
    async with open_stage() as stage:
        client = stage.connect()
        asked = json.dumps({"model": "fault-huge", "stream": True, "messages": [{"role": "user", "content": "hi"}]})
        await client.start("/acme/v1/chat/completions", asked)
        size = 0
        while size < HUGE_BYTES:
            size += len(await client.stream.receive_some(2**20))


async def test_a_web_page_is_no_answer(autojump_clock: MockClock) -> None:
    async with open_stage() as stage:
        for stream in (True, False):
            answer = await stage.connect().chat(model="fault-wrong-type", stream=stream)
            assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
            assert answer.body.startswith(b"<!DOCTYPE html>")


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("stream", [True, False])
async def test_no_fault_breaks_the_server(autojump_clock: MockClock, name: str, stream: bool) -> None:
    async with open_stage(Profile(answer_tokens=3)) as stage:
        with trio.move_on_after(50), contextlib.suppress(Cut):
            await stage.connect().chat(model=f"fault-{name}", stream=stream)
        assert (await stage.connect().chat()).status == 200
        assert stage.simulator.stats.of("acme").faults == {name: 1}

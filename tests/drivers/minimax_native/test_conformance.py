"""Every recorded answer of this wire, and every one written for its SDKs: the same however the bytes are cut, and what
a second reading says it is.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from loopforge.drivers.simulator.minimax_native import WIRE
from loopforge.drivers.simulator.profile import Profile, ScriptedCall
from loopforge.drivers.simulator.wires import Asked, Call
from loopforge.drivers.turn import Reply, user
from tests.drivers.exchanges import Exchange, Outcome, cut_differently, read, recordings, sdk_replies
from tests.drivers.minimax_native.asking import KIND, LOOK, M2, M3, as_json, ask, driver_for
from tests.drivers.minimax_native.oracle import Verdict, interpret
from tests.recorded import MISSING
from tests.suites.conformance import ConformanceSuite

ANSWERS = (*recordings(KIND), *sdk_replies(KIND))
each_stream = pytest.mark.parametrize(
    "exchange",
    [exchange for exchange in ANSWERS if exchange.stream and b'"delta"' in exchange.body]
    or [pytest.param(None, marks=pytest.mark.skip(reason=MISSING))],
    ids=lambda exchange: exchange.id if exchange else "none",
)


def blocks_of(exchange: Exchange) -> tuple[list[bytes], int]:
    """The stream's events, and the number of the one with the finish reason."""
    blocks = exchange.body.split(b"\n\n")
    return blocks, next(number for number, block in enumerate(blocks) if b'"finish_reason"' in block)


def simulated() -> list[Exchange]:
    """Answers of the simulator: the endings, forms of thinking and calls that it knows."""
    script = (ScriptedCall(name="look", arguments={"at": 1}), ScriptedCall(name="look", arguments={"at": 2}))
    found = []
    for model in (M3, M2, "MiniMax-M1", "abab6.5s-chat"):
        for stream in (True, False):
            for tools in ((), (LOOK,)):
                turn = ask(user("hi"), model=model, stream=stream, tools=tools)
                request = driver_for().build_request(turn)
                profile = Profile(kind="minimax_native", answer_tokens=12, thinking_tokens=4, tool_calls=script)
                asked = WIRE.read(
                    Call(method="POST", path="/text/chatcompletion_v2", headers={}, body=request.body), profile
                )
                assert isinstance(asked, Asked)
                answer = WIRE.answer(asked, profile, random.Random(0))
                body = answer.body if answer.steps is None else b"".join(answer.steps)
                name = f"{model}, {'streamed' if stream else 'whole'}{', with calls' if tools else ''}"
                found.append(Exchange(id=name, vendor=KIND, body=body, model=model, headers=dict(answer.headers)))
    return found


class TestConformance(ConformanceSuite):
    kind = KIND
    driver = driver_for()
    exchanges = ANSWERS
    recorded = 3
    written = 20

    def may_warn(self, reply: Reply) -> set[str]:
        del reply
        return set()

    def second_reading(self, exchange: Exchange) -> Verdict:
        return interpret(exchange.status, exchange.body)

    def verdict_of(self, outcome: Outcome) -> Verdict:
        reply = outcome.reply
        if reply is None:
            return Verdict(error=outcome.error_class)
        usage = reply.usage
        return Verdict(
            text=reply.text,
            thinking=reply.message.thinking,
            calls=tuple((call.id, call.name, call.parsed) for call in reply.tool_calls),
            finish=reply.finish,
            usage=(usage.input, usage.output, usage.cache_read, usage.reasoning),
            model=reply.model_reported,
        )

    def test_a_reply_names_its_request(self, exchange: Exchange) -> None:
        reply = self.outcome_of(exchange).reply
        assert reply is None or reply.request_id


@pytest.mark.parametrize("exchange", simulated(), ids=lambda exchange: exchange.id)
def test_a_simulated_answer_is_what_a_second_reading_says_at_every_cut(exchange: Exchange) -> None:
    assert TestConformance().differences(exchange) == {}
    assert cut_differently(driver_for(), exchange) == []


@each_stream
def test_a_stream_without_what_follows_its_finish_reason_is_whole(exchange: Exchange) -> None:
    """Usage is lost with it, and nothing else."""
    blocks, place = blocks_of(exchange)
    whole = read(driver_for(), exchange).reply
    cut = read(driver_for(), replace(exchange, body=b"\n\n".join(blocks[: place + 1]) + b"\n\n")).reply
    assert whole is not None
    assert cut is not None
    assert (cut.message, cut.finish) == (whole.message, whole.finish)
    assert cut.usage.input is None


@each_stream
def test_a_stream_cut_before_its_finish_reason_is_broken_and_keeps_what_came(exchange: Exchange) -> None:
    blocks, place = blocks_of(exchange)
    outcome = read(driver_for(), replace(exchange, body=b"\n\n".join(blocks[:place]) + b"\n\n"))
    assert (outcome.error or {})["class"] == "StreamBroken"
    assert outcome.partial is not None


def test_a_whole_answer_may_come_as_bytes_of_any_white_space() -> None:
    body = as_json({"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]})
    for form in (body, b"\n\n" + body + b"\n", body.replace(b", ", b",\r\n  ")):
        reply = read(driver_for(), Exchange(id="", vendor=KIND, body=form)).reply
        assert reply is not None
        assert reply.text == "hi"

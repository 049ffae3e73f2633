"""Every recorded exchange of this wire: the same however the bytes are cut, and what a second reading says it is."""

from __future__ import annotations

import pytest

from loopforge.drivers.turn import Finished, OpaquePart, Reply, Thinking
from tests.drivers.dashscope_native.asking import KIND, driver_for
from tests.drivers.dashscope_native.oracle import Verdict, interpret
from tests.drivers.exchanges import Exchange, Outcome, cut_differently, read, recordings, sdk_replies
from tests.recorded import MISSING

LINES, REPLIES = 50, 15
EXCEPTIONS: dict[str, str] = {}
"""Exchanges in which the reader is right and the oracle is not, with the reason."""

exchanges = (*recordings(KIND), *sdk_replies(KIND))
each_exchange = pytest.mark.parametrize(
    "exchange",
    exchanges or [pytest.param(None, marks=pytest.mark.skip(reason=MISSING))],
    ids=lambda exchange: exchange.id if exchange else "none",
)


def verdict_of(reply: Reply) -> Verdict:
    """The reply in the oracle's words."""
    usage = reply.usage
    kept = [part.opaque.data for part in reply.message.content if isinstance(part, OpaquePart)]
    return Verdict(
        text=reply.text,
        thinking=reply.message.thinking,
        calls=tuple((call.id, call.name, call.parsed) for call in reply.tool_calls),
        kept=tuple(sorted(name for data in kept for name in data if name != "wire")),
        finish=reply.finish,
        usage=(usage.input, usage.output, usage.cache_read, usage.cache_write, usage.reasoning),
        model=reply.model_reported,
        request_id=reply.request_id,
    )


def differences(exchange: Exchange) -> dict[str, tuple[object, object]]:
    """Members in which the reader and the oracle differ. An error's verdict is its class alone."""
    outcome: Outcome = read(driver_for(), exchange)
    expected = interpret(exchange.status, exchange.body)
    error = str((outcome.error or {}).get("class", ""))
    if outcome.reply is None or expected.error:
        return {} if expected.error == error else {"error": (error, expected.error)}
    got = verdict_of(outcome.reply)
    names = Verdict.__dataclass_fields__
    return {
        name: (getattr(got, name), getattr(expected, name))
        for name in names
        if getattr(got, name) != getattr(expected, name)
    }


@each_exchange
def test_the_reply_is_what_a_second_reading_says(exchange: Exchange) -> None:
    found = differences(exchange)
    if exchange.id in EXCEPTIONS:
        assert found, f"the exception {EXCEPTIONS[exchange.id]!r} is no longer needed"
    else:
        assert found == {}


@each_exchange
def test_an_exchange_reads_the_same_at_every_cut(exchange: Exchange) -> None:
    assert cut_differently(driver_for(), exchange) == []


@each_exchange
def test_a_reply_finishes_once_with_ids_that_tell_its_calls_apart_and_with_its_thinking_marked(
    exchange: Exchange,
) -> None:
    outcome = read(driver_for(), exchange)
    if outcome.reply is not None:
        assert sum(isinstance(delta, Finished) for delta in outcome.deltas) == 1
        ids = [call.id for call in outcome.reply.tool_calls]
        assert all(ids)
        assert len(set(ids)) == len(ids)
        assert all(part.opaque for part in outcome.reply.message.content if isinstance(part, Thinking))
        expected = ("log-probabilities of the answer were not kept",) if b'"logprobs"' in exchange.body else ()
        assert outcome.reply.warnings == expected


@each_exchange
def test_each_frame_of_a_stream_is_an_event_whether_or_not_an_empty_line_follows(exchange: Exchange) -> None:
    if exchange.status == 200 and exchange.stream:
        assert read(driver_for(), exchange).events == exchange.body.count(b"\ndata:")


@pytest.mark.skipif(not exchanges, reason=MISSING)
def test_all_recordings_are_here_and_every_exception_is_one_of_them() -> None:
    assert (len(recordings(KIND)), len(sdk_replies(KIND))) == (LINES, REPLIES)
    assert {exchange.id for exchange in exchanges} >= EXCEPTIONS.keys()

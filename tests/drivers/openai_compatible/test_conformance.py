"""Every recorded exchange of this wire: the same however the bytes are cut, and what a second reading says it is.

All 778 bodies are read whole, byte by byte, in sevens, at random and, where known, as the network had cut them: two
million calls of `feed`, a second or two on one core.
"""

from __future__ import annotations

import pytest

from loopforge.drivers.turn import Finished, Reply
from tests.drivers.exchanges import Exchange, cut_differently
from tests.drivers.openai_compatible.oracle import Verdict, interpret
from tests.drivers.openai_compatible.recorded import driver_for, read, recordings
from tests.recorded import MISSING

LINES = 778
EXCEPTIONS: dict[str, str] = {}
"""Recordings in which the reader is right and the oracle is not, with the reason."""

each_recording = pytest.mark.parametrize(
    "exchange",
    recordings() or [pytest.param(None, marks=pytest.mark.skip(reason=MISSING))],
    ids=lambda exchange: exchange.id if exchange else "none",
)


def verdict_of(reply: Reply | None, error_class: str) -> Verdict:
    """The reply in the oracle's words."""
    if reply is None:
        return Verdict(error=error_class)
    usage = reply.usage
    return Verdict(
        text=reply.text,
        thinking=reply.message.thinking,
        refusal=reply.message.refusal,
        calls=tuple((call.name, call.parsed) for call in reply.tool_calls),
        call_ids=tuple(call.id for call in reply.tool_calls),
        finish=reply.finish,
        usage=(usage.input, usage.output, usage.cache_read, usage.reasoning),
        cost=usage.cost_usd,
        model=reply.model_reported,
    )


def differences(exchange: Exchange) -> dict[str, tuple[object, object]]:
    """Members in which the reader and the oracle differ. An error's verdict is its class alone."""
    outcome = read(exchange)
    expected = interpret(exchange.vendor, exchange.status, exchange.body)
    got = verdict_of(outcome.reply, str((outcome.error or {}).get("class", "")))
    if expected.error or got.error:
        return {} if expected.error == got.error else {"error": (got.error, expected.error)}
    found = {}
    for name in Verdict.__dataclass_fields__:
        ours, theirs = getattr(got, name), getattr(expected, name)
        if name == "call_ids":  # where the vendor sent none, ours is made up
            theirs = tuple(theirs_id or ours_id for ours_id, theirs_id in zip(ours, theirs, strict=True))
        if ours != theirs:
            found[name] = (ours, theirs)
    return found


@each_recording
def test_the_reply_is_what_a_second_reading_says(exchange: Exchange) -> None:
    found = differences(exchange)
    if exchange.id in EXCEPTIONS:
        assert found, f"the exception {EXCEPTIONS[exchange.id]!r} is no longer needed"
    else:
        assert found == {}


@each_recording
def test_a_recording_reads_the_same_at_every_cut(exchange: Exchange) -> None:
    assert cut_differently(driver_for(exchange.vendor), exchange) == []


@each_recording
def test_a_reply_finishes_once_and_with_ids_that_tell_its_calls_apart(exchange: Exchange) -> None:
    outcome = read(exchange)
    if outcome.reply is not None:
        assert sum(isinstance(delta, Finished) for delta in outcome.deltas) == 1
        ids = [call.id for call in outcome.reply.tool_calls]
        assert all(ids)
        assert len(set(ids)) == len(ids)


@pytest.mark.skipif(not recordings(), reason=MISSING)
def test_all_recordings_are_here_and_every_exception_is_one_of_them() -> None:
    assert len(recordings()) == LINES
    assert {exchange.id for exchange in recordings()} >= EXCEPTIONS.keys()
    assert sum(bool(exchange.chunk_sizes) for exchange in recordings()) == 44

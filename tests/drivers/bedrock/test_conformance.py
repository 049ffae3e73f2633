"""Every recorded exchange of this wire: the same however the bytes are cut, and what a second reading says it is."""

from __future__ import annotations

from typing import Any

import pytest

from loopforge.drivers.turn import Finished, Message, OpaquePart, Reply, Thinking
from tests.drivers.bedrock.asking import KIND, driver_for
from tests.drivers.bedrock.oracle import Verdict, interpret
from tests.drivers.exchanges import Exchange, cut_differently, read, recordings
from tests.recorded import MISSING

LINES = 132
EXCEPTIONS: dict[str, str] = {}
"""Recordings in which the reader is right and the oracle is not, with the reason."""

each_recording = pytest.mark.parametrize(
    "exchange",
    recordings(KIND) or [pytest.param(None, marks=pytest.mark.skip(reason=MISSING))],
    ids=lambda exchange: exchange.id if exchange else "none",
)


def kept(message: Message) -> tuple[Any, ...]:
    """What goes back as it came, from the opaque data of the parts."""
    found: list[Any] = []
    for part in message.content:
        if isinstance(part, Thinking) and part.opaque is not None:
            found.append(part.opaque.data["signature"])
        elif isinstance(part, OpaquePart):
            found.append(part.opaque.data.get("redacted") or part.opaque.data["block"])
    return tuple(found)


def verdict_of(reply: Reply | None, error_class: str) -> Verdict:
    """The reply in the oracle's words."""
    if reply is None:
        return Verdict(error=error_class)
    usage = reply.usage
    return Verdict(
        text=reply.text,
        thinking=reply.message.thinking,
        calls=tuple((call.id, call.name, call.parsed) for call in reply.tool_calls),
        kept=kept(reply.message),
        finish=reply.finish,
        usage=(usage.input, usage.output, usage.cache_read, usage.cache_write),
        request_id=reply.request_id,
    )


def differences(exchange: Exchange) -> dict[str, tuple[object, object]]:
    """Members in which the reader and the oracle differ. An error's verdict is its class alone."""
    outcome = read(driver_for(), exchange)
    expected = interpret(exchange.status, dict(exchange.headers), exchange.body)
    got = verdict_of(outcome.reply, str((outcome.error or {}).get("class", "")))
    if expected.error or got.error:
        return {} if expected.error == got.error else {"error": (got.error, expected.error)}
    return {
        name: (getattr(got, name), getattr(expected, name))
        for name in Verdict.__dataclass_fields__
        if getattr(got, name) != getattr(expected, name)
    }


@each_recording
def test_the_reply_is_what_a_second_reading_says(exchange: Exchange) -> None:
    found = differences(exchange)
    if exchange.id in EXCEPTIONS:
        assert found, f"the exception {EXCEPTIONS[exchange.id]!r} is no longer needed"
    else:
        assert found == {}


@each_recording
def test_a_recording_reads_the_same_at_every_cut(exchange: Exchange) -> None:
    assert cut_differently(driver_for(), exchange) == []


@each_recording
def test_a_reply_finishes_once_with_ids_that_tell_its_calls_apart(exchange: Exchange) -> None:
    outcome = read(driver_for(), exchange)
    if outcome.reply is not None:
        assert sum(isinstance(delta, Finished) for delta in outcome.deltas) == 1
        ids = [call.id for call in outcome.reply.tool_calls]
        assert all(ids)
        assert len(set(ids)) == len(ids)
        filtered = {"the answer was stopped by the service's filter (guardrail_intervened)"}
        expected = filtered if outcome.reply.finish == "content_filter" else {"empty answer"}
        assert set(outcome.reply.warnings) <= expected


@pytest.mark.skipif(not recordings(KIND), reason=MISSING)
def test_all_recordings_are_here_and_every_exception_is_one_of_them() -> None:
    assert len(recordings(KIND)) == LINES
    assert {exchange.id for exchange in recordings(KIND)} >= EXCEPTIONS.keys()

"""Every recorded exchange of this wire: the same however the bytes are cut, and what a second reading says it is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from loopforge.drivers.turn import (
    Audio,
    Document,
    Finished,
    Image,
    Message,
    OpaquePart,
    Reply,
    Text,
    Thinking,
    ToolCall,
)
from tests.drivers.exchanges import Exchange, Outcome, cut_differently, read, recordings
from tests.drivers.gemini.asking import KIND, driver_for
from tests.drivers.gemini.oracle import Verdict, interpret
from tests.recorded import MISSING

LINES = 246
VERBATIM = ("executableCode", "codeExecutionResult", "toolCall", "toolResponse")
EXCEPTIONS: dict[str, str] = {}
"""Recordings in which the reader is right and the oracle is not, with the reason."""

each_recording = pytest.mark.parametrize(
    "exchange",
    recordings(KIND) or [pytest.param(None, marks=pytest.mark.skip(reason=MISSING))],
    ids=lambda exchange: exchange.id if exchange else "none",
)


def signatures(message: Message) -> Iterator[tuple[str, str]]:
    """Every signature of the message and what it is on, put together from the neutral parts and their opaque data."""
    for part in message.content:
        if isinstance(part, OpaquePart):
            wire = part.opaque.data.get("part", {})
            if "thoughtSignature" in wire:
                kind = next((kind for kind in wire if kind in VERBATIM), f"text {wire.get('text')}")
                yield kind, wire["thoughtSignature"]
        elif isinstance(part, Text | Thinking | ToolCall) and part.opaque is not None:
            on = f"call {part.name}" if isinstance(part, ToolCall) else f"text {part.text}"
            if "signature" in part.opaque.data:
                yield on, part.opaque.data["signature"]


def kept(message: Message) -> Iterator[str]:
    for part in message.content:
        if isinstance(part, OpaquePart):
            yield from (kind for kind in part.opaque.data.get("part", {}) if kind in VERBATIM)


def verdict_of(reply: Reply) -> Verdict:
    """The reply in the oracle's words."""
    message, usage = reply.message, reply.usage
    return Verdict(
        text=reply.text,
        thinking=message.thinking,
        calls=tuple((call.name, call.parsed) for call in reply.tool_calls),
        ids=tuple(call.id if call.opaque and call.opaque.data.get("id") else None for call in reply.tool_calls),
        signatures=tuple(signatures(message)),
        kept=tuple(kept(message)),
        media=tuple(part.media_type for part in message.content if isinstance(part, Image | Audio | Document)),
        finish=reply.finish,
        usage=(usage.input, usage.output, usage.cache_read, usage.reasoning),
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
def test_a_reply_finishes_once_and_with_ids_that_tell_its_calls_apart(exchange: Exchange) -> None:
    outcome = read(driver_for(), exchange)
    if outcome.reply is not None:
        assert sum(isinstance(delta, Finished) for delta in outcome.deltas) == 1
        ids = [call.id for call in outcome.reply.tool_calls]
        assert all(ids)
        assert len(set(ids)) == len(ids)


@each_recording
def test_a_recorded_answer_warns_of_nothing_but_its_emptiness(exchange: Exchange) -> None:
    outcome = read(driver_for(), exchange)
    if outcome.reply is not None:
        assert set(outcome.reply.warnings) <= {"empty answer"}


@pytest.mark.skipif(not recordings(KIND), reason=MISSING)
def test_all_recordings_are_here_and_every_exception_is_one_of_them() -> None:
    assert len(recordings(KIND)) == LINES
    assert {exchange.id for exchange in recordings(KIND)} >= EXCEPTIONS.keys()
    assert sum(bool(exchange.chunk_sizes) for exchange in recordings(KIND)) == 5

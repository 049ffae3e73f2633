"""Every recorded exchange of this wire: the same however the bytes are cut, and what a second reading says it is."""

from __future__ import annotations

from collections.abc import Iterator

from loopforge.drivers.turn import (
    Audio,
    Document,
    Image,
    Message,
    OpaquePart,
    Text,
    Thinking,
    ToolCall,
)
from tests.drivers.exchanges import Exchange, Outcome, recordings
from tests.drivers.gemini.asking import KIND, driver_for
from tests.drivers.gemini.oracle import Verdict, interpret
from tests.suites.conformance import ConformanceSuite

VERBATIM = ("executableCode", "codeExecutionResult", "toolCall", "toolResponse")


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


class TestConformance(ConformanceSuite):
    kind = KIND
    driver = driver_for()
    exchanges = recordings(KIND)
    recorded = 246
    cut_by_the_network = 5

    def second_reading(self, exchange: Exchange) -> Verdict:
        return interpret(exchange.status, exchange.body)

    def verdict_of(self, outcome: Outcome) -> Verdict:
        reply = outcome.reply
        if reply is None:
            return Verdict(error=outcome.error_class)
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

"""Every recorded exchange of this wire: the same however the bytes are cut, and what a second reading says it is."""

from __future__ import annotations

from typing import Any

from loopforge.drivers.turn import Message, OpaquePart, Text, Thinking, ToolCall
from loopforge.drivers.wire import Driver
from tests.drivers.anthropic.asking import KIND, driver_for
from tests.drivers.anthropic.oracle import Verdict, interpret
from tests.drivers.exchanges import Exchange, Outcome, recordings
from tests.suites.conformance import ConformanceSuite


def kept_blocks(message: Message) -> tuple[Any, ...]:
    """The blocks that go back as they came, put together from the neutral parts and their opaque data."""
    blocks: list[dict[str, Any]] = []
    for part in message.content:
        if isinstance(part, OpaquePart) and "container" in part.opaque.data:
            continue
        if not isinstance(part, Text | Thinking | ToolCall | OpaquePart) or part.opaque is None:
            continue
        own = part.opaque.data["block"]
        match part:
            case Text():
                blocks.append({"type": "text", "text": part.text, **own})
            case Thinking():
                blocks.append({"type": "thinking", "thinking": part.text, **own})
            case ToolCall():
                blocks.append({"type": "tool_use", "id": part.id, "name": part.name, "input": part.parsed, **own})
            case OpaquePart():
                blocks.append(own)
    return tuple({name: value for name, value in block.items() if value not in (None, [])} for block in blocks)


class TestConformance(ConformanceSuite):
    kind = KIND
    exchanges = recordings(KIND)
    recorded = 294
    cut_by_the_network = 4

    def driver_for(self, exchange: Exchange) -> Driver:
        return driver_for(exchange.vendor)

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
            kept=kept_blocks(reply.message),
            finish=reply.finish,
            usage=(usage.input, usage.output, usage.cache_read, usage.cache_write, usage.reasoning),
            model=reply.model_reported,
        )

"""Every recorded exchange of this wire: the same however the bytes are cut, and what a second reading says it is."""

from __future__ import annotations

from typing import Any

from loopforge.drivers.turn import Message, OpaquePart, Reply, Thinking
from tests.drivers.bedrock.asking import KIND, driver_for
from tests.drivers.bedrock.oracle import Verdict, interpret
from tests.drivers.exchanges import Exchange, Outcome, recordings
from tests.suites.conformance import ConformanceSuite


def kept(message: Message) -> tuple[Any, ...]:
    """What goes back as it came, from the opaque data of the parts."""
    found: list[Any] = []
    for part in message.content:
        if isinstance(part, Thinking) and part.opaque is not None:
            found.append(part.opaque.data["signature"])
        elif isinstance(part, OpaquePart):
            found.append(part.opaque.data.get("redacted") or part.opaque.data["block"])
    return tuple(found)


class TestConformance(ConformanceSuite):
    kind = KIND
    driver = driver_for()
    exchanges = recordings(KIND)
    recorded = 132

    def may_warn(self, reply: Reply) -> set[str]:
        filtered = {"the answer was stopped by the service's filter (guardrail_intervened)"}
        return filtered if reply.finish == "content_filter" else {"empty answer"}

    def second_reading(self, exchange: Exchange) -> Verdict:
        return interpret(exchange.status, dict(exchange.headers), exchange.body)

    def verdict_of(self, outcome: Outcome) -> Verdict:
        reply = outcome.reply
        if reply is None:
            return Verdict(error=outcome.error_class)
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

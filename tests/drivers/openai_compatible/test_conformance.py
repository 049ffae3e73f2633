"""Every recorded exchange of this wire: the same however the bytes are cut, and what a second reading says it is.

All 778 bodies are read whole, byte by byte, in sevens, at random and, where known, as the network had cut them: two
million calls of `feed`, a second or two on one core.
"""

from __future__ import annotations

from typing import Any

from loopforge.drivers.wire import Driver
from tests.drivers.exchanges import Exchange, Outcome
from tests.drivers.openai_compatible.oracle import Verdict, interpret
from tests.drivers.openai_compatible.recorded import driver_for, recordings
from tests.suites.conformance import ConformanceSuite


class TestConformance(ConformanceSuite):
    kind = "openai_compatible"
    exchanges = recordings()
    recorded = 778
    cut_by_the_network = 44

    def driver_for(self, exchange: Exchange) -> Driver:
        return driver_for(exchange.vendor)

    def second_reading(self, exchange: Exchange) -> Verdict:
        return interpret(exchange.vendor, exchange.status, exchange.body)

    def agree(self, name: str, ours: Any, theirs: Any) -> bool:
        if name == "call_ids":  # where the vendor sent none, ours is made up
            return all(there in ("", here) for here, there in zip(ours, theirs, strict=True))
        return super().agree(name, ours, theirs)

    def verdict_of(self, outcome: Outcome) -> Verdict:
        reply = outcome.reply
        if reply is None:
            return Verdict(error=outcome.error_class)
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

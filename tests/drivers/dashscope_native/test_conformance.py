"""Every recorded exchange of this wire: the same however the bytes are cut, and what a second reading says it is."""

from __future__ import annotations

import pytest

from loopforge.drivers.turn import OpaquePart, Reply, Thinking
from tests.drivers.dashscope_native.asking import KIND, driver_for
from tests.drivers.dashscope_native.oracle import Verdict, interpret
from tests.drivers.exchanges import Exchange, Outcome, read, recordings, sdk_replies
from tests.recorded import MISSING
from tests.suites.conformance import ConformanceSuite

LOST = "log-probabilities of the answer were not kept"
exchanges = (*recordings(KIND), *sdk_replies(KIND))
each_exchange = pytest.mark.parametrize(
    "exchange",
    exchanges or [pytest.param(None, marks=pytest.mark.skip(reason=MISSING))],
    ids=lambda exchange: exchange.id if exchange else "none",
)


class TestConformance(ConformanceSuite):
    kind = KIND
    driver = driver_for()
    exchanges = exchanges
    recorded = 50
    written = 15

    def may_warn(self, reply: Reply) -> set[str]:
        del reply
        return {LOST}

    def second_reading(self, exchange: Exchange) -> Verdict:
        return interpret(exchange.status, exchange.body)

    def verdict_of(self, outcome: Outcome) -> Verdict:
        reply = outcome.reply
        if reply is None:
            return Verdict(error=outcome.error_class)
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


@each_exchange
def test_a_reply_marks_its_thinking_and_warns_of_lost_log_probabilities(exchange: Exchange) -> None:
    reply = read(driver_for(), exchange).reply
    if reply is not None:
        assert all(part.opaque for part in reply.message.content if isinstance(part, Thinking))
        assert reply.warnings == ((LOST,) if b'"logprobs"' in exchange.body else ())


@each_exchange
def test_each_frame_of_a_stream_is_an_event_whether_or_not_an_empty_line_follows(exchange: Exchange) -> None:
    if exchange.status == 200 and exchange.stream:
        assert read(driver_for(), exchange).events == exchange.body.count(b"\ndata:")

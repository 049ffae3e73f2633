"""Every recorded and every hand-written reply folds to what a second reading of it says, however its bytes are cut."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest

from loopforge.drivers.turn import Message, OpaquePart, Reply
from tests.drivers.exchanges import Exchange, Outcome, read, recordings
from tests.drivers.zhipu_native.asking import KIND, driver_for
from tests.drivers.zhipu_native.oracle import Verdict, interpret
from tests.recorded import MISSING, recordings_folder
from tests.suites.conformance import ConformanceSuite

SDK_FAILS_ON = {"error_200_with_error_body"}
"""Of the answers with status 200, those in which both SDKs see no error where there is one."""


@cache
def sdk_replies() -> tuple[tuple[Exchange, dict[str, Any]], ...]:
    """The hand-written replies, and what each SDK made of them."""
    folder = recordings_folder()
    if folder is None:
        return ()
    with (folder / f"{KIND}.sdk_replies.jsonl").open(encoding="utf-8") as lines:
        found = [json.loads(line) for line in lines]
    return tuple(
        (
            Exchange(
                id=line["scenario"],
                vendor="zhipu",
                status=line["status"],
                headers={name.lower(): value for name, value in line["headers"].items()},
                body=line["body"].encode(),
                stream=line["stream"],
                model="glm-4.7",
            ),
            line["parsed_by_sdk"],
        )
        for line in found
    )


def exchanges() -> list[Exchange]:
    return [*recordings(KIND), *(exchange for exchange, _ in sdk_replies())]


def hits(message: Message) -> tuple[str, ...]:
    found = [part.opaque.data["web_search"] for part in message.content if isinstance(part, OpaquePart)]
    return tuple(hit["title"] for hits in found for hit in hits)


class TestConformance(ConformanceSuite):
    kind = KIND
    driver = driver_for()
    exchanges = exchanges()
    recorded = 71
    written = 19
    of_error = tuple(Verdict.__dataclass_fields__)

    def may_warn(self, reply: Reply) -> set[str]:
        del reply
        return set()

    def second_reading(self, exchange: Exchange) -> Verdict:
        return interpret(exchange.status, dict(exchange.headers), exchange.body)

    def verdict_of(self, outcome: Outcome) -> Verdict:
        reply = outcome.reply
        if reply is None:
            return Verdict(error=outcome.error_class, partial=outcome.partial.text if outcome.partial else "")
        usage = reply.usage
        return Verdict(
            text=reply.text,
            thinking=reply.message.thinking,
            calls=tuple((call.id, call.name, call.parsed) for call in reply.tool_calls),
            finish=reply.finish,
            usage=(usage.input, usage.output, usage.cache_read, usage.reasoning),
            model=reply.model_reported,
            request_id=reply.request_id,
            hits=hits(reply.message),
        )


@pytest.mark.skipif(not sdk_replies(), reason=MISSING)
def test_each_answer_that_the_sdks_fail_on_is_there() -> None:
    assert {exchange.id for exchange, _ in sdk_replies()} >= SDK_FAILS_ON


@pytest.mark.parametrize(
    ("exchange", "parsed"),
    sdk_replies() or [pytest.param(None, None, marks=pytest.mark.skip(reason=MISSING))],
    ids=lambda value: value.id if isinstance(value, Exchange) else "",
)
def test_where_an_sdk_reads_an_answer_so_does_the_driver(exchange: Exchange, parsed: dict[str, Any]) -> None:
    outcome = read(driver_for(), exchange)
    for sdk in ("zhipuai", "zai"):
        assert (outcome.reply is not None) == (parsed[sdk]["ok"] and exchange.id not in SDK_FAILS_ON)
        if outcome.reply is None or not parsed[sdk]["ok"]:
            continue
        value = parsed[sdk]["value"]
        chunks = value if isinstance(value, list) else [value]
        messages = [item["choices"][0].get("delta") or item["choices"][0]["message"] for item in chunks]
        assert outcome.reply.text == "".join(message["content"] or "" for message in messages)
        assert outcome.reply.message.thinking == "".join(message["reasoning_content"] or "" for message in messages)

"""Every recorded and every hand-written reply folds to what a second reading of it says, however its bytes are cut."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest

from loopforge.drivers.turn import Finished, Message, OpaquePart, Reply
from tests.drivers.exchanges import Exchange, cut_differently, read, recordings
from tests.drivers.zhipu_native.asking import KIND, driver_for
from tests.drivers.zhipu_native.oracle import Verdict, interpret
from tests.recorded import MISSING, recordings_folder

LINES, REPLIES = 71, 19
EXCEPTIONS: dict[str, str] = {}
"""Recordings that the reader and the oracle read differently, each with the reason."""
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


each_exchange = pytest.mark.parametrize(
    "exchange",
    exchanges() or [pytest.param(None, marks=pytest.mark.skip(reason=MISSING))],
    ids=lambda exchange: exchange.id if exchange else "none",
)


def hits(message: Message) -> tuple[str, ...]:
    found = [part.opaque.data["web_search"] for part in message.content if isinstance(part, OpaquePart)]
    return tuple(hit["title"] for hits in found for hit in hits)


def verdict_of(reply: Reply) -> Verdict:
    """The reply in the oracle's words."""
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


def differences(exchange: Exchange) -> dict[str, tuple[object, object]]:
    """Members in which the reader and the oracle differ. An error's verdict is its class and what had come."""
    outcome = read(driver_for(), exchange)
    expected = interpret(exchange.status, dict(exchange.headers), exchange.body)
    if outcome.reply is None:
        partial = outcome.partial.text if outcome.partial else ""
        got = Verdict(error=str((outcome.error or {}).get("class", "")), partial=partial)
    else:
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
def test_a_recording_reads_the_same_at_every_cut(exchange: Exchange) -> None:
    assert cut_differently(driver_for(), exchange) == []


@each_exchange
def test_a_reply_finishes_once_and_with_ids_that_tell_its_calls_apart(exchange: Exchange) -> None:
    outcome = read(driver_for(), exchange)
    if outcome.reply is not None:
        assert sum(isinstance(delta, Finished) for delta in outcome.deltas) == 1
        ids = [call.id for call in outcome.reply.tool_calls]
        assert all(ids)
        assert len(set(ids)) == len(ids)


@each_exchange
def test_a_recorded_answer_warns_of_nothing(exchange: Exchange) -> None:
    outcome = read(driver_for(), exchange)
    if outcome.reply is not None:
        assert outcome.reply.warnings == ()


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


@pytest.mark.skipif(not recordings(KIND), reason=MISSING)
def test_all_recordings_are_here_and_every_exception_is_one_of_them() -> None:
    assert (len(recordings(KIND)), len(sdk_replies())) == (LINES, REPLIES)
    ids = {exchange.id for exchange in exchanges()}
    assert ids >= EXCEPTIONS.keys() | SDK_FAILS_ON
    assert len(ids) == LINES + REPLIES

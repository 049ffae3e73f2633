"""What the driver writes is what clients and the vendor's own SDKs sent for the same turn, and where, and how."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.drivers.dashscope_native.asking import KIND, driver_for
from tests.drivers.dashscope_native.recorded_turns import NotNeutralError, same_meaning, turn_named, turn_of
from tests.drivers.exchanges import Exchange, recordings, sdk_requests
from tests.recorded import MISSING

TAKEN = [exchange for exchange in recordings(KIND) if exchange.request]
NOT_NEUTRAL = {
    **dict.fromkeys(
        (
            "dashscope-a2beed761bfc", "dashscope-d2cf3b81fa99", "dashscope-ba2831ce75fe", "dashscope-4778f8956ae9",
            "dashscope-82a636812ca7",
        ),
        "a prompt without messages, the form of old",
    ),
    "dashscope-08bedb988322": "a sound by its URL",
    "dashscope-53008b21f260": "an image with limits on its pixels",
}  # fmt: skip
SDK_DIFFERENT = {
    "thinking_effort": "qwen-plus takes no effort: its thinking is switched on, as high as it goes",
    "legacy_prompt": "a prompt without messages: the driver sends a message",
}
HEADERS = ("x-dashscope-sse", "x-dashscope-workspace", "x-dashscope-datainspection", "x-dashscope-ossresourceresolve")

each_request = pytest.mark.parametrize(
    "exchange",
    TAKEN or [pytest.param(None, marks=pytest.mark.skip(reason=MISSING))],
    ids=lambda exchange: exchange.id if exchange else "none",
)
each_sdk_request = pytest.mark.parametrize(
    "line",
    sdk_requests(KIND) or [pytest.param(None, marks=pytest.mark.skip(reason=MISSING))],
    ids=lambda line: f"{line['sdk']} {line['scenario']}" if line else "none",
)


@each_request
def test_the_request_for_a_recorded_turn_is_the_recorded_one(exchange: Exchange) -> None:
    assert exchange.request is not None
    if exchange.id in NOT_NEUTRAL:
        with pytest.raises(NotNeutralError):
            turn_of(exchange.request)
        return
    request = driver_for().build_request(turn_of(exchange.request))
    assert same_meaning(json.loads(request.body)) == same_meaning(exchange.request)


@each_sdk_request
def test_the_request_for_a_turn_is_what_the_sdks_send(line: Mapping[str, Any]) -> None:
    sent = line["request"]
    settings = {name: value for name, value in sent["headers"].items() if name in HEADERS and name != "x-dashscope-sse"}
    request = driver_for(headers=settings).build_request(turn_named(line["turn"]))
    assert urlsplit(request.url).path == sent["path"]
    assert {name: request.headers.get(name) for name in HEADERS} == {
        name: sent["headers"].get(name) for name in HEADERS
    }
    same = same_meaning(json.loads(request.body)) == same_meaning(sent["json"])
    assert same == (line["scenario"] not in SDK_DIFFERENT), request.body


@pytest.mark.skipif(not TAKEN, reason=MISSING)
def test_every_exception_is_a_recorded_request() -> None:
    assert {exchange.id for exchange in TAKEN} >= NOT_NEUTRAL.keys()
    assert {line["scenario"] for line in sdk_requests(KIND)} >= SDK_DIFFERENT.keys()
    assert (len(TAKEN), len(sdk_requests(KIND))) == (47, 34)

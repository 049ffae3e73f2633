"""What the driver writes for the turn behind each request is what a client sent and the service took, or an SDK sends.

Where it is not, that is on purpose, and the table says why.
"""

from __future__ import annotations

import base64
import json
from functools import cache
from typing import Any

import pytest

from loopforge.drivers.zhipu_jwt import ZhipuJwt
from tests.drivers.exchanges import Exchange, recordings
from tests.drivers.zhipu_native.asking import KIND, body_of, driver_for
from tests.drivers.zhipu_native.recorded_turns import same_meaning, turn_of, turn_of_scenario
from tests.recorded import MISSING, recordings_folder

TAKEN = [exchange for exchange in recordings(KIND) if exchange.request and exchange.status == 200]
SCENARIOS = 27
NO_RESULT_ID = "a tool result without the id of its call"
DIFFERENT = {
    "zhipu-6e9d323623c8": NO_RESULT_ID,
    "zhipu-cbcf0e4da16e": NO_RESULT_ID,
    "zhipu-60f66e6e9e85": NO_RESULT_ID,
    "zhipu-61faff066a82": NO_RESULT_ID,
    "zhipu-4190109da3cb": NO_RESULT_ID,
}
"""Recorded requests that the driver would write otherwise."""
DELIBERATE: dict[str, tuple[set[str], str]] = {
    "temperature_two": ({"temperature", "top_p"}, "the service takes both ends of the range, the SDKs avoid them"),
    "thinking_effort": ({"reasoning_effort"}, "this model is not documented to take an effort"),
    "json_schema": ({"response_format"}, "json_schema is not documented: the driver asks for json_object"),
    "video_and_file": ({"messages"}, "no turn can hold a video"),
}
"""The members in which the driver writes another body than the SDKs, by scenario."""


@cache
def sdk_requests() -> tuple[dict[str, Any], ...]:
    folder = recordings_folder()
    if folder is None:
        return ()
    with (folder / f"{KIND}.sdk_requests.jsonl").open(encoding="utf-8") as lines:
        return tuple(json.loads(line) for line in lines)


each_request = pytest.mark.parametrize(
    "exchange",
    TAKEN or [pytest.param(None, marks=pytest.mark.skip(reason=MISSING))],
    ids=lambda exchange: exchange.id if exchange else "none",
)
each_scenario = pytest.mark.parametrize(
    "line",
    sdk_requests() or [pytest.param(None, marks=pytest.mark.skip(reason=MISSING))],
    ids=lambda line: f"{line['scenario']}-{line['sdk']}" if line else "none",
)


def without_streamed_tools(body: dict[str, Any]) -> dict[str, Any]:
    """tool_stream is the driver's own wish: what was recorded was sent by clients that did not know it."""
    return {name: value for name, value in body.items() if name != "tool_stream"}


@each_request
def test_the_request_for_a_recorded_turn_is_the_recorded_one(exchange: Exchange) -> None:
    assert exchange.request is not None
    recorded = json.loads(json.dumps(exchange.request))
    written = same_meaning(without_streamed_tools(body_of(turn_of(recorded))))
    expected = same_meaning(recorded)
    assert (written == expected) == (exchange.id not in DIFFERENT), (written, expected)


@each_request
def test_no_recorded_turn_loses_anything_but_a_promise(exchange: Exchange) -> None:
    notices = driver_for().notices(turn_of(json.loads(json.dumps(exchange.request))))
    assert all("does not promise" in notice for notice in notices)


@each_scenario
def test_the_request_is_what_the_vendors_own_sdk_sends(line: dict[str, Any]) -> None:
    members, _ = DELIBERATE.get(line["scenario"], (set(), ""))
    written = same_meaning(body_of(turn_of_scenario(line)))
    expected = same_meaning(json.loads(json.dumps(line["request"]["json"])))
    differing = {name for name in written.keys() | expected.keys() if written.get(name) != expected.get(name)}
    assert differing == members


@pytest.mark.parametrize(
    "line",
    [line for line in sdk_requests() if line["auth"]["credential"] == "jwt"]
    or [pytest.param(None, marks=pytest.mark.skip(reason=MISSING))],
    ids=lambda line: f"{line['scenario']}-{line['sdk']}" if line else "none",
)
async def test_a_token_has_the_form_of_the_sdks(line: dict[str, Any]) -> None:
    request = await ZhipuJwt("id", "secret").sign(driver_for().build_request(turn_of_scenario(line)))
    scheme, _, token = request.headers["authorization"].partition(" ")
    header, claims = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in token.split(".")[:2])
    lifetime_ms = claims["exp"] - claims["timestamp"]
    assert (scheme, header, sorted(claims), lifetime_ms) == (
        line["auth"]["scheme"],
        line["auth"]["header"],
        line["auth"]["claim_names"],
        line["auth"]["exp_minus_timestamp_ms"],
    )


@pytest.mark.skipif(not TAKEN, reason=MISSING)
def test_every_exception_is_a_recorded_request() -> None:
    assert {exchange.id for exchange in TAKEN} >= DIFFERENT.keys()
    assert len(sdk_requests()) == SCENARIOS
    assert {line["scenario"] for line in sdk_requests()} >= DELIBERATE.keys()

"""What the driver writes for the turn behind each recorded request is what a client sent, and the service took."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest

from tests.drivers.bedrock.asking import KIND, driver_for
from tests.drivers.bedrock.recorded_turns import NotNeutralError, same_meaning, turn_of
from tests.recorded import MISSING, recordings_folder

NOT_NEUTRAL = {
    "bedrock-3f779e602976": "a video",
    "bedrock-7df8ffaf8862": "a video",
    "bedrock-a1ca428f5eed": "content that is marked for a guardrail",
}
DIFFERENT = {
    "bedrock-bb530e90e241": "a document in S3: the service takes it, and Claude is shown nothing, as its answer says",
}


@cache
def taken() -> dict[str, dict[str, Any]]:
    """The lines with a request that the service answered, by id. The model stands in the line, not in the body."""
    folder = recordings_folder()
    if folder is None:
        return {}
    with (folder / f"{KIND}.jsonl").open(encoding="utf-8") as lines:
        found = [json.loads(line) for line in lines]
    return {line["id"]: line for line in found if line["response"]["status"] == 200}


each_request = pytest.mark.parametrize(
    "name", list(taken()) or [pytest.param("", marks=pytest.mark.skip(reason=MISSING))]
)


@each_request
def test_the_request_for_a_recorded_turn_is_the_recorded_one(name: str) -> None:
    line = taken()[name]
    request, model = line["request"]["json"], line["model"]
    if name in NOT_NEUTRAL:
        with pytest.raises(NotNeutralError):
            turn_of(request, model, stream=line["stream"])
        return
    turn, driver = turn_of(request, model, stream=line["stream"]), driver_for()
    sent = driver.build_request(turn)
    assert sent.url.removeprefix("https://bedrock.example") == line["request"]["url"].partition(".com")[2]
    if name in DIFFERENT:
        assert same_meaning(json.loads(sent.body)) != same_meaning(request)
        assert driver.notices(turn)
        return
    assert same_meaning(json.loads(sent.body)) == same_meaning(request)
    assert driver.notices(turn) == ()


@pytest.mark.skipif(not taken(), reason=MISSING)
def test_every_exception_is_a_recorded_request() -> None:
    assert len(taken()) == 126
    assert taken().keys() >= {*NOT_NEUTRAL, *DIFFERENT}

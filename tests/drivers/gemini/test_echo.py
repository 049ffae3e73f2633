"""What a model said goes back to it as it came: each recorded answer, as the history of the next request."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from loopforge.drivers.turn import Message, Reply, ToolResult, user
from tests.drivers.exchanges import Exchange, read, recordings
from tests.drivers.gemini.asking import KIND, ask, body_of, driver_for, notices_of
from tests.recorded import MISSING

Json = dict[str, Any]
NOT_SENT_BACK = ("thought", "inlineData", "partialArgs", "willContinue")
ANSWERS = [
    exchange
    for exchange in recordings(KIND)
    if exchange.status == 200 and not any(f'"{name}"' in exchange.body.decode() for name in NOT_SENT_BACK)
]

each_answer = pytest.mark.parametrize(
    "exchange",
    ANSWERS or [pytest.param(None, marks=pytest.mark.skip(reason=MISSING))],
    ids=lambda exchange: exchange.id if exchange else "none",
)


def recorded_parts(exchange: Exchange) -> list[Json]:
    """The parts of the answer in order: unsigned neighbouring texts joined, empty ones left out."""
    said = exchange.body.decode().strip()
    if said[0] in "{[":
        answer = json.loads(said)
        chunks = answer if isinstance(answer, list) else [answer]
    else:
        chunks = [json.loads(line[5:]) for line in re.split(r"\r?\n", said) if line.startswith("data:")]
    joined: list[Json] = []
    for chunk in chunks:
        for part in chunk["candidates"][0].get("content", {}).get("parts", []) if chunk.get("candidates") else []:
            if part == {"text": ""}:
                continue
            if part.keys() == {"text"} and joined and joined[-1].keys() == {"text"}:
                joined[-1] = {"text": joined[-1]["text"] + part["text"]}
            elif "functionCall" in part:
                wire = {"args": {}, **part["functionCall"]}
                joined.append({**part, "functionCall": wire})
            else:
                joined.append(part)
    return joined


def answered(reply: Reply) -> tuple[Message, ...]:
    """A conversation in which the reply's calls have results, given in the wrong order."""
    results = [ToolResult(call_id=call.id, name=call.name) for call in reversed(reply.tool_calls)]
    return (user("hello"), reply.message, *(Message(role="tool", content=(result,)) for result in results))


@each_answer
def test_a_recorded_answer_goes_back_to_its_model_part_for_part(exchange: Exchange) -> None:
    reply = read(driver_for(), exchange).reply
    if reply is None:
        pytest.skip("an answer that is an error has no history")
    turn = ask(*answered(reply), user("and now?"), model=exchange.model)
    parts = recorded_parts(exchange)
    contents = body_of(turn)["contents"]
    assert [content["parts"] for content in contents if content["role"] == "model"] == ([parts] if parts else [])
    calls = [part["functionCall"] for part in parts if "functionCall" in part]
    responses = [
        part["functionResponse"] for content in contents for part in content["parts"] if "functionResponse" in part
    ]
    assert [item["name"] for item in responses] == [call["name"] for call in calls]
    if all("id" in call for call in calls):
        assert [item["id"] for item in responses] == [call["id"] for call in calls]
    else:
        assert not any("id" in item for item in responses)
    assert notices_of(turn) == ""


@each_answer
def test_nothing_opaque_of_it_goes_to_another_model(exchange: Exchange) -> None:
    reply = read(driver_for(), exchange).reply
    if reply is None:
        pytest.skip("an answer that is an error has no history")
    turn = ask(*answered(reply), user("and now?"), model="another-model")
    sent = json.dumps(body_of(turn))
    signatures = [part["thoughtSignature"] for part in recorded_parts(exchange) if "thoughtSignature" in part]
    assert not any(signature in sent for signature in signatures)
    assert bool(notices_of(turn)) >= bool(signatures)

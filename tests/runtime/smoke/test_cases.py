"""What is asked, and which answers count."""

from __future__ import annotations

import json

import pytest

from loopforge.drivers.turn import Message, Opaque, OpaquePart, Refusal, Reply, Text, Thinking, ToolCall
from loopforge.runtime.smoke.cases import CASES, MAX_OUTPUT_TOKENS, CaseName, build_turn, trouble_with


def said(*parts: Text | Refusal | ToolCall | Thinking | OpaquePart) -> Reply:
    return Reply(message=Message(role="assistant", content=parts), finish="stop")


def called(arguments: str, name: str = "add") -> Reply:
    try:
        parsed = json.loads(arguments)
    except ValueError:
        parsed = None
    return said(ToolCall(id="1", name=name, arguments=arguments, parsed=parsed, invalid=parsed is None))


@pytest.mark.parametrize("case", CASES)
def test_every_turn_goes_to_the_provider_asked_for_and_is_bounded(case: CaseName) -> None:
    turn = build_turn(case, provider="glm", model="glm-5.3", deadline_s=60)
    assert (turn.provider, turn.model, turn.deadline_s) == ("glm", "glm-5.3", 60)
    assert turn.max_output_tokens == MAX_OUTPUT_TOKENS


def test_the_three_cases_are_a_whole_answer_a_stream_and_a_tool_call() -> None:
    turns = [build_turn(case, provider="p", model="m", deadline_s=1) for case in CASES]
    assert [(turn.stream, bool(turn.tools)) for turn in turns] == [(False, False), (True, False), (True, True)]


@pytest.mark.parametrize("case", ["text", "stream"])
def test_any_text_is_an_answer(case: CaseName) -> None:
    assert not trouble_with(case, said(Thinking(text="hm"), Text(text="Ready"), Text(text="!")), "Ready!")


@pytest.mark.parametrize(
    ("reply", "trouble"),
    [
        (said(), "it answered without text (finish stop)"),
        (said(Text(text=" \n")), "it answered without text (finish stop)"),
        (said(Thinking(text="only thought")), "it answered without text (finish stop)"),
        (said(Refusal(text="I will not")), "it declined: I will not"),
        (said(OpaquePart(opaque=Opaque(provider="p", model="m", data={}))), "it answered without text (finish stop)"),
    ],
)
def test_no_text_is_none(reply: Reply, trouble: str) -> None:
    assert trouble_with("text", reply, "") == trouble


@pytest.mark.parametrize("streamed", ["", "1 2", "1 2 3 3"])
def test_a_stream_must_have_carried_the_answer(streamed: str) -> None:
    assert "of an answer that has 5" in trouble_with("stream", said(Text(text="1 2 3")), streamed)


@pytest.mark.parametrize("arguments", ['{"a": 2, "b": 3}', '{"b":3,"a":2}', '{"a": 2.0, "b": "3"}'])
def test_the_call_asked_for_is_an_answer_however_its_numbers_are_written(arguments: str) -> None:
    assert not trouble_with("tool", called(arguments), "")


@pytest.mark.parametrize(
    ("reply", "trouble"),
    [
        (said(Text(text="5")), "without the tool call"),
        (called('{"a": 2, "b": 3}', name="subtract"), "a tool 'subtract' that was not offered"),
        (called('{"a": 2, "b"'), 'no JSON object: {"a": 2, "b"'),
        (called('{"a": 2, "b": 4}'), 'arguments are {"a": 2, "b": 4}'),
        (called('{"a": 2}'), 'arguments are {"a": 2}'),
        (called('{"a": 2, "b": 3, "c": null}'), "in place of"),
        (called('{"a": 2, "b": [3]}'), "in place of"),
    ],
)
def test_another_call_or_none_is_not(reply: Reply, trouble: str) -> None:
    assert trouble in trouble_with("tool", reply, "")

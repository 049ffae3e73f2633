"""The turns that a provider is tried with, and what counts as their answer. Small ones: each costs a few tokens.

Whether a model counts well is not the question; whether the wire carries text, a stream and a tool call is.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from loopforge.drivers.turn import Reply, Tool, ToolCall, Turn, user

CaseName = Literal["text", "stream", "tool"]
CASES: tuple[CaseName, ...] = get_args(CaseName)

KIND = "smoke"
MAX_OUTPUT_TOKENS = 2048
"""The answers need 60; models that think first take the rest, and some cannot be told not to."""

_SUM = {"a": 2, "b": 3}
_ADD = Tool(
    name="add",
    description="Adds two whole numbers.",
    parameters={
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
)
# tool_choice stays "auto": half of the vendors cannot be forced, or not while they think.
_PROMPTS: dict[CaseName, str] = {
    "text": "Answer with the single word: ready",
    "stream": "Count from 1 to 20, with blanks between the numbers.",
    "tool": 'Do not calculate yourself: call add {"a": 2, "b": 3} and wait for its result.',
}


def build_turn(case: CaseName, *, provider: str, model: str, deadline_s: float) -> Turn:
    """The case's turn, bound to this provider and model."""
    return Turn(
        kind=KIND,
        messages=(user(_PROMPTS[case]),),
        tools=(_ADD,) if case == "tool" else (),
        max_output_tokens=MAX_OUTPUT_TOKENS,
        stream=case != "text",
        provider=provider,
        model=model,
        deadline_s=deadline_s,
    )


def trouble_with(case: CaseName, reply: Reply, streamed: str) -> str:
    """What is wrong with the answer, "" when nothing is. `streamed`: all text deltas, joined."""
    if case == "tool":
        return _trouble_with_calls(reply.tool_calls)
    if not reply.text.strip():
        refusal = reply.message.refusal
        return f"it declined: {refusal}" if refusal else f"it answered without text (finish {reply.finish})"
    if case == "stream" and streamed != reply.text:
        return f"the stream carried {len(streamed)} characters of an answer that has {len(reply.text)}"
    return ""


def _trouble_with_calls(calls: tuple[ToolCall, ...]) -> str:
    if not calls:
        return "it answered without the tool call that was asked for"
    call = calls[0]
    if call.name != _ADD.name:
        return f"it called a tool {call.name!r} that was not offered"
    if call.invalid or call.parsed is None:
        return f"the call's arguments are no JSON object: {call.arguments}"
    if {name: _number(value) for name, value in call.parsed.items()} != _SUM:
        return f"the call's arguments are {call.arguments} in place of {_SUM}"
    return ""


def _number(value: Any) -> Any:
    """3.0 and "3" count as 3: the schema is the model's to keep, the wire's is that they arrive."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return value

"""A turn as the body of one request: what every model is asked alike, and what its family is asked differently.

Whatever the turn asks for and the model will not do is either refused here or noted (draft.py); nothing is dropped in
silence. `null` is never sent, an unset field is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from loopforge.drivers.json_values import merge, to_json
from loopforge.drivers.minimax_native.draft import WIRE, Draft
from loopforge.drivers.minimax_native.messages import add_instruction, build_messages
from loopforge.drivers.schemas import as_parameters
from loopforge.drivers.turn import JsonObject, JsonSchema, NamedTool, Tool, Turn

_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")
_ANY_OBJECT: Final = "Answer with one JSON object and nothing else."
_OF_SCHEMA: Final = "Answer with JSON and nothing else. It must follow this JSON Schema: "
_MAX_TOKENS_FIELDS: Final = ("max_tokens", "max_completion_tokens")
_LEAST_TOP_P: Final = 0.01  # 0 is refused


def build_body(turn: Turn, draft: Draft, extra_body: Mapping[str, object]) -> JsonObject:
    """The request body of the turn. Raises TurnRefused for what cannot be asked; fills `draft.notices`."""
    body: JsonObject = {
        "model": turn.model,
        "messages": build_messages(turn.messages, draft),
        "stream": turn.stream,
    }
    if turn.stream:
        body["stream_options"] = {"include_usage": True}
    _add_thinking(body, turn, draft)
    _add_sampling(body, turn, draft)
    _add_tools(body, turn, draft)
    _add_output(body, turn, draft)
    for options in (extra_body, turn.provider_options.get(WIRE, {})):
        _merge_options(body, options)
    return body


def _merge_options(body: JsonObject, options: Mapping[str, object]) -> None:
    """The person's own fields win; of the two names for the token limit the other one leaves."""
    for name, other in (_MAX_TOKENS_FIELDS, _MAX_TOKENS_FIELDS[::-1]):
        if options.get(name) is not None and options.get(other) is None:
            body.pop(other, None)
    merge(body, options)


def _add_thinking(body: JsonObject, turn: Turn, draft: Draft) -> None:
    if draft.profile.split:
        body["reasoning_split"] = True  # in a field of its own, not in tags
    wanted = turn.thinking
    if wanted is None:
        return
    off = wanted in ("off", 0)
    match draft.profile.thinking:
        case "none":
            if not off:
                draft.note(f"{draft.model} is not known to think: the thinking asked for was not sent")
        case "always" if off:
            draft.note(f"{draft.model} cannot be told to stop thinking")
        case "adaptive" if off:
            body["thinking"] = {"type": "disabled"}
        case kind:
            draft.note(f"{draft.model} takes no thinking effort or budget: it thinks as much as it does by itself")
            if kind == "adaptive":
                body["thinking"] = {"type": "adaptive"}


def _add_sampling(body: JsonObject, turn: Turn, draft: Draft) -> None:
    profile = draft.profile
    if turn.max_output_tokens is not None:
        wanted = turn.max_output_tokens
        if profile.most_tokens and wanted > profile.most_tokens:
            draft.note(f"{draft.model} writes at most {profile.most_tokens} tokens: {wanted} were asked for")
            wanted = profile.most_tokens
        body[profile.max_tokens] = wanted
    if turn.temperature is not None:
        body["temperature"] = _clamped(turn.temperature, "temperature", *profile.temperature, draft)
    if turn.top_p is not None:
        body["top_p"] = _clamped(turn.top_p, "top_p", _LEAST_TOP_P, 1.0, draft)
    if turn.stop:
        draft.note("this wire knows no stop strings: they were not sent")
    if turn.seed is not None:
        draft.note("this wire knows no seed: it was not sent")


def _clamped(value: float, what: str, lowest: float, highest: float, draft: Draft) -> float:
    clamped = min(max(value, lowest), highest)
    if clamped != value:
        draft.note(f"{draft.model} takes a {what} from {lowest:g} to {highest:g}: {clamped:g} was sent")
    return clamped


# -- tools ------------------------------------------------------------------------------------------------------------


def _add_tools(body: JsonObject, turn: Turn, draft: Draft) -> None:
    choice = turn.tool_choice
    if not turn.tools and (isinstance(choice, NamedTool) or choice == "required"):
        raise draft.refuse("the turn forces a tool call and offers no tools", "add the tool or drop tool_choice")
    names = [tool.name for tool in turn.tools]
    for name in names:
        if not _TOOL_NAME.fullmatch(name):
            raise draft.refuse(f"{name!r} is no tool name", "use 1 to 64 letters, digits, _ and -")
    if len(set(names)) < len(names):
        raise draft.refuse("two tools have the same name", "give each tool its own name")
    if isinstance(choice, NamedTool) and choice.name not in names:
        raise draft.refuse(f"tool_choice names {choice.name!r}, which the turn does not offer", "add that tool")
    if not turn.tools:
        return
    offered = turn.tools
    if isinstance(choice, NamedTool):
        offered = tuple(tool for tool in offered if tool.name == choice.name)
        draft.note(f"this wire forces no tool call: only {choice.name!r} was offered")
    elif choice == "required":
        draft.note("this wire forces no tool call: tool_choice was sent as auto")
    body["tools"] = [_tool(tool, draft) for tool in offered]
    body["tool_choice"] = "none" if choice == "none" else "auto"
    if turn.parallel_tool_calls is False:
        draft.note("this wire cannot be told to make one call at a time: parallel_tool_calls was not sent")


def _tool(tool: Tool, draft: Draft) -> JsonObject:
    if tool.strict:
        draft.note("this wire does not enforce a tool's schema: strict was not sent")
    draft.note_cache(tool.cache)
    function: JsonObject = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    return {"type": "function", "function": {**function, "parameters": as_parameters(tool.parameters)}}


# -- structured output ------------------------------------------------------------------------------------------------


def _add_output(body: JsonObject, turn: Turn, draft: Draft) -> None:
    if turn.output == "text":
        return
    if not draft.profile.schema:
        if isinstance(turn.output, JsonSchema):
            draft.note(f"{draft.model} takes no schema: it stands in the prompt and is not enforced")
            sentence = _OF_SCHEMA + to_json(turn.output.schema)
        else:
            draft.note(f"{draft.model} has no JSON mode: the prompt asks for it and nothing enforces it")
            sentence = _ANY_OBJECT
        add_instruction(body["messages"], sentence)
        return
    schema: JsonObject = {"name": "answer", "schema": {"type": "object"}}
    if isinstance(turn.output, JsonSchema):
        name = _NOT_IN_NAMES.sub("_", turn.output.name)[:64] or "answer"
        schema = {"name": name, "schema": turn.output.schema}
        if turn.output.description:
            draft.note("this wire knows no description of an answer's schema: it was not sent")
    body["response_format"] = {"type": "json_schema", "json_schema": schema}

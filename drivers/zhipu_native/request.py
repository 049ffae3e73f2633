"""A turn as the body of one request.

Whatever the turn asks for and the model will not do is either refused here or noted (draft.py); nothing is dropped in
silence. `null` is never sent, an unset field is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isnan
from typing import Final

from loopforge.drivers.json_values import merge, to_json
from loopforge.drivers.schemas import CannotInlineError, as_parameters, inline_definitions
from loopforge.drivers.turn import JsonObject, JsonSchema, NamedTool, Tool, Turn
from loopforge.drivers.zhipu_native.draft import WIRE, Draft
from loopforge.drivers.zhipu_native.messages import add_instruction, build_messages
from loopforge.drivers.zhipu_native.profiles import Level

MAX_TOKENS: Final = 131_072
MAX_TOOLS: Final = 128
_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LOW_BUDGET, _MEDIUM_BUDGET = 2048, 8192  # tokens up to which a budget is that effort: this wire takes none
_TEMPERATURES = (0.0, 1.0)
_TOP_PS = (0.01, 1.0)
_JSON_SENTENCE = "Answer with one JSON object and nothing else."


def build_body(turn: Turn, draft: Draft, extra_body: Mapping[str, object]) -> JsonObject:
    """The request body of the turn. Raises TurnRefused for what cannot be asked; fills `draft.notices`."""
    options = (extra_body, turn.provider_options.get(WIRE, {}))
    messages = build_messages(turn.messages, draft, keeps_thinking=_keeps_thinking(options))
    body: JsonObject = {"model": turn.model, "messages": messages, "stream": turn.stream}
    _add_thinking(body, turn, draft)
    _add_sampling(body, turn, draft)
    _add_tools(body, turn, draft)
    _add_output(body, turn, draft)
    for fields in options:
        _merge_options(body, fields)
    return body


def _keeps_thinking(options: tuple[Mapping[str, object], ...]) -> bool:
    """The person wants reasoning of earlier answers read again, which is taken as a whole or not at all."""
    kept = False
    for fields in options:
        thinking = fields.get("thinking")
        if isinstance(thinking, Mapping) and "clear_thinking" in thinking:
            kept = thinking["clear_thinking"] is False
    return kept


def _merge_options(body: JsonObject, options: Mapping[str, object]) -> None:
    """The person's own fields win; tools (a web search, a knowledge base) go beside those of the turn."""
    tools = options.get("tools")
    if isinstance(tools, list) and "tools" in body:
        options = {**options, "tools": [*body["tools"], *tools]}
    merge(body, options)


# -- thinking ---------------------------------------------------------------------------------------------------------


def _add_thinking(body: JsonObject, turn: Turn, draft: Draft) -> None:
    wanted = turn.thinking
    if wanted is None:
        return
    if wanted == "off" or (isinstance(wanted, int) and wanted <= 0):
        _switch_off(body, draft)
        return
    if isinstance(wanted, int):
        level: Level = "low" if wanted <= _LOW_BUDGET else "medium" if wanted <= _MEDIUM_BUDGET else "high"
        if draft.profile.efforts:
            draft.note(f"this wire takes no thinking budget: effort {level!r} was asked for")
    else:
        level = wanted
    _ask_for(body, level, draft)


def _switch_off(body: JsonObject, draft: Draft) -> None:
    profile = draft.profile
    if profile.thinks == "switch":
        body["thinking"] = {"type": "disabled"}
    elif lowest := profile.efforts.get("off"):
        body["reasoning_effort"] = lowest
        draft.note(f"{draft.model} cannot stop thinking: effort {lowest!r}, its lowest, was asked for")
    elif profile.thinks == "always":
        draft.note(f"{draft.model} cannot be told to stop thinking")


def _ask_for(body: JsonObject, level: Level, draft: Draft) -> None:
    profile = draft.profile
    if profile.thinks == "never":
        draft.note(f"{draft.model} does not think: the thinking asked for was not sent")
        return
    if profile.thinks == "switch":
        body["thinking"] = {"type": "enabled"}
    if not profile.efforts:
        draft.note(f"{draft.model} takes no thinking effort: it thinks as much as it does by itself")
        return
    word = profile.efforts[level]
    body["reasoning_effort"] = word
    if word != level:
        draft.note(f"{draft.model} has no thinking effort {level!r}: {word!r} was asked for")


# -- sampling ---------------------------------------------------------------------------------------------------------


def _add_sampling(body: JsonObject, turn: Turn, draft: Draft) -> None:
    if turn.max_output_tokens is not None:
        body["max_tokens"] = min(turn.max_output_tokens, MAX_TOKENS)
        if turn.max_output_tokens > MAX_TOKENS:
            draft.note(f"no model of this wire writes more than {MAX_TOKENS} tokens: that was sent as max_tokens")
    if turn.temperature is not None:
        body["temperature"] = _within("temperature", round(turn.temperature, 2), turn.temperature, _TEMPERATURES, draft)
    if turn.top_p is not None:
        body["top_p"] = _within("top_p", turn.top_p, turn.top_p, _TOP_PS, draft)
    stops = [stop for stop in turn.stop if stop]
    if stops and not draft.profile.stop:
        draft.note(f"{draft.model} takes no stop strings: they were not sent")
    elif stops:
        body["stop"] = stops[:1]
        if len(stops) > 1:
            draft.note("this wire takes one stop string: the others were not sent")
    if turn.seed is not None:
        body["seed"] = turn.seed


def _within(name: str, value: float, asked: float, bounds: tuple[float, float], draft: Draft) -> float:
    lowest, highest = bounds
    if isnan(asked):
        raise draft.refuse(f"{name} is no number", f"use one from {lowest:g} to {highest:g}")
    sent = min(max(value, lowest), highest)
    if sent != asked:
        draft.note(f"{name} {asked:g} was sent as {sent:g}: this wire takes {lowest:g} to {highest:g}, in hundredths")
    return sent


# -- tools ------------------------------------------------------------------------------------------------------------


def _add_tools(body: JsonObject, turn: Turn, draft: Draft) -> None:
    if not turn.tools:
        if isinstance(turn.tool_choice, NamedTool) or turn.tool_choice == "required":
            raise draft.refuse("the turn forces a tool call and offers no tools", "add the tool or drop tool_choice")
        return
    names = [tool.name for tool in turn.tools]
    for name in names:
        if not _TOOL_NAME.fullmatch(name):
            raise draft.refuse(f"{name!r} is no tool name", "use 1 to 64 letters, digits, _ and -")
    if len(set(names)) < len(names):
        raise draft.refuse("two tools have the same name", "give each tool its own name")
    if len(names) > MAX_TOOLS:
        raise draft.refuse(f"this wire takes {MAX_TOOLS} tools, not {len(names)}", "offer fewer tools")
    if turn.tool_choice == "none":
        return  # there is no word for it: without tools none is called
    body["tools"] = [_tool(tool, draft) for tool in turn.tools]
    if turn.stream and draft.profile.tool_stream:
        body["tool_stream"] = True
    _add_tool_choice(body, turn, names, draft)
    if turn.parallel_tool_calls is False:
        draft.note("this wire cannot be told to make one tool call at a time")


def _tool(tool: Tool, draft: Draft) -> JsonObject:
    function: JsonObject = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    parameters = as_parameters(tool.parameters)
    try:
        parameters = inline_definitions(parameters)
    except CannotInlineError as exc:
        draft.note(f"the schema of tool {tool.name!r} keeps its reference {exc}: the model may not follow it")
    function["parameters"] = parameters
    if tool.strict:
        draft.note("this wire does not enforce a tool's schema: strict was not sent")
    if tool.cache:
        draft.note("cache marks on tools were not sent")
    return {"type": "function", "function": function}


def _add_tool_choice(body: JsonObject, turn: Turn, names: list[str], draft: Draft) -> None:
    """Only "auto" is documented; the form that names a tool was seen to be obeyed, so it stands for the others."""
    choice = turn.tool_choice
    if choice == "auto":
        return
    if isinstance(choice, NamedTool) and choice.name not in names:
        raise draft.refuse(f"tool_choice names {choice.name!r}, which the turn does not offer", "add that tool")
    if not isinstance(choice, NamedTool) and len(names) > 1:
        draft.note("this wire has no word for a tool call of any kind: the model may answer without one")
        return
    name = choice.name if isinstance(choice, NamedTool) else names[0]
    body["tool_choice"] = {"type": "function", "function": {"name": name}}
    draft.note("this wire does not promise to obey tool_choice: the model may answer otherwise")


# -- JSON answers -----------------------------------------------------------------------------------------------------


def _add_output(body: JsonObject, turn: Turn, draft: Draft) -> None:
    if turn.output == "text":
        return
    if isinstance(turn.output, JsonSchema):
        draft.note("this wire takes no schema of an answer: it stands in the prompt and is not enforced")
        about = f"{turn.output.description}\n" if turn.output.description else ""
        schema = to_json(turn.output.schema)
        add_instruction(body["messages"], f"{about}{_JSON_SENTENCE} It must follow this JSON Schema: {schema}")
    elif not _mentions_json(body["messages"]):
        draft.note('JSON answers want the word JSON in the prompt: "Answer with one JSON object" was added')
        add_instruction(body["messages"], _JSON_SENTENCE)
    body["response_format"] = {"type": "json_object"}


def _mentions_json(messages: list[JsonObject]) -> bool:
    for message in messages:
        content = message["content"]
        texts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
        if any("json" in text.lower() for text in texts):
            return True
    return False

"""A turn as the body of one request: what every vendor is asked alike, and what its profile asks differently.

Whatever the turn asks for and the vendor will not do is either refused here or noted (draft.py); nothing is dropped
in silence. `null` is never sent, an unset field is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from loopforge.drivers.json_values import merge, to_json
from loopforge.drivers.openai_compatible.draft import Draft
from loopforge.drivers.openai_compatible.messages import add_instruction, build_messages
from loopforge.drivers.schemas import (
    CannotInlineError,
    as_parameters,
    close_objects,
    inline_definitions,
    push_type_into_any_of,
    why_not_strict,
)
from loopforge.drivers.turn import JsonObject, JsonSchema, NamedTool, Tool, Turn
from loopforge.drivers.vendors import Level, Thinking

_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LOW_BUDGET, _MEDIUM_BUDGET = 2048, 8192  # tokens up to which a budget is that effort, where only efforts can be asked
_JSON_SENTENCE = "Answer with one JSON object and nothing else."
_MAX_TOKENS_FIELDS = ("max_tokens", "max_completion_tokens")


def build_body(turn: Turn, draft: Draft, extra_body: Mapping[str, object]) -> JsonObject:
    """The request body of the turn. Raises TurnRefused for what cannot be asked; fills `draft.notices`."""
    profile = draft.profile
    stream = turn.stream or profile.stream_only
    messages = build_messages(turn.messages, draft)
    body: JsonObject = {"model": turn.model, "messages": messages, "stream": stream}
    if stream and profile.include_usage:
        body["stream_options"] = {"include_usage": True}
    merge(body, profile.extra_body)
    thinks = _add_thinking(body, turn, draft)
    if profile.keep_thinking and any("reasoning_content" in message for message in messages):
        merge(body, profile.keep_thinking)
    _add_sampling(body, turn, draft, thinks=thinks)
    _add_tools(body, turn, draft, thinks=thinks)
    _add_output(body, turn, draft)
    for options in (extra_body, turn.provider_options.get("openai_compatible", {})):
        _merge_options(body, options)
    return body


def _merge_options(body: JsonObject, options: Mapping[str, object]) -> None:
    """The person's own fields win; of the two names for the token limit the other one leaves."""
    for name, other in (_MAX_TOKENS_FIELDS, _MAX_TOKENS_FIELDS[::-1]):
        if options.get(name) is not None and options.get(other) is None:
            body.pop(other, None)
    merge(body, options)


def _put(body: JsonObject, path: tuple[str, ...], value: object) -> None:
    nested = value
    for name in reversed(path[1:]):
        nested = {name: nested}
    merge(body, {path[0]: nested})


# -- thinking ---------------------------------------------------------------------------------------------------------


def _add_thinking(body: JsonObject, turn: Turn, draft: Draft) -> bool:
    """Ask for the turn's thinking; True when the model will think, as far as one can know."""
    thinking = draft.profile.thinking
    if turn.tools and draft.profile.tools_switch_thinking_off:
        if turn.thinking not in (None, "off", 0) or (turn.thinking is None and thinking.default):
            draft.note(f"{draft.model} does not think in turns with tools on this API: its thinking is switched off")
        _put(body, thinking.effort, "none")
        return False
    wanted = turn.thinking
    if wanted is None:
        return thinking.default
    if isinstance(wanted, int) and wanted > 0:
        if thinking.budget:
            merge(body, thinking.on or {})
            _put(body, thinking.budget, wanted)
            return True
        wanted = "low" if wanted <= _LOW_BUDGET else "medium" if wanted <= _MEDIUM_BUDGET else "high"
        if thinking.efforts:
            draft.note(f"{draft.vendor} takes no thinking budget: effort {wanted!r} was asked for")
    if wanted == "off" or isinstance(wanted, int):
        return _switch_off(body, thinking, draft)
    return _ask_effort(body, wanted, thinking, draft)


def _switch_off(body: JsonObject, thinking: Thinking, draft: Draft) -> bool:
    if thinking.off:
        merge(body, thinking.off)
        return False
    if word := thinking.efforts.get("off"):
        _put(body, thinking.effort, word)
        if word != "none":
            draft.note(f"{draft.model} cannot stop thinking: effort {word!r}, its lowest, was asked for")
        return word != "none"
    if thinking.default:
        draft.note(f"{draft.model} cannot be told to stop thinking")
    return thinking.default


def _ask_effort(body: JsonObject, level: Level, thinking: Thinking, draft: Draft) -> bool:
    merge(body, thinking.on or {})
    if word := thinking.efforts.get(level):
        _put(body, thinking.effort, word)
        if word != level:
            draft.note(f"{draft.model} has no thinking effort {level!r}: {word!r} was asked for")
        return True
    if thinking.budget and thinking.budgets:
        if level in thinking.budgets:
            _put(body, thinking.budget, thinking.budgets[level])
        return True
    if thinking.on or thinking.default:
        draft.note(f"{draft.model} takes no thinking effort: it thinks as much as it does by itself")
        return True
    draft.note(f"{draft.model} is not known to think: the thinking asked for was not sent")
    return False


# -- sampling ---------------------------------------------------------------------------------------------------------


def _add_sampling(body: JsonObject, turn: Turn, draft: Draft, *, thinks: bool) -> None:
    profile = draft.profile
    if turn.max_output_tokens is not None:
        body[profile.max_tokens] = turn.max_output_tokens
    for name, value in (("temperature", turn.temperature), ("top_p", turn.top_p)):
        if value is None:
            continue
        if profile.sampling == "never" or (profile.sampling == "not_thinking" and thinks):
            when = "" if profile.sampling == "never" else " while it thinks"
            draft.note(f"{draft.model} takes no {name}{when}: it was not sent")
            continue
        body[name] = _clamped(value, draft) if name == "temperature" else value
    if turn.stop:
        stops = list(turn.stop[: profile.max_stops])
        if len(stops) < len(turn.stop):
            draft.note(f"{draft.model} takes {profile.max_stops or 'no'} stop strings: the rest was not sent")
        if stops:
            body["stop"] = stops
    if turn.seed is not None:
        body[profile.seed] = turn.seed


def _clamped(temperature: float, draft: Draft) -> float:
    lowest, highest = draft.profile.temperature
    clamped = min(max(temperature, lowest), highest)
    if clamped == temperature:
        return temperature
    draft.note(f"{draft.vendor} takes temperatures from {lowest:g} to {highest:g}: {clamped:g} was sent")
    return clamped


# -- tools ------------------------------------------------------------------------------------------------------------


def _add_tools(body: JsonObject, turn: Turn, draft: Draft, *, thinks: bool) -> None:
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
    body["tools"] = [_tool(tool, draft) for tool in turn.tools]
    if body["stream"]:
        merge(body, draft.profile.stream_extra)
    _add_tool_choice(body, turn, names, draft, thinks=thinks)
    if turn.parallel_tool_calls is not None:
        if draft.profile.parallel_tool_calls:
            body["parallel_tool_calls"] = turn.parallel_tool_calls
        else:
            draft.note(f"{draft.vendor} takes no parallel_tool_calls: it was not sent")


def _tool(tool: Tool, draft: Draft) -> JsonObject:
    function: JsonObject = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    parameters = as_parameters(tool.parameters)
    if tool.strict and draft.profile.strict_tools:
        parameters, strict = _strict(parameters, f"tool {tool.name!r}", draft)
        function |= {"parameters": parameters, "strict": strict}
    else:
        if tool.strict:
            draft.note(f"{draft.vendor} does not enforce a tool's schema: strict was not sent")
        elif tool.strict is False and draft.profile.strict_tools:
            function["strict"] = False
        function["parameters"] = _schema_for(parameters, f"tool {tool.name!r}", draft)
    if tool.cache:
        draft.note("cache marks on tools were not sent")
    return {"type": "function", "function": function}


def _add_tool_choice(body: JsonObject, turn: Turn, names: list[str], draft: Draft, *, thinks: bool) -> None:
    choice = turn.tool_choice
    if choice == "auto":
        return  # what every vendor does by itself, and the only thing some take
    if choice == "none":
        body["tool_choice"] = "none"
        return
    if isinstance(choice, NamedTool) and choice.name not in names:
        raise draft.refuse(f"tool_choice names {choice.name!r}, which the turn does not offer", "add that tool")
    forced = draft.profile.forced_tools
    if forced == "no" or (forced == "not_thinking" and thinks):
        when = "" if forced == "no" else " while it thinks"
        draft.note(f"{draft.model} cannot be forced to call a tool{when}: tool_choice was not sent")
        return
    if forced == "unsure":
        draft.note(f"{draft.vendor} may ignore tool_choice")
    if not isinstance(choice, NamedTool):
        body["tool_choice"] = draft.profile.required
    elif forced == "strings":
        body["tool_choice"] = draft.profile.required
        body["tools"] = [tool for tool in body["tools"] if tool["function"]["name"] == choice.name]
        if len(names) > 1:
            draft.note(f"{draft.model} cannot be told which tool to call: only {choice.name!r} was offered")
    else:
        body["tool_choice"] = {"type": "function", "function": {"name": choice.name}}


# -- structured output ------------------------------------------------------------------------------------------------


def _add_output(body: JsonObject, turn: Turn, draft: Draft) -> None:
    if turn.output == "text":
        return
    profile = draft.profile
    if turn.tools and not profile.json_with_tools:
        draft.note(f"{draft.vendor} takes no JSON mode together with tools: the prompt asks for JSON instead")
        _ask_for_json(body, turn, draft)
    elif isinstance(turn.output, JsonSchema):
        if profile.structured == "object":
            draft.note(f"{draft.model} takes no schema: it stands in the prompt and is not enforced")
            _ask_for_json(body, turn, draft)
            body["response_format"] = {"type": "json_object"}
        else:
            body["response_format"] = {"type": "json_schema", "json_schema": _json_schema(turn.output, draft)}
    elif profile.json_object:
        if not _mentions_json(body["messages"]):
            draft.note('JSON mode wants the word JSON in the prompt: "Answer with one JSON object" was added')
            add_instruction(body["messages"], _JSON_SENTENCE, draft)
        body["response_format"] = {"type": "json_object"}
    else:
        schema = {"name": "answer", "schema": {"type": "object"}}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}


def _json_schema(output: JsonSchema, draft: Draft) -> JsonObject:
    wire: JsonObject = {"name": output.name}
    if output.description:
        wire["description"] = output.description
    if draft.profile.structured != "strict":  # a grammar made of the schema: always enforced
        return {**wire, "schema": _schema_for(output.schema, "the answer", draft)}
    if not output.strict:
        return {**wire, "schema": _schema_for(output.schema, "the answer", draft), "strict": False}
    schema, strict = _strict(output.schema, "the answer", draft)
    return {**wire, "schema": schema, "strict": strict}


def _strict(schema: JsonObject, whose: str, draft: Draft) -> tuple[JsonObject, bool]:
    closed = close_objects(schema)
    if why := why_not_strict(closed):
        draft.note(f"the schema of {whose} cannot be enforced: {why}")
        return _schema_for(schema, whose, draft), False
    return closed, True


def _schema_for(schema: JsonObject, whose: str, draft: Draft) -> JsonObject:
    if draft.profile.inline_defs:
        try:
            schema = inline_definitions(schema)
        except CannotInlineError as exc:
            draft.note(f"the schema of {whose} keeps its reference {exc}: {draft.vendor} may not follow it")
    if draft.profile.no_type_beside_any_of:
        schema = push_type_into_any_of(schema)
    return schema


def _ask_for_json(body: JsonObject, turn: Turn, draft: Draft) -> None:
    sentence = _JSON_SENTENCE
    if isinstance(turn.output, JsonSchema):
        sentence += f" It must follow this JSON Schema: {to_json(turn.output.schema)}"
    add_instruction(body["messages"], sentence, draft)


def _mentions_json(messages: list[JsonObject]) -> bool:
    for message in messages:
        content = message["content"]
        texts = [content] if isinstance(content, str) else [part.get("text", "") for part in content or ()]
        if any("json" in text.lower() for text in texts):
            return True
    return False

"""A turn as the body of one request: what every model is asked alike, and what its generation is asked differently.

Whatever the turn asks for and the model will not do is either refused here or noted (draft.py); nothing is dropped in
silence. `null` is never sent, an unset field is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from loopforge.drivers.anthropic.cache import MAX_MARKS, place_marks
from loopforge.drivers.anthropic.draft import Draft
from loopforge.drivers.anthropic.messages import Conversation, build_conversation, shortened
from loopforge.drivers.anthropic.profiles import VERSION_WITHOUT_SAMPLING, Profile
from loopforge.drivers.grammars import EnforcedSchemas, as_input
from loopforge.drivers.json_values import merge, to_json
from loopforge.drivers.turn import Effort, JsonObject, JsonSchema, NamedTool, Tool, Turn

SCHEMA_BETA: Final = "structured-outputs-2025-11-13"
MIN_BUDGET: Final = 1024
_BUDGETS: Mapping[Effort, int] = {"low": 2048, "medium": 10_000, "high": 16_384}
_LOW_BUDGET, _MEDIUM_BUDGET = 2048, 10_000  # tokens up to which a budget is that effort, where only efforts are taken
_LEAST_TOP_P = 0.95  # while a model thinks by budget
_JSON_SENTENCE = "Answer with one JSON object and nothing else."
_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]+")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")

AnswerForm = Literal["text", "format", "beta", "tool", "prompt"]


def build_body(turn: Turn, draft: Draft, extra_body: Mapping[str, object], version: str) -> JsonObject:
    """The request body of the turn. Raises TurnRefused for what cannot be asked; fills `draft.notices`.

    `version`: the `anthropic-version` it goes out with.
    """
    conversation = build_conversation(turn.messages, draft)
    _check_prefill(conversation, turn, draft)
    enforced = EnforcedSchemas(draft)
    form, output = _form_and_schema(turn, conversation, enforced, draft)
    tools = _tools(turn, form, enforced, draft)
    options = (extra_body, turn.provider_options.get("anthropic", {}))
    if not tools and conversation.called and not any(option.get("tools") for option in options):
        tools = [_stub(name) for name in conversation.called]
        draft.note("the history calls tools and the turn offers none: they were declared, and may not be called")
    thinking, max_tokens = _fitting(_thinking(turn, conversation, draft), turn, draft)

    body: JsonObject = {"model": turn.model, "max_tokens": max_tokens}
    if system := _system(conversation.system, form, turn, draft):
        body["system"] = system
    body |= {"messages": conversation.messages, "stream": turn.stream}
    if tools:
        body["tools"] = tools
        _add_tool_choice(body, turn, form, thinking, draft)
    if conversation.container:
        body["container"] = conversation.container
    body |= thinking
    if output is not None:
        _add_format(body, output, form)
    _add_sampling(body, turn, draft, version)
    _place_marks(draft, options)
    body["messages"] = [{**message, "content": shortened(message["content"])} for message in conversation.messages]
    for option in options:
        merge(body, option)
    return body


def answer_form(turn: Turn, profile: Profile) -> AnswerForm:
    """How the answer of the turn is asked for. The reader has to know it, too: a tool's input may be the answer.

    "format", "beta": the wire's own field, if a grammar can be made of the schema; "tool": a tool that the model must
    call; "prompt": in words.
    """
    if turn.output == "text":
        return "text"
    if not isinstance(turn.output, JsonSchema):
        return "prompt"  # this wire has no JSON mode without a schema
    if profile.structured != "tool":
        return profile.structured
    may_force = profile.forced_tools == "yes" or (
        profile.forced_tools == "not_thinking" and not _asks_for_budget(turn, profile)
    )
    is_object = turn.output.schema.get("type") == "object" or "properties" in turn.output.schema
    return "tool" if may_force and is_object and not isinstance(turn.tool_choice, NamedTool) else "prompt"


def answer_tool(turn: Turn, profile: Profile) -> str:
    """The name of the tool whose input is the turn's answer, "" when there is none. No tool of the turn has it."""
    if answer_form(turn, profile) != "tool" or not isinstance(turn.output, JsonSchema):
        return ""
    name = _NOT_IN_NAMES.sub("_", turn.output.name)[:60] or "answer"
    taken = {tool.name for tool in turn.tools}
    while name in taken:
        name += "_"
    return name


def _form_and_schema(
    turn: Turn, conversation: Conversation, enforced: EnforcedSchemas, draft: Draft
) -> tuple[AnswerForm, JsonObject | None]:
    """The form that the answer is asked for in after all, with the schema that is enforced, if one is."""
    form = answer_form(turn, draft.profile)
    if conversation.prefilled and form != "text":
        return "prompt", None  # a grammar begins at the beginning, and so does a call
    if form not in ("format", "beta") or not isinstance(turn.output, JsonSchema):
        return form, None
    schema = enforced.add(turn.output.schema, "the answer")
    return ("prompt", None) if schema is None else (form, schema)


# -- the conversation's frame -----------------------------------------------------------------------------------------


def _system(blocks: Sequence[JsonObject], form: AnswerForm, turn: Turn, draft: Draft) -> str | list[JsonObject]:
    blocks = [*blocks]
    if form == "prompt":
        sentence = _JSON_SENTENCE
        if isinstance(turn.output, JsonSchema):
            sentence = (
                f"Answer with JSON and nothing else. It must follow this JSON Schema: {to_json(turn.output.schema)}"
            )
        draft.note("the answer's form stands in the system prompt and is not enforced")
        if len(blocks) == 1 and blocks[0].keys() == {"type", "text"}:
            blocks[0] = {"type": "text", "text": f"{blocks[0]['text']}\n\n{sentence}"}
        else:
            blocks.append({"type": "text", "text": sentence})
    if any(mark.place == "system" for mark in draft.marks):
        return blocks
    return "\n\n".join(block["text"] for block in blocks)


def _check_prefill(conversation: Conversation, turn: Turn, draft: Draft) -> None:
    if not conversation.prefilled:
        return
    if not draft.profile.prefill:
        raise draft.refuse(
            f"{draft.model} does not continue an assistant message", "end the turn with a user message or a tool result"
        )
    if turn.thinking not in (None, "off", 0):
        draft.note("a model does not think when it continues an assistant message: the thinking asked for was not sent")
    last = conversation.messages[-1]["content"][-1]
    if last["type"] == "text" and last["text"] != last["text"].rstrip():
        draft.note("white space at the end of the last assistant message was left out: this wire takes none there")
        last["text"] = last["text"].rstrip()


def _place_marks(draft: Draft, options: Sequence[Mapping[str, object]]) -> None:
    automatic = any(option.get("cache_control") for option in options)  # marks the last block, and counts
    for note in place_marks(draft.marks, MAX_MARKS - automatic):
        draft.note(note)


# -- thinking and length ----------------------------------------------------------------------------------------------


def _asks_for_budget(turn: Turn, profile: Profile) -> bool:
    """Whether the turn's thinking is asked for by a budget, the older way, which does not go with forced tools."""
    if turn.thinking in (None, "off", 0):
        return False
    return profile.thinking == "manual" or (profile.thinking == "either" and isinstance(turn.thinking, int))


def _thinking(turn: Turn, conversation: Conversation, draft: Draft) -> JsonObject:
    """The members `thinking` and `output_config` that ask for the turn's thinking."""
    wanted, profile = turn.thinking, draft.profile
    if wanted is None:
        return {}
    if wanted in ("off", 0) or conversation.prefilled:
        return _switched_off(draft)
    if profile.thinking == "none":
        draft.note(f"{draft.model} is not known to think: the thinking asked for was not sent")
        return {}
    if _asks_for_budget(turn, profile):
        return _by_budget(wanted, draft)
    if isinstance(wanted, int):
        wanted = _as_effort(wanted, draft)
    thinking: JsonObject = {} if profile.thinking == "always" else {"thinking": {"type": "adaptive"}}
    if profile.efforts:
        return thinking | {"output_config": {"effort": wanted}}
    draft.note(f"{draft.model} takes no thinking effort here: it thinks as much as it does by itself")
    return thinking


def _switched_off(draft: Draft) -> JsonObject:
    match draft.profile.thinking:
        case "none":
            return {}
        case "always" if draft.profile.efforts:
            draft.note(f"{draft.model} cannot stop thinking: effort 'low', its lowest, was asked for")
            return {"output_config": {"effort": "low"}}
        case "always":
            draft.note(f"{draft.model} cannot be told to stop thinking")
            return {}
    return {"thinking": {"type": "disabled"}}


def _by_budget(wanted: Effort | int, draft: Draft) -> JsonObject:
    if not draft.profile.budgets:  # the wire's form wants one; it is not read
        effort = _as_effort(wanted, draft) if isinstance(wanted, int) else wanted
        return {"thinking": _enabled(MIN_BUDGET), "output_config": {"effort": effort}}
    budget = wanted if isinstance(wanted, int) else _BUDGETS[wanted]
    if budget < MIN_BUDGET:
        draft.note(f"the smallest thinking budget is {MIN_BUDGET} tokens: it was asked for")
    return {"thinking": _enabled(max(budget, MIN_BUDGET))}


def _enabled(budget: int) -> JsonObject:
    return {"type": "enabled", "budget_tokens": budget}


def _as_effort(budget: int, draft: Draft) -> Effort:
    effort: Effort = "low" if budget <= _LOW_BUDGET else "medium" if budget <= _MEDIUM_BUDGET else "high"
    if draft.profile.efforts:
        draft.note(f"{draft.model} takes no thinking budget: effort {effort!r} was asked for")
    return effort


def _fitting(thinking: JsonObject, turn: Turn, draft: Draft) -> tuple[JsonObject, int]:
    """The thinking, and `max_tokens` for it and the answer together.

    A budget is put on top of an answer that would not fit beside it, and made smaller where the model's limit is met.
    """
    profile = draft.profile
    most = profile.most_tokens
    budget = int(thinking.get("thinking", {}).get("budget_tokens", 0))
    wanted = profile.tokens(stream=turn.stream) if turn.max_output_tokens is None else turn.max_output_tokens
    if most and wanted > most:
        draft.note(f"{draft.model} writes at most {most} tokens: {wanted} were asked for")
        wanted = most
    if wanted > budget and turn.max_output_tokens is not None:
        return thinking, wanted
    if most and wanted + budget > most:
        left = most - min(wanted, most // 2)
        if left < budget:
            draft.note(f"thinking and answer share {most} tokens: the thinking budget was made {left}")
            thinking = {**thinking, "thinking": _enabled(left)}
        return thinking, most
    if budget and turn.max_output_tokens is not None:
        draft.note(f"max_tokens counts the thinking, too: {budget} for it and {wanted} for the answer were asked for")
    return thinking, wanted + budget


# -- tools ------------------------------------------------------------------------------------------------------------


def _tools(turn: Turn, form: AnswerForm, enforced: EnforcedSchemas, draft: Draft) -> list[JsonObject]:
    if not turn.tools and (isinstance(turn.tool_choice, NamedTool) or turn.tool_choice == "required"):
        raise draft.refuse("the turn forces a tool call and offers no tools", "add the tool or drop tool_choice")
    names = [tool.name for tool in turn.tools]
    if isinstance(turn.tool_choice, NamedTool) and turn.tool_choice.name not in names:
        raise draft.refuse(
            f"tool_choice names {turn.tool_choice.name!r}, which the turn does not offer", "add that tool"
        )
    most = draft.profile.tool_name_chars
    for name in names:
        if not _TOOL_NAME.fullmatch(name) or len(name) > most:
            raise draft.refuse(f"{name!r} is no tool name", f"use 1 to {most} letters, digits, _ and -")
    if len(set(names)) < len(names):
        raise draft.refuse("two tools have the same name", "give each tool its own name")
    tools = [_tool(tool, enforced, draft) for tool in turn.tools]
    if form == "tool" and isinstance(turn.output, JsonSchema):
        draft.note(f"{draft.model} takes no schema for its answer here: a tool asks for it, and nothing enforces it")
        schema, told = as_input(turn.output.schema)
        description = turn.output.description or "Gives the answer. Call it once, with the whole answer."
        tools.append(
            {
                "name": answer_tool(turn, draft.profile),
                "description": f"{description}\n\n{told}" if told else description,
                "input_schema": schema,
            }
        )
    return tools


def _tool(tool: Tool, enforced: EnforcedSchemas, draft: Draft) -> JsonObject:
    wire: JsonObject = {"name": tool.name}
    description = tool.description
    schema: JsonObject | None = None
    if tool.strict and draft.profile.strict_tools:
        schema = enforced.add(tool.parameters, f"tool {tool.name!r}", tool=True)
    elif tool.strict:
        draft.note(f"{draft.model} does not enforce a tool's schema here: strict was not sent")
    if schema is not None and schema.get("type") == "object":
        wire |= {"input_schema": schema, "strict": True}
    else:
        wire["input_schema"], told = as_input(tool.parameters)
        if told:
            draft.note(f"the schema of tool {tool.name!r} combines others at its root: it was described in words")
            description = f"{description}\n\n{told}" if description else told
    if description:
        wire["description"] = description
    return draft.mark(wire, tool.cache, "tools")


def _stub(name: str) -> JsonObject:
    return {"name": name, "input_schema": {"type": "object", "properties": {}}}


def _add_tool_choice(body: JsonObject, turn: Turn, form: AnswerForm, thinking: JsonObject, draft: Draft) -> None:
    choice = _tool_choice(turn, form, draft)
    profile = draft.profile
    by_budget = thinking.get("thinking", {}).get("type") == "enabled"
    if choice["type"] in ("any", "tool") and (
        profile.forced_tools == "no" or (profile.forced_tools == "not_thinking" and by_budget)
    ):
        when = "" if profile.forced_tools == "no" else " while it thinks"
        if choice["type"] == "tool":
            body["tools"] = [tool for tool in body["tools"] if tool["name"] == choice["name"]]
            draft.marks[:] = [
                mark for mark in draft.marks
                if mark.place != "tools" or any(mark.block is tool for tool in body["tools"])
            ]  # fmt: skip
            draft.note(f"{draft.model} cannot be forced to call a tool{when}: only {choice['name']!r} was offered")
        else:
            draft.note(f"{draft.model} cannot be forced to call a tool{when}: tool_choice was not sent")
        choice = {"type": "auto"}
    if turn.parallel_tool_calls is False and turn.tools and choice["type"] != "none":
        if profile.parallel:
            choice["disable_parallel_tool_use"] = True
        else:
            draft.note(f"{draft.vendor} ignores disable_parallel_tool_use: it was not sent")
    if choice != {"type": "auto"}:  # what every model does by itself
        body["tool_choice"] = choice


def _tool_choice(turn: Turn, form: AnswerForm, draft: Draft) -> JsonObject:
    choice = turn.tool_choice
    if form == "tool":
        if turn.tools and choice != "none":
            return {"type": "any"}  # a tool of the turn, or the answer
        return {"type": "tool", "name": answer_tool(turn, draft.profile)}
    if not turn.tools or choice == "none":  # without tools: those of the history were declared
        return {"type": "none"}
    if isinstance(choice, NamedTool):
        return {"type": "tool", "name": choice.name}
    return {"type": "any" if choice == "required" else "auto"}


# -- the answer's form, sampling --------------------------------------------------------------------------------------


def _add_format(body: JsonObject, schema: JsonObject, form: AnswerForm) -> None:
    wire = {"type": "json_schema", "schema": schema}
    merge(body, {"output_format": wire} if form == "beta" else {"output_config": {"format": wire}})


def _add_sampling(body: JsonObject, turn: Turn, draft: Draft, version: str) -> None:
    profile = draft.profile
    thinks = body.get("thinking", {}).get("type") in ("enabled", "adaptive")
    if turn.temperature is not None:
        if why := _why_not_sampled(turn, draft, version, thinks=thinks and turn.temperature != 1):
            draft.note(f"{why} no such temperature: it was not sent")
        else:
            body["temperature"] = _clamped(turn.temperature, draft)
    if turn.top_p is not None:
        if why := _why_not_sampled(turn, draft, version, thinks=thinks and not _LEAST_TOP_P <= turn.top_p <= 1):
            draft.note(f"{why} no such top_p: it was not sent")
        elif "temperature" in body and not profile.both_samplers:
            draft.note(f"{draft.model} takes temperature or top_p, not both: top_p was not sent")
        else:
            body["top_p"] = turn.top_p
    if turn.stop and not profile.stops:
        draft.note(f"{draft.vendor} ignores stop strings: they were not sent")
    elif turn.stop:
        if stops := [stop for stop in turn.stop if stop.strip()]:
            body["stop_sequences"] = stops
        if len(stops) < len(turn.stop):
            draft.note("this wire takes no stop string of white space alone: it was not sent")
    if turn.seed is not None:
        draft.note("this wire knows no seed: it was not sent")


def _why_not_sampled(turn: Turn, draft: Draft, version: str, *, thinks: bool) -> str:
    """The beginning of a notice, "" when the model samples as it is told."""
    if draft.profile.sampling == "never":
        return f"{turn.model} takes"
    if version >= VERSION_WITHOUT_SAMPLING:
        return f"version {version} of this wire takes"
    return f"{turn.model} takes, while it thinks," if thinks and draft.profile.sampling == "not_thinking" else ""


def _clamped(temperature: float, draft: Draft) -> float:
    lowest, highest = draft.profile.temperature
    clamped = min(max(temperature, lowest), highest)
    if clamped != temperature:
        draft.note(f"{draft.vendor} takes temperatures from {lowest:g} to {highest:g}: {clamped:g} was sent")
    return clamped

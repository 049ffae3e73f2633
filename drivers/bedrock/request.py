"""A turn as the body of one request: what all models are asked alike, and what their families are asked differently.

Whatever the turn asks for and the model will not do is either refused here or noted (draft.py); nothing is dropped in
silence. `null` is never sent, an unset field is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from loopforge.drivers.bedrock.cache import settle_points
from loopforge.drivers.bedrock.draft import Draft
from loopforge.drivers.bedrock.families import Family
from loopforge.drivers.bedrock.messages import MAX_NAME, Conversation, build_conversation
from loopforge.drivers.bedrock.model_ids import is_prompt
from loopforge.drivers.bedrock.thinking import ask_to_think, asks_for_budget
from loopforge.drivers.grammars import EnforcedSchemas, as_input
from loopforge.drivers.json_values import merge, to_json
from loopforge.drivers.turn import JsonObject, JsonSchema, NamedTool, Tool, Turn

MAX_STOPS: Final = 2500
_JSON_SENTENCE = "Answer with one JSON object and nothing else."
_TOOL_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_NAME}}}")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")
_OF_PROMPTS = {
    "system": "its system text", "toolConfig": "its tools", "inferenceConfig": "sampling and length",
    "additionalModelRequestFields": "thinking", "outputConfig": "the answer's form",
}  # fmt: skip

AnswerForm = Literal["text", "format", "tool", "prompt"]


def build_body(turn: Turn, draft: Draft, extra_body: Mapping[str, object]) -> JsonObject:
    """The request body of the turn. Raises TurnRefused for what cannot be asked; fills `draft.notices`."""
    conversation = build_conversation(turn.messages, draft)
    _check_prefill(conversation, turn, draft)
    enforced = EnforcedSchemas(draft)
    form, schema = _form_and_schema(turn, conversation, enforced, draft)
    options = (extra_body, turn.provider_options.get("bedrock", {}))
    tools = _tools(turn, conversation, form, enforced, draft)
    if not tools and conversation.called and not any(_has_tools(option) for option in options):
        tools = [_stub(name) for name in conversation.called]
        draft.note("the history calls tools and the turn offers none: they were declared, and may be called")
    asked = ask_to_think(turn, draft, prefilled=conversation.prefilled)

    body: JsonObject = {"messages": conversation.messages}
    _add_system(body, conversation, form, turn, draft)
    if tools:
        body["toolConfig"] = {"tools": tools}
        _add_tool_choice(body["toolConfig"], turn, form, draft, by_budget=asked.budget > 0)
    settle_points(
        [tools, body.get("system", []), *(message["content"] for message in conversation.messages)],
        draft,
    )
    if asked.fields:
        body["additionalModelRequestFields"] = asked.fields
    if schema is not None:
        body["outputConfig"] = _format(schema, turn)
    if inference := _inference(turn, draft, thinks=asked.thinks, free=asked.free):
        body["inferenceConfig"] = inference
    if asked.max_tokens is not None:
        body.setdefault("inferenceConfig", {})["maxTokens"] = asked.max_tokens
    if is_prompt(turn.model):
        _leave_to_prompt(body, draft)
    for option in options:
        merge(body, option)
    return body


def is_streamed(turn: Turn, body: Mapping[str, object], family: Family) -> bool:
    """Whether the answer is asked for as a stream: not with tools where the model streams text alone."""
    return turn.stream and (family.streamed_tools or "toolConfig" not in body)


def answer_form(turn: Turn, family: Family) -> AnswerForm:
    """How the answer of the turn is asked for. The reader has to know it, too: a tool's input may be the answer.

    "format": the wire's own field, if a grammar can be made of the schema; "tool": a tool that the model must call;
    "prompt": in words.
    """
    if turn.output == "text":
        return "text"
    if not isinstance(turn.output, JsonSchema) or is_prompt(turn.model):
        return "prompt"  # this wire has no JSON mode without a schema
    if family.structured == "format":
        return "format"
    may_force = family.tools and bool(family.choices) and (
        family.forced_tools == "yes" or (family.forced_tools == "not_thinking" and not asks_for_budget(turn, family))
    )  # fmt: skip
    is_object = turn.output.schema.get("type") == "object" or "properties" in turn.output.schema
    return "tool" if may_force and is_object and not isinstance(turn.tool_choice, NamedTool) else "prompt"


def answer_tool(turn: Turn, family: Family) -> str:
    """The name of the tool whose input is the turn's answer, "" when there is none. No tool of the turn has it."""
    if answer_form(turn, family) != "tool" or not isinstance(turn.output, JsonSchema):
        return ""
    name = _schema_name(turn.output)
    taken = {tool.name for tool in turn.tools}
    while name in taken:
        name += "_"
    return name


def _schema_name(output: JsonSchema) -> str:
    return _NOT_IN_NAMES.sub("_", output.name)[: MAX_NAME - 4] or "answer"


def _form_and_schema(
    turn: Turn, conversation: Conversation, enforced: EnforcedSchemas, draft: Draft
) -> tuple[AnswerForm, JsonObject | None]:
    """The form that the answer is asked for in after all, with the schema that is enforced, if one is."""
    form = answer_form(turn, draft.family)
    if conversation.prefilled and form != "text":
        return "prompt", None  # a grammar begins at the beginning, and so does a call
    if form != "format" or not isinstance(turn.output, JsonSchema):
        return form, None
    schema = enforced.add(turn.output.schema, "the answer")
    return ("prompt", None) if schema is None else (form, schema)


def _format(schema: JsonObject, turn: Turn) -> JsonObject:
    assert isinstance(turn.output, JsonSchema)
    described: JsonObject = {"schema": to_json(schema), "name": _schema_name(turn.output)}
    if turn.output.description:
        described["description"] = turn.output.description
    return {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": described}}}


# -- the conversation's frame -----------------------------------------------------------------------------------------


def _check_prefill(conversation: Conversation, turn: Turn, draft: Draft) -> None:
    if not conversation.prefilled:
        return
    if not draft.family.prefill:
        raise draft.refuse(
            f"{turn.model} does not continue an assistant message", "end the turn with a user message or a tool result"
        )
    last = conversation.messages[-1]["content"][-1]
    if "text" in last and last["text"] != last["text"].rstrip():
        draft.note("white space at the end of the last assistant message was left out: this wire takes none there")
        last["text"] = last["text"].rstrip()


def _add_system(body: JsonObject, conversation: Conversation, form: AnswerForm, turn: Turn, draft: Draft) -> None:
    blocks = conversation.system
    if form == "prompt":
        sentence = _JSON_SENTENCE
        if isinstance(turn.output, JsonSchema):
            schema = to_json(turn.output.schema)
            sentence = f"Answer with JSON and nothing else. It must follow this JSON Schema: {schema}"
        draft.note("the answer's form stands in the prompt and is not enforced")
        if draft.family.system:
            blocks = [*blocks, {"text": sentence}]
        else:
            _add_to_last_user(conversation, sentence)
    if blocks:
        body["system"] = blocks


def _add_to_last_user(conversation: Conversation, sentence: str) -> None:
    message = next(message for message in reversed(conversation.messages) if message["role"] == "user")
    message["content"].append({"text": sentence})


def _leave_to_prompt(body: JsonObject, draft: Draft) -> None:
    for name, what in _OF_PROMPTS.items():
        if body.pop(name, None) is not None:
            draft.note(f"a stored prompt brings {what} itself: the turn's was not sent")


# -- tools ------------------------------------------------------------------------------------------------------------


def _has_tools(option: Mapping[str, object]) -> bool:
    config = option.get("toolConfig")
    return isinstance(config, Mapping) and bool(config.get("tools"))


def _tools(
    turn: Turn, conversation: Conversation, form: AnswerForm, enforced: EnforcedSchemas, draft: Draft
) -> list[JsonObject]:
    _check_tools(turn, draft)
    offered: Sequence[Tool] = turn.tools
    if turn.tool_choice == "none" and offered:
        if conversation.called:
            draft.note("this wire cannot forbid calls: the history's tools were offered, as it has to be")
        else:
            offered = ()
    elif isinstance(turn.tool_choice, NamedTool) and "tool" not in draft.family.choices:
        offered = [tool for tool in offered if tool.name == turn.tool_choice.name]
        draft.note(f"{draft.who} cannot be told which tool to call: only {turn.tool_choice.name!r} was offered")
    tools = [block for tool in offered for block in _tool(tool, enforced, draft)]
    if form == "tool" and isinstance(turn.output, JsonSchema):
        draft.note(f"{draft.who} takes no schema for its answer here: a tool asks for it, and nothing enforces it")
        schema, told = as_input(turn.output.schema)
        description = turn.output.description or "Gives the answer. Call it once, with the whole answer."
        tools.append(
            _spec(answer_tool(turn, draft.family), f"{description}\n\n{told}" if told else description, schema)
        )
    return tools


def _check_tools(turn: Turn, draft: Draft) -> None:
    names = [tool.name for tool in turn.tools]
    choice = turn.tool_choice
    if names and not draft.family.tools and choice != "none":
        raise draft.refuse(f"{draft.who} knows no tools", "leave them out or route the turn to a model that does")
    if not names and (isinstance(choice, NamedTool) or choice == "required"):
        raise draft.refuse("the turn forces a tool call and offers no tools", "add the tool or drop tool_choice")
    if isinstance(choice, NamedTool) and choice.name not in names:
        raise draft.refuse(f"tool_choice names {choice.name!r}, which the turn does not offer", "add that tool")
    for name in names:
        if not _TOOL_NAME.fullmatch(name):
            raise draft.refuse(f"{name!r} is no tool name", f"use 1 to {MAX_NAME} letters, digits, _ and -")
    if len(set(names)) < len(names):
        raise draft.refuse("two tools have the same name", "give each tool its own name")


def _tool(tool: Tool, enforced: EnforcedSchemas, draft: Draft) -> list[JsonObject]:
    schema: JsonObject | None = None
    if tool.strict and draft.family.strict_tools:
        schema = enforced.add(tool.parameters, f"tool {tool.name!r}", tool=True)
    elif tool.strict:
        draft.note(f"{draft.who} does not enforce a tool's schema here: strict was not sent")
    if schema is not None and schema.get("type") == "object":
        block = _spec(tool.name, tool.description, schema)
        block["toolSpec"]["strict"] = True
    else:
        schema, told = as_input(tool.parameters)
        if told:
            draft.note(f"the schema of tool {tool.name!r} combines others at its root: it was described in words")
        block = _spec(tool.name, "\n\n".join(text for text in (tool.description, told) if text), schema)
    return [block, *draft.point(tool.cache, "tools")]


def _spec(name: str, description: str, schema: JsonObject) -> JsonObject:
    spec: JsonObject = {"name": name, "inputSchema": {"json": schema}}
    if description.strip():
        spec["description"] = description
    return {"toolSpec": spec}


def _stub(name: str) -> JsonObject:
    return _spec(name, "", {"type": "object", "properties": {}})


def _add_tool_choice(config: JsonObject, turn: Turn, form: AnswerForm, draft: Draft, *, by_budget: bool) -> None:
    family = draft.family
    if turn.parallel_tool_calls is False and turn.tools:
        draft.note("this wire cannot ask for one call at a time: parallel_tool_calls was not sent")
    forced = form == "tool" or isinstance(turn.tool_choice, NamedTool) or turn.tool_choice == "required"
    if not forced or not (turn.tools or form == "tool"):
        return  # auto is what every model does by itself
    if family.forced_tools == "no" or (family.forced_tools == "not_thinking" and by_budget):
        when = "" if family.forced_tools == "no" else " while it thinks"
        if isinstance(turn.tool_choice, NamedTool):
            wanted = turn.tool_choice.name
            config["tools"][:] = [
                block for block in config["tools"] if block.get("toolSpec", {}).get("name") in (None, wanted)
            ]
            draft.note(f"{draft.who} cannot be forced to call a tool{when}: only {wanted!r} was offered")
        else:
            draft.note(f"{draft.who} cannot be forced to call a tool{when}: tool_choice was not sent")
        return
    offers_more = bool(turn.tools) and turn.tool_choice != "none"
    if isinstance(turn.tool_choice, NamedTool) and "tool" in family.choices:
        config["toolChoice"] = {"tool": {"name": turn.tool_choice.name}}
    elif form == "tool" and not offers_more and "tool" in family.choices:
        config["toolChoice"] = {"tool": {"name": answer_tool(turn, family)}}
    elif "any" in family.choices:
        config["toolChoice"] = {"any": {}}
    else:
        draft.note(f"{draft.who} cannot be forced to call a tool: tool_choice was not sent")


# -- sampling and length ----------------------------------------------------------------------------------------------


def _inference(turn: Turn, draft: Draft, *, thinks: bool, free: bool) -> JsonObject:
    """`thinks`: Claude's rules for sampling while it does; `free`: nothing of it may be set beside the thinking."""
    family = draft.family
    inference: JsonObject = {}
    never = free or family.sampling == "never"
    if turn.temperature is not None:
        if never or (thinks and family.sampling == "not_thinking" and turn.temperature != 1):
            draft.note(f"{draft.who} takes no such temperature here: it was not sent")
        else:
            clamped = min(max(turn.temperature, 0), 1)
            if clamped != turn.temperature:
                draft.note(f"this wire takes temperatures from 0 to 1: {clamped:g} was sent")
            inference["temperature"] = clamped
    if turn.top_p is not None:
        if never or (thinks and family.sampling == "not_thinking" and not 0.95 <= turn.top_p <= 1):
            draft.note(f"{draft.who} takes no such top_p here: it was not sent")
        elif "temperature" in inference and not family.both_samplers:
            draft.note(f"{draft.who} takes temperature or top_p, not both: top_p was not sent")
        else:
            inference["topP"] = turn.top_p
    if turn.stop:
        if stops := [stop for stop in turn.stop if stop.strip()][:MAX_STOPS]:
            inference["stopSequences"] = stops
        if len(stops) < len(turn.stop):
            draft.note("stop strings of white space alone, and those beyond 2500, are not taken: they were not sent")
    if turn.seed is not None:
        draft.note("this wire knows no seed: it was not sent")
    return inference

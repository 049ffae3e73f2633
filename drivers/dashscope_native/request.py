"""A turn as the body of one request: what every model is asked alike, and what its family is asked differently.

Whatever the turn asks for and the model will not do is either refused here or noted (draft.py); nothing is dropped in
silence. `null` is never sent, an unset field is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from loopforge.drivers.dashscope_native.draft import WIRE, Draft
from loopforge.drivers.dashscope_native.messages import TOOL_NAME, add_instruction, build_messages
from loopforge.drivers.dashscope_native.profiles import Profile
from loopforge.drivers.json_values import merge, to_json
from loopforge.drivers.schemas import CannotInlineError, as_parameters, inline_definitions
from loopforge.drivers.turn import Effort, JsonObject, JsonSchema, NamedTool, Tool, Turn

_BUDGETS: Final[Mapping[Effort, int]] = {"low": 2048, "medium": 8192}  # high: as much as the model takes
_BELOW_2: Final = 1.99  # the largest temperature is below 2
_ABOVE_0: Final = 0.01  # the smallest top_p is above 0
_SEEDS: Final = range(2**31)
_RESERVED_TOOL: Final = "search"
_JSON_SENTENCE: Final = "Answer with one JSON object and nothing else."


def asks_for_stream(turn: Turn, profile: Profile) -> bool:
    """Whether the turn is sent as a stream: some models answer in no other way."""
    if turn.stream or profile.streams == "always":
        return True
    return profile.streams == "thinking" and _will_think(turn, profile)


def repeats(turn: Turn, extra_body: Mapping[str, object]) -> bool:
    """Whether the person's own fields ask for a stream in which each frame repeats what came before."""
    body: JsonObject = {"parameters": {"incremental_output": True}}
    for options in _options(turn, extra_body):
        merge(body, options)
    parameters = body.get("parameters")
    return not (isinstance(parameters, Mapping) and parameters.get("incremental_output") is True)


def wants_echo(turn: Turn, extra_body: Mapping[str, object], profile: Profile) -> bool:
    """Whether the model reads its earlier reasoning: by itself, or because the person's own fields tell it to."""
    parameters: JsonObject = {"preserve_thinking": profile.echo}
    for options in _options(turn, extra_body):
        if isinstance(inner := options.get("parameters"), Mapping):
            merge(parameters, inner)
    return parameters.get("preserve_thinking") is True or parameters.get("clear_thinking") is False


def build_body(turn: Turn, draft: Draft, extra_body: Mapping[str, object]) -> JsonObject:
    """The request body of the turn. Raises TurnRefused for what cannot be asked; fills `draft.notices`."""
    messages = build_messages(turn.messages, draft)
    parameters: JsonObject = {"result_format": "message"}
    if asks_for_stream(turn, draft.profile):
        parameters["incremental_output"] = True
    thinks = _will_think(turn, draft.profile)
    _add_thinking(parameters, turn, draft)
    _add_sampling(parameters, turn, draft)
    _add_tools(parameters, turn, draft, thinks=thinks)
    _add_output(parameters, messages, turn, draft, thinks=thinks)
    body: JsonObject = {"model": turn.model, "input": {"messages": messages}, "parameters": parameters}
    for options in _options(turn, extra_body):
        _merge_options(body, options)
    return body


def _options(turn: Turn, extra_body: Mapping[str, object]) -> tuple[Mapping[str, object], ...]:
    return (extra_body, turn.provider_options.get(WIRE, {}))


def _merge_options(body: JsonObject, options: Mapping[str, object]) -> None:
    """The person's own fields win; one of the two token limits, or of effort and budget, takes the other's place."""
    inner, parameters = options.get("parameters"), body.get("parameters")
    if isinstance(inner, Mapping) and isinstance(parameters, dict):
        for name, other in (("max_completion_tokens", "max_tokens"), ("reasoning_effort", "thinking_budget")):
            for one, two in ((name, other), (other, name)):
                if inner.get(one) is not None and inner.get(two) is None:
                    parameters.pop(two, None)
    merge(body, options)


# -- thinking ---------------------------------------------------------------------------------------------------------


def _will_think(turn: Turn, profile: Profile) -> bool:
    """Whether the model will think, as far as one can know."""
    if profile.thinking != "switch" or turn.thinking is None:
        return profile.thinks
    return turn.thinking not in ("off", 0)


def _add_thinking(parameters: JsonObject, turn: Turn, draft: Draft) -> None:
    wanted, profile = turn.thinking, draft.profile
    if wanted is None:
        return
    on = wanted not in ("off", 0)
    if profile.thinking == "none":
        if on:
            draft.note(f"{draft.model} is not known to think: the thinking asked for was not sent")
        return
    if not on:
        if profile.thinking == "always":
            draft.note(f"{draft.model} cannot be told to stop thinking")
        else:
            parameters["enable_thinking"] = False
        return
    if profile.thinking == "switch":
        parameters["enable_thinking"] = True
    if isinstance(wanted, int):
        if wanted > 0:
            parameters["thinking_budget"] = wanted
    elif word := profile.efforts.get(wanted):
        parameters["reasoning_effort"] = word
        if word != wanted:
            draft.note(f"{draft.model} has no thinking effort {wanted!r}: {word!r} was asked for")
    elif wanted in _BUDGETS:
        parameters["thinking_budget"] = _BUDGETS[wanted]


# -- sampling ---------------------------------------------------------------------------------------------------------


def _add_sampling(parameters: JsonObject, turn: Turn, draft: Draft) -> None:
    if turn.max_output_tokens is not None:
        parameters["max_tokens"] = turn.max_output_tokens
    if turn.temperature is not None:
        parameters["temperature"] = _within(turn.temperature, 0.0, _BELOW_2, "temperature", draft)
    if turn.top_p is not None:
        parameters["top_p"] = _within(turn.top_p, _ABOVE_0, 1.0, "top_p", draft)
    if turn.stop:
        parameters["stop"] = list(turn.stop)
    if turn.seed is not None:
        if turn.seed in _SEEDS:
            parameters["seed"] = turn.seed
        else:
            draft.note("this wire takes a seed from 0 to 2147483647: it was not sent")


def _within(value: float, lowest: float, highest: float, name: str, draft: Draft) -> float:
    sent = min(max(value, lowest), highest)
    if sent != value:
        draft.note(f"this wire takes a {name} from {lowest:g} to {highest:g}: {sent:g} was sent")
    return sent


# -- tools ------------------------------------------------------------------------------------------------------------


def _add_tools(parameters: JsonObject, turn: Turn, draft: Draft, *, thinks: bool) -> None:
    if not turn.tools:
        if isinstance(turn.tool_choice, NamedTool) or turn.tool_choice == "required":
            raise draft.refuse("the turn forces a tool call and offers no tools", "add the tool or drop tool_choice")
        return
    names = [tool.name for tool in turn.tools]
    _check_names(names, draft)
    parameters["tools"] = [_tool(tool, draft) for tool in turn.tools]
    _add_tool_choice(parameters, turn, names, draft, thinks=thinks)
    if turn.parallel_tool_calls is not None:
        parameters["parallel_tool_calls"] = turn.parallel_tool_calls


def _check_names(names: list[str], draft: Draft) -> None:
    if not draft.profile.tools:
        raise draft.refuse(f"{draft.model} takes no tools", "route the turn to a model that does")
    for name in names:
        if not TOOL_NAME.fullmatch(name):
            raise draft.refuse(f"{name!r} is no tool name", "use 1 to 64 letters, digits, _ and -")
        if name == _RESERVED_TOOL:
            raise draft.refuse(f"this wire takes no tool called {name!r}", "give it another name")
    if len(set(names)) < len(names):
        raise draft.refuse("two tools have the same name", "give each tool its own name")


def _tool(tool: Tool, draft: Draft) -> JsonObject:
    function: JsonObject = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    function["parameters"] = _schema(as_parameters(tool.parameters), f"tool {tool.name!r}", draft)
    if tool.strict:
        draft.note("this wire does not enforce a tool's schema: strict was not sent")
    draft.note_cache(tool.cache)
    return {"type": "function", "function": function}


def _add_tool_choice(parameters: JsonObject, turn: Turn, names: list[str], draft: Draft, *, thinks: bool) -> None:
    choice = turn.tool_choice
    if choice == "auto":
        return
    if choice == "none":
        parameters["tool_choice"] = "none"
        return
    if isinstance(choice, NamedTool) and choice.name not in names:
        raise draft.refuse(f"tool_choice names {choice.name!r}, which the turn does not offer", "add that tool")
    if thinks:
        draft.note(f"{draft.model} cannot be forced to call a tool while it thinks: tool_choice was not sent")
    elif isinstance(choice, NamedTool) or len(names) == 1:
        name = choice.name if isinstance(choice, NamedTool) else names[0]
        parameters["tool_choice"] = {"type": "function", "function": {"name": name}}
    else:
        draft.note("this wire cannot ask for a call of any tool: tool_choice was not sent")


def _schema(schema: JsonObject, whose: str, draft: Draft) -> JsonObject:
    """The schema without references, which these models do not follow."""
    try:
        return inline_definitions(schema)
    except CannotInlineError as exc:
        draft.note(f"the schema of {whose} keeps its reference {exc}: {draft.model} may not follow it")
        return schema


# -- structured output ------------------------------------------------------------------------------------------------


def _add_output(parameters: JsonObject, messages: list[JsonObject], turn: Turn, draft: Draft, *, thinks: bool) -> None:
    if turn.output == "text":
        return
    schema = turn.output if isinstance(turn.output, JsonSchema) else None
    if thinks or not draft.profile.json:
        why = " while it thinks" if thinks and draft.profile.json else ""
        draft.note(f"{draft.model} takes no JSON mode{why}: the answer's form stands in the prompt and is not enforced")
        _ask_in_words(messages, schema, draft)
    elif schema is not None and draft.profile.schema:
        parameters["response_format"] = {"type": "json_schema", "json_schema": _json_schema(schema, draft)}
    else:
        if schema is not None:
            draft.note(f"{draft.model} takes no schema: it stands in the prompt and is not enforced")
            _ask_in_words(messages, schema, draft)
        elif not _mentions_json(messages):
            draft.note('JSON mode wants the word JSON in the prompt: "Answer with one JSON object" was added')
            _ask_in_words(messages, None, draft)
        parameters["response_format"] = {"type": "json_object"}


def _json_schema(output: JsonSchema, draft: Draft) -> JsonObject:
    wire: JsonObject = {"name": output.name}
    if output.description:
        wire["description"] = output.description
    return {**wire, "schema": _schema(output.schema, "the answer", draft), "strict": output.strict}


def _ask_in_words(messages: list[JsonObject], schema: JsonSchema | None, draft: Draft) -> None:
    sentence = _JSON_SENTENCE
    if schema is not None:
        sentence = f"Answer with JSON and nothing else. It must follow this JSON Schema: {to_json(schema.schema)}"
    add_instruction(messages, sentence, draft)


def _mentions_json(messages: list[JsonObject]) -> bool:
    for message in messages:
        content = message["content"]
        texts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
        if any("json" in text.lower() for text in texts):
            return True
    return False

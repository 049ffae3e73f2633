"""A turn as the body of one request: what every model is asked alike, and what its family is asked differently.

Whatever the turn asks for and the model will not do is either refused here or noted (draft.py); nothing is dropped in
silence. `null` is never sent, an unset field is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal

from loopforge.drivers.gemini.contents import NAME, build_contents
from loopforge.drivers.gemini.draft import Draft
from loopforge.drivers.gemini.parts import text_part
from loopforge.drivers.gemini.profiles import MAX_STOPS, Level, Profile
from loopforge.drivers.gemini.schemas import CannotExpressError, as_subset, has_no_members
from loopforge.drivers.json_values import merge, to_json
from loopforge.drivers.schemas import as_parameters
from loopforge.drivers.turn import Effort, JsonObject, JsonSchema, NamedTool, Tool, Turn

_BUDGETS: Mapping[Effort, int] = {"low": 1024, "medium": 8192, "high": 24_576}
_DYNAMIC: Final = -1  # as much thinking as the model sees fit
_INT32 = range(-(2**31), 2**31)
_TEMPERATURES = (0.0, 2.0)
_JSON_SENTENCE = "Answer with one JSON object and nothing else."
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.:-]")
_NOT_WITH_CACHE: Final = ("systemInstruction", "tools", "toolConfig")

AnswerForm = Literal["text", "format", "tool", "prompt"]


def build_body(turn: Turn, draft: Draft, extra_body: Mapping[str, object], *, vertex: bool) -> JsonObject:
    """The request body of the turn. Raises TurnRefused for what cannot be asked; fills `draft.notices`."""
    form = answer_form(turn, draft.profile)
    config: JsonObject = {}
    _add_sampling(config, turn, draft)
    if thinking := _thinking(turn, draft):
        config["thinkingConfig"] = thinking
    if form == "format" and not _add_format(config, turn, draft):
        form = "prompt"
    system, contents = build_contents(turn.messages, draft)
    if form == "prompt":
        _ask_in_words(turn, system, contents, draft)
    body: JsonObject = {"contents": contents}
    if system:
        body["systemInstruction"] = {"parts": system}
    _add_tools(body, turn, form, draft)
    if config:
        body["generationConfig"] = config
    for options in (extra_body, turn.provider_options.get("gemini", {})):
        _merge_options(body, options)
    _finish_tools(body, draft, vertex=vertex)
    return body


def answer_form(turn: Turn, profile: Profile) -> AnswerForm:
    """How the answer of the turn is asked for. The reader has to know it, too: a call's arguments may be the answer."""
    if turn.output == "text":
        return "text"
    if profile.json and (not turn.tools or profile.json_with_tools):
        return "format"
    if isinstance(turn.output, JsonSchema) and turn.tools and profile.tools and turn.tool_choice in ("auto", "none"):
        schema = turn.output.schema
        if schema.get("type") == "object" or "properties" in schema:
            return "tool"
    return "prompt"


def answer_tool(turn: Turn, profile: Profile) -> str:
    """The name of the function whose arguments are the turn's answer, "" when there is none; no tool has it."""
    if answer_form(turn, profile) != "tool" or not isinstance(turn.output, JsonSchema):
        return ""
    name = _NOT_IN_NAMES.sub("_", turn.output.name)[:50]
    name = name if NAME.fullmatch(name) else f"answer_{name}"
    taken = {tool.name for tool in turn.tools}
    while name in taken:
        name += "_"
    return name


def _merge_options(body: JsonObject, options: Mapping[str, object]) -> None:
    """The person's own fields win; their tools (search, code execution) come beside the turn's functions."""
    tools = options.get("tools")
    if isinstance(tools, list) and tools:
        body["tools"] = [*body.get("tools", ()), *tools]
        options = {name: value for name, value in options.items() if name != "tools"}
    merge(body, options)


def _finish_tools(body: JsonObject, draft: Draft, *, vertex: bool) -> None:
    kinds = {kind for tool in body.get("tools", ()) if isinstance(tool, Mapping) for kind in tool}
    others = kinds - {"functionDeclarations", "codeExecution"}
    if "functionDeclarations" in kinds and others and draft.profile.server_tools and not vertex:
        config = body.setdefault("toolConfig", {})
        if isinstance(config, dict):
            config.setdefault("includeServerSideToolInvocations", True)
    if body.get("cachedContent") and (there := [name for name in _NOT_WITH_CACHE if name in body]):
        draft.note(f"{', '.join(there)} cannot stand beside cachedContent and must be in it: not sent")
        for name in there:
            del body[name]


# -- sampling ---------------------------------------------------------------------------------------------------------


def _add_sampling(config: JsonObject, turn: Turn, draft: Draft) -> None:
    if turn.max_output_tokens is not None:
        config["maxOutputTokens"] = turn.max_output_tokens
    if turn.temperature is not None:
        lowest, highest = _TEMPERATURES
        config["temperature"] = min(max(turn.temperature, lowest), highest)
        if config["temperature"] != turn.temperature:
            draft.note(f"this wire takes temperatures from 0 to 2: {config['temperature']:g} was sent")
    if turn.top_p is not None:
        config["topP"] = turn.top_p
    if turn.stop:
        config["stopSequences"] = list(turn.stop[:MAX_STOPS])
        if len(turn.stop) > MAX_STOPS:
            draft.note(f"this wire takes {MAX_STOPS} stop strings: the rest was not sent")
    if turn.seed is not None:
        if turn.seed in _INT32:
            config["seed"] = turn.seed
        else:
            draft.note("this wire takes a seed of 32 bits: it was not sent")


# -- thinking ---------------------------------------------------------------------------------------------------------


def _thinking(turn: Turn, draft: Draft) -> JsonObject:
    wanted, profile = turn.thinking, draft.profile
    if wanted is None:
        return {}
    if profile.thinking == "none":
        if wanted not in ("off", 0):
            draft.note(f"{draft.model} is not known to think: the thinking asked for was not sent")
        return {}
    if wanted in ("off", 0):
        return _switched_off(draft)
    if isinstance(wanted, int):
        return {"includeThoughts": True, "thinkingBudget": _budget(wanted, draft)}
    if profile.thinking == "budget":
        return {"includeThoughts": True, "thinkingBudget": min(_BUDGETS[wanted], profile.budgets[1])}
    return {"includeThoughts": True, "thinkingLevel": wanted.upper()}


def _switched_off(draft: Draft) -> JsonObject:
    profile = draft.profile
    if profile.thinking == "budget" and profile.off:
        return {"thinkingBudget": 0}
    if profile.thinking == "budget":
        lowest = profile.budgets[0]
        draft.note(f"{draft.model} cannot stop thinking: a budget of {lowest}, its smallest, was asked for")
        return {"thinkingBudget": lowest}
    level: Level = profile.levels[0]
    draft.note(f"{draft.model} cannot be told to stop thinking: level {level!r}, its lowest, was asked for")
    return {"thinkingLevel": level.upper()}


def _budget(wanted: int, draft: Draft) -> int:
    lowest, highest = draft.profile.budgets
    if wanted == _DYNAMIC or draft.profile.thinking == "level":
        return max(wanted, _DYNAMIC)
    budget = min(max(wanted, lowest), highest)
    if budget != wanted:
        draft.note(f"{draft.model} takes thinking budgets from {lowest} to {highest}: {budget} was asked for")
    return budget


# -- tools ------------------------------------------------------------------------------------------------------------


def _add_tools(body: JsonObject, turn: Turn, form: AnswerForm, draft: Draft) -> None:
    choice = turn.tool_choice
    if not turn.tools:
        if isinstance(choice, NamedTool) or choice == "required":
            raise draft.refuse("the turn forces a tool call and offers no tools", "add the tool or drop tool_choice")
        return
    names = [tool.name for tool in turn.tools]
    _check_names(names, draft)
    if isinstance(choice, NamedTool) and choice.name not in names:
        raise draft.refuse(f"tool_choice names {choice.name!r}, which the turn does not offer", "add that tool")
    functions = [_function(tool, draft) for tool in turn.tools]
    allowed: list[str] = []
    if form == "tool" and isinstance(turn.output, JsonSchema):
        name = answer_tool(turn, draft.profile)
        described = turn.output.description or "Gives the final answer. Call it once, when everything is known."
        functions.append(_function(Tool(name=name, description=described, parameters=turn.output.schema), draft))
        draft.note(f"{draft.model} takes no schema together with tools: the answer was asked for as a call of {name!r}")
        mode, allowed = "ANY", [name] if choice == "none" else []
    elif isinstance(choice, NamedTool):
        mode, allowed = "ANY", [choice.name]
    elif choice == "auto":
        mode = "VALIDATED" if draft.profile.validated and any(tool.strict for tool in turn.tools) else ""
    else:
        mode = {"none": "NONE", "required": "ANY"}[choice]
    body["tools"] = [{"functionDeclarations": functions}]
    if mode:
        config: JsonObject = {"mode": mode}
        if allowed:
            config["allowedFunctionNames"] = allowed
        body["toolConfig"] = {"functionCallingConfig": config}
    if turn.parallel_tool_calls is False:
        draft.note("this wire has no switch for parallel tool calls: there may be several")
    if mode not in ("ANY", "VALIDATED") and any(tool.strict for tool in turn.tools):
        draft.note(f"{draft.model} does not enforce a tool's schema: strict was not sent")


def _check_names(names: list[str], draft: Draft) -> None:
    if not draft.profile.tools:
        raise draft.refuse(f"{draft.model} takes no tools", "route the turn to a model that does")
    for name in names:
        if not NAME.fullmatch(name):
            what = "use 1 to 64 letters, digits, _, ., : and -, a letter or _ first"
            raise draft.refuse(f"{name!r} is no tool name", what)
    if len(set(names)) < len(names):
        raise draft.refuse("two tools have the same name", "give each tool its own name")
    if len(names) > (most := draft.profile.max_functions):
        raise draft.refuse(f"{draft.model} takes {most} tools and the turn offers {len(names)}", "offer fewer")


def _function(tool: Tool, draft: Draft) -> JsonObject:
    function: JsonObject = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    draft.note_cache(tool.cache)
    if has_no_members(tool.parameters):
        return function
    parameters = as_parameters(tool.parameters)
    if draft.profile.json_schema:
        return {**function, "parametersJsonSchema": parameters}
    schema = _subset(parameters, f"tool {tool.name!r}", draft)
    if schema is not None:
        return {**function, "parameters": schema}
    said = f"The arguments must follow this JSON Schema: {to_json(parameters)}"
    description = f"{tool.description}\n\n{said}" if tool.description else said
    return {**function, "description": description}


def _subset(schema: JsonObject, whose: str, draft: Draft) -> JsonObject | None:
    try:
        found = as_subset(schema)
    except CannotExpressError as exc:
        draft.note(f"the schema of {whose} stands in words and is not enforced: {exc}")
        return None
    if found.loose:
        told = ", ".join(found.loose[:5]) + (", …" if len(found.loose) > 5 else "")
        draft.note(f"of the schema of {whose} {draft.model} does not enforce {told}: the model was told in words")
    return found.schema


# -- structured output ------------------------------------------------------------------------------------------------


def _add_format(config: JsonObject, turn: Turn, draft: Draft) -> bool:
    """Ask for JSON by the wire's own fields; False when the schema has no form there."""
    if isinstance(turn.output, JsonSchema):
        if draft.profile.json_schema:
            config["responseJsonSchema"] = turn.output.schema
        else:
            schema: Any = _subset(turn.output.schema, "the answer", draft)
            if schema is None:
                return False
            config["responseSchema"] = schema
    config["responseMimeType"] = "application/json"
    return True


def _ask_in_words(turn: Turn, system: list[JsonObject], contents: list[JsonObject], draft: Draft) -> None:
    sentence = _JSON_SENTENCE
    if isinstance(turn.output, JsonSchema):
        sentence = f"Answer with JSON and nothing else. It must follow this JSON Schema: {to_json(turn.output.schema)}"
    draft.note("the answer's form stands in the prompt and is not enforced")
    if draft.profile.system:
        system.append(text_part(sentence))
    else:
        contents[0] = {**contents[0], "parts": [text_part(sentence), *contents[0]["parts"]]}

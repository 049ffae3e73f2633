"""What the simulated model says to one request, before any wire has formed it: thinking, text or calls, and the end.

It says words. It makes the calls of its script, or the one that the last user message asks for with
`call NAME {json}`, or one that is forced; with JSON asked for, it says JSON that fits.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from loopforge.drivers.simulator.profile import Profile, ScriptedCall
from loopforge.drivers.simulator.wording import example_of, pieces, speak
from loopforge.drivers.turn import JsonObject

_CALL_COMMAND = re.compile(r"\bcall ([A-Za-z0-9_-]+) (\{.*\})", re.DOTALL)
_JSON_TOKENS = 100  # of words in JSON that has to fit nothing
_ID_BITS = 96
_quoted = json.JSONEncoder().encode  # what json.dumps ends in, after 1 µs of looking at its options

SaidFinish = Literal["stop", "length", "calls", "stop_word"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a request asks for. `tools`: schemas of the tools it offers, by name; `forced`: one of them, or "any".

    `question`: the user's text that it ends in, None when it ends in something else. `schema`: of a JSON answer; {} for
    any object. `budget`: tokens at most.
    """

    tools: Mapping[str, Any] = field(default_factory=dict)
    may_call: bool = True
    forced: str = ""
    question: str | None = None
    schema: JsonObject | None = None
    stops: tuple[str, ...] = ()
    budget: float = float("inf")
    thinks: bool = True


@dataclass(frozen=True, slots=True)
class SaidCall:
    """`id`: 24 hexadecimal digits. `arguments`: JSON, in pieces."""

    id: str
    name: str
    arguments: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """In tokens, with the budget and the stop words already applied. `stop_word`: the one that ended it."""

    thinking: Iterable[str] = ()
    text: Iterable[str] = ()
    calls: tuple[SaidCall, ...] = ()
    finish: SaidFinish = "stop"
    stop_word: str = ""
    thinking_tokens: int = 0
    text_tokens: int = 0

    @property
    def tokens(self) -> int:
        return self.thinking_tokens + self.text_tokens + sum(len(call.arguments) for call in self.calls)


def say(wanted: Wanted, profile: Profile, rng: random.Random) -> Said:
    """The answer. Text without stop words is made as it is read: a long one is never held in memory."""
    thinking_tokens = int(min(profile.thinking_tokens if wanted.thinks else 0, wanted.budget))
    thinking = speak(rng, thinking_tokens)
    calls = tuple(
        SaidCall(f"{rng.getrandbits(_ID_BITS):024x}", call.name, pieces(json.dumps(call.arguments)))
        for call in _calls(wanted, profile)
    )
    if calls:
        return Said(thinking=thinking, calls=calls, finish="calls", thinking_tokens=thinking_tokens)
    text, whole_size = _text(wanted, profile, rng)
    size = int(min(whole_size, wanted.budget - thinking_tokens))
    finish: SaidFinish = "length" if size < whole_size else "stop"
    stop_word = ""
    said: Iterable[str] = (token for _, token in zip(range(size), text, strict=False))
    if any(wanted.stops):
        whole = "".join(said)  # only the whole text shows where to cut
        cut, stop_word = _first_stop(whole, wanted.stops)
        said = pieces(whole[:cut])
        if stop_word:
            size, finish = len(said), "stop_word"
    return Said(
        thinking=thinking,
        text=said,
        finish=finish,
        stop_word=stop_word,
        thinking_tokens=thinking_tokens,
        text_tokens=size,
    )


def templated(template: bytes, tokens: Iterable[str]) -> Iterator[bytes]:
    """An event with each token in the place of its NUL: encoding one costs 4 µs, filling one in 0.25."""
    head, _, tail = template.rpartition(rb"\u0000")
    for token in tokens:
        yield head + _quoted(token)[1:-1].encode() + tail


def _text(wanted: Wanted, profile: Profile, rng: random.Random) -> tuple[Iterator[str], int]:
    """The answer in tokens, and how many they are."""
    if wanted.schema is None:
        return speak(rng, profile.answer_tokens, profile.token_bytes), profile.answer_tokens
    value = example_of(wanted.schema) if wanted.schema else _any_object(profile, rng)
    said = pieces(json.dumps(value))
    return iter(said), len(said)


def _any_object(profile: Profile, rng: random.Random) -> JsonObject:
    return {"answer": "".join(speak(rng, min(profile.answer_tokens, _JSON_TOKENS))).strip()}


def _calls(wanted: Wanted, profile: Profile) -> tuple[ScriptedCall, ...]:
    """Which calls the model makes: what the user asks for in so many words, else the script, else what is forced."""
    offered = wanted.tools
    if not offered or not wanted.may_call or wanted.question is None:
        return ()
    scripted = tuple(call for call in profile.tool_calls if call.name in offered)
    if wanted.forced in offered:
        fitting = tuple(call for call in scripted if call.name == wanted.forced)
        return fitting or (_example_call(wanted.forced, offered),)
    if (asked := _CALL_COMMAND.search(wanted.question)) and asked[1] in offered:
        arguments = _json_start(asked[2])
        if arguments is not None:
            return (ScriptedCall(name=asked[1], arguments=arguments),)
    if wanted.forced and not scripted:
        return (_example_call(next(iter(offered)), offered),)
    return scripted


def _example_call(name: str, offered: Mapping[str, Any]) -> ScriptedCall:
    return ScriptedCall(name=name, arguments=_object(example_of(offered[name])))


def _object(value: Any) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _json_start(text: str) -> JsonObject | None:
    """The JSON object that `text` begins with; what follows it is the user's prose."""
    try:
        value, _ = json.JSONDecoder().raw_decode(text)
    except ValueError:
        return None
    return _object(value)


def _first_stop(text: str, stops: Iterable[str]) -> tuple[int, str]:
    """Where the text ends, and the stop word that ends it, "" when none does."""
    places = [(place, word) for word in stops if word and (place := text.find(word)) >= 0]
    return min(places, default=(len(text), ""))

"""What the simulated model says: words from a seed, and JSON that fits a schema. No wire, no time."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

_WORDS = (
    "the a and of to in is that it for on with as was at by this from or have an not are but be one all we can more "
    "will if their so up out them then she many some what would other into has two like him see time could no make "
    "than first been its who now people my made over did down only way find use may water long little very after "
    "words called just where most know get through back much before go good new write our used me man too any day "
    "same right look think also around another came come work three word must because does part even place well "
    "such here take why things help put years different away again off went old number great tell men say small "
    "every found still between name should home big give air line set own under read last never us left end along "
    "while might next sound below saw something thought both few those always looked show large often together asked "
    "house world going want school important until form food keep children feet land side without boy once animals"
)
_TOKENS = [f" {word}" for word in _WORDS.split()]
_TOOL_CHARS = 4  # argument text and JSON come in pieces of about this size
MAX_DEPTH = 16


def speak(rng: random.Random, tokens: int, token_bytes: int = 0) -> Iterator[str]:
    """`tokens` tokens, the same for the same state of `rng`: a blank and a word each, or exactly `token_bytes` long."""
    # Drawn now, not when the first token is wanted: by then others may have drawn.
    return _tokens(rng.randrange(len(_TOKENS)), rng.choice((1, 3, 7, 11, 13, 17)), tokens, token_bytes)


def _tokens(place: int, stride: int, tokens: int, token_bytes: int) -> Iterator[str]:
    for number in range(tokens):
        token = _TOKENS[place]
        if token_bytes:
            token = (token * (token_bytes // len(token) + 1))[:token_bytes]
        yield token if number or token_bytes else token.lstrip()
        place = (place + stride) % len(_TOKENS)


def pieces(text: str, size: int = _TOOL_CHARS) -> list[str]:
    """Text as a model would stream it."""
    return [text[start : start + size] for start in range(0, len(text), size)]


def example_of(schema: Any, depth: int = 0) -> Any:
    """A small value that fits a JSON Schema, as far as its usual words go ($ref, pattern and the like do not count)."""
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return {}
    if "const" in schema:
        return schema["const"]
    for choice in ("enum", "examples"):
        if schema.get(choice):
            return schema[choice][0]
    for choice in ("anyOf", "oneOf", "allOf"):
        if schema.get(choice):
            return example_of(schema[choice][0], depth + 1)
    kind = schema.get("type", "object")
    match kind[0] if isinstance(kind, list) and kind else kind:
        case "string":
            return "sample"
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return True
        case "null":
            return None
        case "array":
            return [example_of(schema.get("items", {"type": "string"}), depth + 1)] * max(1, schema.get("minItems", 1))
    properties = schema.get("properties", {})
    wanted = schema.get("required", list(properties))
    return {name: example_of(properties.get(name, {"type": "string"}), depth + 1) for name in wanted}

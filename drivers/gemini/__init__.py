"""Google's generateContent wire, on the Gemini API and on Vertex AI: a turn in, deltas out.

Wire format: https://ai.google.dev/api/generate-content and its guides on function calling, thinking, thought signatures
and structured output; what was seen in traffic decided the rest. Pure: no socket, clock, environment or log.

driver.py         the driver: settings of one provider, URL, headers; open_driver
profiles.py       what each family of models takes, as data
capabilities.py   what a model can carry, told by its profile, in the shape of all kinds
request.py        a turn -> the body: thinking, sampling, tools, structured output
contents.py       the conversation: roles, calls and responses, what goes back verbatim
parts.py          text, images, documents and sound as parts
schemas.py        JSON Schemas as the OpenAPI subset that older models want
draft.py          the request while it is written, its notices, and whose opaque data is whose
reader.py         response bytes -> deltas: event stream, JSON array or whole answer
splitter.py       JSON objects out of a byte stream that does not frame them
answer.py         chunks and parts -> deltas; finish reasons
calls.py          function calls, whole or in partial arguments
usage.py          token counts
failures.py       error bodies -> error classes
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loopforge.drivers.gemini.driver import Gemini, open_driver

__all__ = ["Gemini", "open_driver"]

if not TYPE_CHECKING:  # who asks for capabilities alone does not load the driver

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.driver"), name)

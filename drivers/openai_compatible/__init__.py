"""The OpenAI Chat Completions wire, as some twenty vendors speak it: a turn in, deltas out.

Wire format: https://platform.openai.com/docs/api-reference/chat; what a vendor does differently is data in
drivers/vendors.py, what was seen in traffic decided the rest. Pure: no socket, clock, environment or log.

driver.py         one provider's settings, and what is done with them; open_driver
capabilities.py   what a model can carry, told by its profile, in the shape of all kinds
request.py        a turn -> the body: thinking, sampling, tools, structured output
messages.py       the conversation: roles, parts, tool calls and results
echo.py           earlier reasoning, back to where it came from
draft.py          the request while it is written: the shared Draft with its vendor
reader.py         response bytes -> deltas: a stream or one answer, and where it ends
answer.py         members of a chunk or message -> deltas; finish reasons
reasoning.py      reasoning items of gateways
usage.py          token counts
failures.py       error bodies -> error classes
failure_codes.py  which code means which class
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loopforge.drivers.openai_compatible.driver import OpenAICompatible, open_driver

__all__ = ["OpenAICompatible", "open_driver"]

if not TYPE_CHECKING:  # who asks for capabilities alone does not load the driver

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.driver"), name)

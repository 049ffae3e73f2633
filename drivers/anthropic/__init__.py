"""The Anthropic Messages wire, as its maker and the gateways that copy it speak it: a turn in, deltas out.

Wire format: https://docs.anthropic.com/en/api/messages and its streaming page, versions 2023-06-01 and 2026-10-21; what
was seen in traffic decided the rest. Pure: no socket, clock, environment or log.

driver.py         one provider's settings, and what is done with them; open_driver
profiles.py       what each gateway takes, as data
capabilities.py   what a model can carry, told by its profile, in the shape of all kinds
request.py        a turn -> the body: thinking, sampling, tools, structured output
messages.py       the conversation: system text, tool calls and results, what goes back as it came
blocks.py         text, images and documents as blocks
cache.py          which cache marks are sent
draft.py          the request while it is written: the shared Draft with its model
reader.py         response bytes -> deltas: a stream or one answer, and where it ends
answer.py         events, or a whole message -> deltas; stop reasons
open_blocks.py    content blocks under way
usage.py          token counts
failures.py       error bodies -> error classes
failure_codes.py  which code means which class
rate_limits.py    the limit headers of this wire
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loopforge.drivers.anthropic.driver import Anthropic, open_driver

__all__ = ["Anthropic", "open_driver"]

if not TYPE_CHECKING:  # who asks for capabilities alone does not load the driver

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.driver"), name)

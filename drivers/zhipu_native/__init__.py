"""Zhipu's own wire, on open.bigmodel.cn and api.z.ai: a turn in, deltas out.

Wire format: https://docs.z.ai/api-reference/llm/chat-completion and its guides on thinking, tool streams and error
codes; what was seen in traffic decided the rest. Pure: no socket, clock, environment or log. The short-lived tokens
that keys of the form id.secret are signed into: drivers/zhipu_jwt.py.

driver.py         the driver: settings of one provider, URL, headers; open_driver
profiles.py       what each family of models takes, as data
capabilities.py   what a model can carry, told by its profile, in the shape of all kinds
request.py        a turn -> the body: thinking, sampling, tools, JSON answers
messages.py       the conversation: roles, parts, tool calls and results, earlier reasoning
draft.py          the request while it is written, and whose opaque data is whose
reader.py         response bytes -> deltas: a stream or one answer, and where it ends
answer.py         members of a chunk or message -> deltas; finish reasons
usage.py          token counts
failures.py       error bodies -> error classes
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loopforge.drivers.zhipu_native.driver import ZhipuNative, open_driver

__all__ = ["ZhipuNative", "open_driver"]

if not TYPE_CHECKING:  # who asks for capabilities alone does not load the driver

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.driver"), name)

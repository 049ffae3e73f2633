"""DashScope's own wire for text and multimodal generation (Alibaba Model Studio, Qwen): a turn in, deltas out.

Wire format: https://help.aliyun.com/en/model-studio/qwen-api-via-dashscope and its pages on deep thinking, structured
output, context cache and error codes; what was seen in traffic decided the rest. Pure: no socket, clock, environment
or log.

driver.py         the driver: settings of one provider, URL, headers; open_driver
profiles.py       what each family of models takes, and on which of the two paths it lives, as data
capabilities.py   what a model can carry, told by its profile, in the shape of all kinds
request.py        a turn -> the body: thinking, sampling, tools, structured output
messages.py       the conversation: roles, calls and results, in the form of either path
parts.py          text, images, sound and documents as content
draft.py          the request while it is written, its notices, and whose opaque data is whose
reader.py         response bytes -> deltas: frames or one JSON answer
frames.py         the frames of a stream, with or without blank lines between them
answer.py         frames -> deltas; finish reasons
growth.py         what is new in a frame, also where each repeats what came before
usage.py          token counts
failures.py       error bodies -> error classes
failure_codes.py  which error code means what
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loopforge.drivers.dashscope_native.driver import DashScopeNative, open_driver

__all__ = ["DashScopeNative", "open_driver"]

if not TYPE_CHECKING:  # who asks for capabilities alone does not load the driver

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.driver"), name)

"""The Converse wire of AWS Bedrock, as JSON over HTTP: a turn in, deltas out. One form for the models of all vendors.

Wire format: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html and ConverseStream; what
was seen in traffic decided the rest. Pure: no socket, clock or environment. Endpoint and signature: drivers/aws.py.

driver.py         one provider's settings, and what is done with them; open_driver
model_ids.py      geo prefixes, ARNs, paths
families.py       what each family of models takes, as data
capabilities.py   what a model can carry, told by its profile, in the shape of all kinds
request.py        a turn -> the body: tools, structured output, sampling
thinking.py       how each family is asked to think
messages.py       the conversation: system text, tool calls and results, what goes back as it came
blocks.py         text, images and documents as blocks
cache.py          which cache points are sent
draft.py          the request while it is written: the shared Draft with its family
reader.py         response bytes -> deltas: a stream or one answer, and where it ends
frames.py         event-stream frames, by botocore, or JSON
answer.py         events, or a whole answer -> deltas; stop reasons
open_blocks.py    content blocks under way
usage.py          token counts
failures.py       error bodies and exception frames -> error classes
failure_codes.py  which exception means which class
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loopforge.drivers.bedrock.driver import Bedrock, open_driver

__all__ = ["Bedrock", "open_driver"]

if not TYPE_CHECKING:  # who asks for capabilities alone does not load the driver

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.driver"), name)

"""What a provider's model can carry, in one shape for all kinds. No table of its own.

Each driver package derives it in its own `capabilities.py` from the profiles that its requests are written by, so that
the two cannot drift apart. What is not carried is either refused (tools, images, documents, sound) or left out with a
notice (all else): see build_request and notices of the drivers. Loads a kind on use, and of it the profiles alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Final, Literal, cast

from loopforge.drivers.errors import DriverMissing
from loopforge.drivers.registry import ProviderSettings, has_driver
from loopforge.drivers.turn import Effort

When = Literal["yes", "not_thinking", "unsure", "no"]
"""not_thinking: while the model does not think; unsure: it is asked for, and the vendor does not promise to obey."""
Schema = Literal["enforced", "not_thinking", "tool", "prompt"]
"""not_thinking: enforced while the model does not think; tool, prompt: asked for as a call's input, or in words."""
Thinking = Literal["none", "switch", "effort", "budget", "always"]

LEVELS: Final[tuple[Effort, ...]] = ("low", "medium", "high")


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What one model of one provider takes as it was asked for: anything else has a notice, or is refused.

    `system`: as such, not as the user's words. `tools`, `images`, `documents` (PDF), `audio`: False is refused; a
    document of text is always taken. `image_urls`, `document_urls`: by https URL, which the others are not about.
    `named_tool`, `required_tool`: a call of this tool, or of any of several, can be forced. `one_call`: it can be told
    to make one call at a time. `strict_tools`: holds calls to their schemas. All void without tools.
    `thinks`: can do so at all. `levels`: what of off, low, medium and high is done as asked for; `budgets`: tokens are.
    `thinks_with_tools`: in a turn with tools, too.
    `schema`: how an answer of a schema is asked for; `schema_with_tools`: in a turn with tools, too.
    `cache_marks`: on the text of messages. `stops`: how many stop strings, None for as many as anybody writes.
    `streaming`: "without_tools" when an answer to a turn with tools comes whole.
    """

    system: bool = True
    tools: bool = True
    named_tool: When = "yes"
    required_tool: When = "yes"
    one_call: bool = False
    strict_tools: bool = False
    images: bool = False
    image_urls: bool = False
    documents: bool = False
    document_urls: bool = False
    audio: bool = False
    thinks: bool = False
    levels: tuple[Effort, ...] = ("off",)
    budgets: bool = False
    thinks_with_tools: bool = True
    schema: Schema = "prompt"
    schema_with_tools: bool = True
    cache_marks: bool = False
    seed: bool = False
    stops: int | None = None
    temperature: When = "yes"
    streaming: Literal["yes", "without_tools"] = "yes"

    @property
    def thinking(self) -> Thinking:
        """The finest way to say how much it shall think. always: it thinks, and cannot be told anything."""
        if not self.thinks:
            return "none"
        if self.budgets:
            return "budget"
        if sum(level in self.levels for level in LEVELS) > 1:
            return "effort"
        return "switch" if "off" in self.levels else "always"

    def does(self, thinking: Effort | int | None) -> bool:
        """Whether the model thinks as it is asked to; None asks for nothing."""
        if thinking is None:
            return True
        if isinstance(thinking, int) and thinking > 0:
            return self.budgets
        return ("off" if isinstance(thinking, int) else thinking) in self.levels

    @property
    def refuses(self) -> frozenset[str]:
        """What a turn is refused for, in whatever form it comes, in the words of SubmitHeader.features."""
        carried = {
            "tools": self.tools,
            "new images": self.images or self.image_urls,
            "new documents": self.documents or self.document_urls,
            "new audio": self.audio,
        }
        return frozenset(feature for feature, is_carried in carried.items() if not is_carried)


def capabilities_of(settings: ProviderSettings, model: str) -> Capabilities:
    """What `model` can carry there: `capabilities(settings, model)` of the kind. Raises DriverMissing."""
    if not has_driver(settings.kind):
        raise DriverMissing(settings.name, f"there is no driver for kind {settings.kind!r} in this version")
    module = import_module(f"loopforge.drivers.{settings.kind}.capabilities")
    return cast("Capabilities", module.capabilities(settings, model))

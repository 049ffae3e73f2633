"""Drivers and turns of this kind, for its tests."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from loopforge.drivers.anthropic import Anthropic, open_driver
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import Message, Opaque, Tool, ToolCall, Turn, user
from tests.drivers.anthropic.request_rules import problems
from tests.drivers.exchanges import PROVIDER

KIND = "anthropic"
MODEL = "claude-sonnet-4-6"
HI = user("Hi")
LOOK = Tool(name="look", description="Looks.", parameters={"type": "object", "properties": {"at": {"type": "integer"}}})
CALL = ToolCall(id="call_1", name="look", parsed={})
_VENDORS = {"local-gateway": "generic"}
Json = dict[str, Any]


def driver_for(vendor: str = "anthropic", base_url: str = "https://api.example", **changes: Any) -> Anthropic:
    """A driver with the profile of a vendor, or of a recording's."""
    vendor = _VENDORS.get(vendor, vendor)
    return open_driver(ProviderSettings(name=PROVIDER, kind="anthropic", base_url=base_url, vendor=vendor, **changes))


def ask(*messages: Message, model: str = MODEL, **members: Any) -> Turn:
    return replace(Turn(kind="coding", messages=messages, provider=PROVIDER, model=model), **members)


def body_of(turn: Turn, vendor: str = "anthropic", **changes: Any) -> Json:
    """What the driver sends for the turn."""
    body: Json = json.loads(driver_for(vendor, **changes).build_request(turn).body)
    return body


def notices_of(turn: Turn, vendor: str = "anthropic", **changes: Any) -> str:
    """What the driver says that it will not send, one a line."""
    return "\n".join(driver_for(vendor, **changes).notices(turn))


def written(vendor: str = "anthropic", *, model: str = MODEL, **members: Any) -> Json:
    """The body of a turn, which breaks no rule. `members`: of the turn; its messages are a greeting when not given."""
    messages = members.pop("messages", (HI,))
    body = body_of(ask(*messages, model=model, **members), vendor)
    assert problems(body, vendor) == []
    return body


def noted(vendor: str = "anthropic", *, model: str = MODEL, **members: Any) -> str:
    """What is said of the turn, one a line."""
    messages = members.pop("messages", (HI,))
    return notices_of(ask(*messages, model=model, **members), vendor)


def opaque(block: Json, *, vendor: str = "anthropic", model: str = MODEL, provider: str = PROVIDER) -> Opaque:
    """What this kind's reader puts on a part that came from the vendor."""
    return Opaque(provider=provider, model=model, data={"vendor": vendor, "block": block})

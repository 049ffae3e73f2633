"""Drivers and turns of this kind, for its tests."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from loopforge.drivers.bedrock import Bedrock, open_driver
from loopforge.drivers.registry import AwsSettings, ProviderSettings
from loopforge.drivers.turn import Message, Opaque, Tool, ToolCall, Turn, user
from tests.drivers.bedrock.request_rules import problems
from tests.drivers.exchanges import PROVIDER

KIND = "bedrock"
CLAUDE = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
NOVA = "us.amazon.nova-pro-v1:0"
LLAMA = "us.meta.llama3-3-70b-instruct-v1:0"
MISTRAL = "mistral.mistral-large-2407-v1:0"
TITAN = "amazon.titan-text-express-v1"
QWEN = "qwen.qwen3-32b-v1:0"
HI = user("Hi")
LOOK = Tool(name="look", description="Looks.", parameters={"type": "object", "properties": {"at": {"type": "integer"}}})
CALL = ToolCall(id="call_1", name="look", parsed={})
Json = dict[str, Any]


def driver_for(base_url: str = "https://bedrock.example", *, aws: AwsSettings | None = None, **changes: Any) -> Bedrock:
    return open_driver(
        ProviderSettings(name=PROVIDER, kind="bedrock", base_url=base_url, aws_bedrock=aws or AwsSettings(), **changes)
    )


def ask(*messages: Message, model: str = CLAUDE, **members: Any) -> Turn:
    return replace(Turn(kind="coding", messages=messages, provider=PROVIDER, model=model), **members)


def body_of(turn: Turn, **changes: Any) -> Json:
    """What the driver sends for the turn."""
    body: Json = json.loads(driver_for(**changes).build_request(turn).body)
    return body


def notices_of(turn: Turn, **changes: Any) -> str:
    """What the driver says that it will not send, one a line."""
    return "\n".join(driver_for(**changes).notices(turn))


def written(model: str = CLAUDE, **members: Any) -> Json:
    """The body of a turn, which breaks no rule. `members`: of the turn; its messages are a greeting when not given."""
    messages = members.pop("messages", (HI,))
    body = body_of(ask(*messages, model=model, **members))
    assert problems(body, model) == []
    return body


def noted(model: str = CLAUDE, **members: Any) -> str:
    """What is said of the turn, one a line."""
    messages = members.pop("messages", (HI,))
    return notices_of(ask(*messages, model=model, **members))


def opaque(data: Json, *, model: str = CLAUDE, provider: str = PROVIDER) -> Opaque:
    """What this kind's reader puts on a part."""
    return Opaque(provider=provider, model=model, data=data)

"""How a simulated provider behaves. Values only, apart from reading them out of a file.

One server plays several providers; which profile counts is said by the first segment of the path it is asked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from loopforge.drivers.registry import Kind
from loopforge.drivers.simulator.faults import FaultName
from loopforge.drivers.turn import JsonObject

ANY_PROVIDER = "*"
_STRICT = {"extra": "forbid"}  # for pydantic, when a profile comes from a file


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedCall:
    """A tool call that the model makes when the request offers the tool."""

    __pydantic_config__: ClassVar = _STRICT

    name: str
    arguments: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One simulated provider. The defaults are a quick cloud model that never fails.

    Latency and rate: `first_token_s` after the request, then `tokens_per_s` (0: as fast as the socket takes them,
    with `tokens_per_send` in one send). `jitter` from 0 to 1 spreads every interval by up to that share of itself.
    A whole answer comes when its last token would have.

    Size: `answer_tokens` of about `token_bytes` each (0: natural words), after `thinking_tokens` of reasoning.

    What is asked for: `models` (empty: any name is one), `api_key` (empty: any or none will do), `context_tokens` (0:
    no limit), `reject_unknown_fields` (as OpenAI does; other vendors ignore them).

    `max_concurrency`: requests at a time, beyond which it answers 429 with `retry_after_s`; 0 for no limit. `slots`:
    how many a local server says it works on at once, as llama.cpp and LM Studio say it; 0: it does not tell.

    Script: `tool_calls` are made, all in one answer, whenever the request ends in a user message and offers them.

    Fault: `fault` by name (faults.py) hits the share `fault_share` of requests; a model named "fault-NAME" chooses it
    for one request. `fault_after_tokens` come before a stream breaks, and `slow_s` is what a slow first token takes.
    `quota_reset_s` after the first request that meets "quota-reset", nothing is left of it.

    Everything random comes from `seed` and the request's own body: the same request meets the same answer, at the
    same pace, in whatever order requests arrive.
    """

    __pydantic_config__: ClassVar = _STRICT

    kind: Kind = "openai_compatible"
    first_token_s: float = 0.2
    tokens_per_s: float = 50.0
    tokens_per_send: int = 16
    jitter: float = 0.0
    answer_tokens: int = 60
    token_bytes: int = 0
    thinking_tokens: int = 0
    models: tuple[str, ...] = ()
    api_key: str = field(default="", repr=False)
    context_tokens: int = 0
    reject_unknown_fields: bool = True
    max_concurrency: int = 0
    slots: int = 0
    retry_after_s: float = 1.0
    tool_calls: tuple[ScriptedCall, ...] = ()
    fault: FaultName | None = None
    fault_share: float = 1.0
    fault_after_tokens: int = 5
    slow_s: float = 30.0
    quota_reset_s: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a number out of its range."""
        for name in (
            "first_token_s", "tokens_per_s", "answer_tokens", "token_bytes", "thinking_tokens", "slow_s",
            "quota_reset_s",
        ):  # fmt: skip
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be 0 or more")
        if not 0 <= self.jitter <= 1 or not 0 <= self.fault_share <= 1:
            raise ValueError("jitter and fault_share must be between 0 and 1")
        if self.tokens_per_send < 1:
            raise ValueError("tokens_per_send must be at least 1")


Profiles = Mapping[str, Profile]


def profile_of(profiles: Profiles, provider: str) -> Profile | None:
    """The profile that counts for a path's first segment; "*" stands for every name that is not there."""
    return profiles.get(provider) or profiles.get(ANY_PROVIDER)


def read_profiles(value: Any) -> dict[str, Profile]:
    """Profiles from the plain values of a JSON or TOML file: {PROVIDER: {member: value}}.

    Raises ValueError that names every wrong member (pydantic's own).
    """
    from pydantic import TypeAdapter  # a person wrote this: checked, and only then imported

    return TypeAdapter(dict[str, Profile]).validate_python(value)

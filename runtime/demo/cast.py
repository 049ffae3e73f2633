"""The four providers of the demo, what each of them does, and who asks them how often. Pure.

All of it scales with the length of the demo, so that a run of three seconds shows the same as one of fifteen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loopforge.drivers.registry import Kind
from loopforge.runtime.rehearsal.workload import KindLoad

LOCAL, SLOW, STUCK, CRASH = "local", "slow-cloud", "stuck-cloud", "crash-cloud"
TARGETS: Mapping[str, str] = {"planning": LOCAL, "coding": SLOW, "review": STUCK, "summary": CRASH}
"""Task kind -> its provider, in the order in which they are shown."""

BEHAVIOUR: Mapping[str, str] = {
    LOCAL: "healthy",
    SLOW: "slow",
    STUCK: "silent",
    CRASH: "worker killed",
}


WIRES: Mapping[str, Kind] = {
    LOCAL: "openai_compatible",
    SLOW: "anthropic",
    STUCK: "gemini",
    CRASH: "openai_compatible",
}
"""Each speaks its own: a route, and a fallback, goes from one to another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phases:
    """Seconds. `idle_s`: planning alone. `load_s`: all kinds; half way the worker is killed. The rest is for endings.

    `silence_s`: how long the stuck provider may keep a turn (its first_event_timeout_s). `first_token_s`: what the
    slow one takes for it.
    """

    warm_up_s: float
    idle_s: float
    load_s: float
    silence_s: float
    first_token_s: float

    @property
    def kill_at_s(self) -> float:
        """Since the beginning of the load phase."""
        return self.load_s / 2


def phases(seconds: float) -> Phases:
    """A demo of about this length."""
    return Phases(
        warm_up_s=seconds * 0.05,
        idle_s=seconds * 0.25,
        load_s=seconds * 0.5,
        silence_s=seconds * 0.15,
        first_token_s=seconds * 0.1,
    )


PLANNING = KindLoad(kind="planning", per_second=30, prompt_chars=(200, 800), answer_tokens=(8, 16), sessions=8)
CLOUD_LOADS = (
    KindLoad(kind="coding", per_second=6, prompt_chars=(2_000, 8_000), answer_tokens=(20, 40), sessions=8),
    KindLoad(kind="review", per_second=5, prompt_chars=(2_000, 8_000), answer_tokens=(20, 40), sessions=8),
    KindLoad(kind="summary", per_second=5, prompt_chars=(4_000, 16_000), answer_tokens=(20, 40), sessions=8),
)


def local_profile() -> dict[str, dict[str, Any]]:
    """The local provider takes no time at all: what is measured there is the runtime."""
    return {LOCAL: {"first_token_s": 0.0, "tokens_per_s": 0.0, "answer_tokens": 100}}


def cloud_profiles(plan: Phases) -> dict[str, dict[str, Any]]:
    """How the simulator plays the clouds, in the members of drivers/simulator/profile.py."""
    profiles: dict[str, dict[str, Any]] = {
        SLOW: {"first_token_s": plan.first_token_s, "tokens_per_s": 40.0, "answer_tokens": 100, "jitter": 0.2},
        STUCK: {"fault": "silence"},
        CRASH: {"first_token_s": 0.2, "tokens_per_s": 40.0, "answer_tokens": 100, "jitter": 0.2},
    }
    return {name: {"kind": WIRES[name], **profile} for name, profile in profiles.items()}


def config_text(base_urls: Mapping[str, str], plan: Phases) -> str:
    """The configuration, as a person would write it."""
    return f"""\
[providers.{LOCAL}]
base_url = "{base_urls[LOCAL]}"
default_model = "small"

[providers.{SLOW}]
kind = "{WIRES[SLOW]}"
base_url = "{base_urls[SLOW]}"
default_model = "large"
max_concurrency = 64

[providers.{STUCK}]
kind = "{WIRES[STUCK]}"
base_url = "{base_urls[STUCK]}"
default_model = "large"
max_concurrency = 64
first_event_timeout_s = {plan.silence_s}

[providers.{CRASH}]
base_url = "{base_urls[CRASH]}"
default_model = "large"
max_concurrency = 64

[router]
planning = {{ provider = "{LOCAL}" }}
coding = {{ provider = "{SLOW}" }}
review = {{ provider = "{STUCK}", fallbacks = ["{SLOW}"] }}
summary = {{ provider = "{CRASH}" }}
"""

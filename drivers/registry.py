"""Which driver kinds there are, what a provider's settings hold, and how to open a driver. Loads a driver on use."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Final, Literal, cast, get_args

from loopforge.drivers.errors import DriverMissing
from loopforge.drivers.turn import JsonObject
from loopforge.drivers.wire import Driver

Kind = Literal[
    "openai_compatible", "dashscope_native", "zhipu_native", "minimax_native", "anthropic", "gemini", "bedrock"
]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """USD per million tokens."""

    input: float = 0.0
    output: float = 0.0
    cache_read: float = 0.0
    cache_write: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsSettings:
    """[providers.NAME.aws_bedrock]

    `cross_region`: the prefix that model ids get, but for those that `without_prefix` names. `base_models`: the model
    behind an ARN that does not tell it.
    """

    region: str = "us-east-1"
    cross_region: str = ""
    profile: str = ""
    without_prefix: tuple[str, ...] = ()
    base_models: dict[str, str] = field(default_factory=dict)


MOST_ADAPTIVE: Final = 32
"""A local server that takes more at once is worth a line max_concurrency in its table."""
AWS_DECIDES: Final = "https://bedrock-runtime.invalid"
"""Stands for the endpoint in requests of providers without a base_url: AWS's own rules give it, in drivers/aws.py."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSettings:
    """One [providers.NAME] table with every default filled in. No key in it: `api_key_env` only names where it is."""

    name: str
    kind: Kind
    base_url: str = ""
    api_key_env: str = ""
    default_model: str = ""
    vendor: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    extra_body: JsonObject = field(default_factory=dict)
    context_window: int = 0
    max_concurrency: int = 64
    adaptive: bool = False
    reserve: int = 1
    max_queued: int = 1000
    max_queued_bytes: int = 67_108_864
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    connect_timeout_s: float = 10.0
    first_event_timeout_s: float = 120.0
    event_gap_timeout_s: float = 60.0
    memory_limit_mb: int = 512
    prices: dict[str, Price] = field(default_factory=dict)
    aws_bedrock: AwsSettings | None = None

    @property
    def most_at_once(self) -> int:
        """The most turns that it ever gets at once; where that number is found out, `max_concurrency` is a guess."""
        return MOST_ADAPTIVE if self.adaptive else self.max_concurrency


def has_driver(kind: str) -> bool:
    """Whether this build can serve the kind. Imports nothing."""
    return kind in KINDS and find_spec(f"loopforge.drivers.{kind}") is not None


def has_simulator(kind: str) -> bool:
    """Whether this build can play a provider of the kind. Imports nothing of the simulator."""
    return kind in KINDS and find_spec(f"loopforge.drivers.simulator.{kind}") is not None


def open_driver(settings: ProviderSettings) -> Driver:
    """The driver of this provider: `open_driver(settings)` of the module named after the kind.

    Raises DriverMissing when this build has none.
    """
    if not has_driver(settings.kind):
        raise DriverMissing(settings.name, f"there is no driver for kind {settings.kind!r} in this version")
    module = import_module(f"loopforge.drivers.{settings.kind}")
    return cast("Driver", module.open_driver(settings))

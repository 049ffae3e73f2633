"""The presets as smoke targets, and a simulator in the place of their vendors."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import cache

from loopforge.drivers.registry import ProviderSettings, has_driver, has_simulator
from loopforge.drivers.simulator.faults import FaultName
from loopforge.drivers.simulator.profile import Profile
from loopforge.drivers.simulator.server import Simulator, open_simulator
from loopforge.runtime.config import paths
from loopforge.runtime.config.load import check
from loopforge.runtime.smoke.targets import Target, targets_of

KEY = "0123456789abcdef.rehearsal"  # in the form of Zhipu's, which are signed; nobody else looks at the form
AWS = {"AWS_ACCESS_KEY_ID": "AKIAREHEARSAL", "AWS_SECRET_ACCESS_KEY": KEY, "AWS_EC2_METADATA_DISABLED": "true"}


@cache
def presets() -> Mapping[str, ProviderSettings]:
    """What `loopforge init` writes."""
    checked = check(paths.PRESETS, {})
    assert checked.config is not None
    return checked.config.providers


def playable() -> list[str]:
    """The presets whose driver and simulator are both there."""
    return [name for name, settings in presets().items() if has_driver(settings.kind) and has_simulator(settings.kind)]


def every_key() -> dict[str, str]:
    """An environment in which no target is skipped."""
    keys = {settings.api_key_env: KEY for settings in presets().values() if settings.api_key_env}
    return keys | AWS | {"LOOPFORGE_BEDROCK_MODEL": "anthropic.claude-sonnet-4-6"}


def simple(name: str, kind: str = "openai_compatible", model: str = "m") -> Target:
    """A provider without a key."""
    settings = ProviderSettings(name=name, kind=kind, default_model=model)  # type: ignore[arg-type]  # some are wrong
    return targets_of({name: settings}, {})[0]


@contextmanager
def keys_in_environment() -> Iterator[None]:
    """Workers take their keys from this process's variables."""
    os.environ.update(every_key())
    try:
        yield
    finally:
        for name in every_key():
            del os.environ[name]


@dataclass(frozen=True)
class Stage:
    """`targets`: the ones asked for, with the simulator's address in the place of their own."""

    targets: list[Target]
    simulator: Simulator


@asynccontextmanager
async def open_stage(targets: Sequence[Target], faults: Mapping[str, FaultName] | None = None) -> AsyncIterator[Stage]:
    """`faults`: provider -> the fault that each of its requests meets."""
    profiles = {
        target.name: Profile(
            kind=target.settings.kind,
            first_token_s=0.01,
            tokens_per_s=0,
            answer_tokens=30,
            reject_unknown_fields=False,  # fields of vendors are fine
            fault=(faults or {}).get(target.name),
            fault_after_tokens=3,  # a tool call is not much longer
        )
        for target in targets
    }
    async with open_simulator(profiles) as simulator:
        staged = [
            replace(target, settings=replace(target.settings, base_url=simulator.base_url(target.name)))
            for target in targets
        ]
        yield Stage(staged, simulator)

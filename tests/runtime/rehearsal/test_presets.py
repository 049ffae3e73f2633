"""Every provider that `init` writes is rehearsed for real: its own wire at both ends, worker processes, loopback."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from loopforge.drivers.registry import KINDS, Kind, ProviderSettings
from loopforge.runtime.config import paths
from loopforge.runtime.config.load import check
from loopforge.runtime.config.values import Config, Route, Target
from loopforge.runtime.rehearsal.faults import read_faults
from loopforge.runtime.rehearsal.figures import by_route
from loopforge.runtime.rehearsal.report import ok
from loopforge.runtime.rehearsal.run import Progress, Script, rehearse
from loopforge.runtime.rehearsal.stage import absent_providers, profiles, stage
from loopforge.runtime.rehearsal.workload import KindLoad

pytestmark = pytest.mark.slow

BEDROCK_MODEL = "anthropic.claude-sonnet-4-5-20250929-v1:0"  # the preset leaves it to the account
NO_FAULTS = read_faults([], [])


def presets(kind: Kind | None = None) -> Config:
    """What `init` writes, with a task kind for each provider, of its name."""
    config = check(paths.PRESETS, {}).config
    assert config is not None
    providers = {
        name: replace(settings, default_model=settings.default_model or BEDROCK_MODEL)
        for name, settings in config.providers.items()
        if kind in (None, settings.kind)
    }
    routes = {
        name: Route(kind=name, targets=(Target(provider=name, model=settings.default_model),), deadline_s=120.0)
        for name, settings in providers.items()
    }
    return replace(config, providers=providers, routes=routes)


def ignore(progress: Progress) -> None:
    del progress


def test_all_nineteen_can_be_rehearsed_each_as_its_own_kind_and_vendor() -> None:
    config = presets()
    assert len(config.providers) == 19
    assert absent_providers(config) == {}
    played = profiles(config, NO_FAULTS, 1.0, seed=1)
    assert {name: profile["kind"] for name, profile in played.items()} == {
        name: settings.kind for name, settings in config.providers.items()
    }
    staged = stage(config, dict.fromkeys(played, "http://127.0.0.1:9/x/v1"), 1.0).config.providers

    def asked_as(settings: ProviderSettings) -> tuple[str, str, str]:
        return settings.kind, settings.vendor, settings.default_model

    assert {name: asked_as(settings) for name, settings in staged.items()} == {
        name: asked_as(settings) for name, settings in config.providers.items()
    }


@pytest.mark.parametrize("kind", KINDS)
async def test_turns_with_and_without_tools_are_done_by_each_preset_of_the_kind(kind: Kind) -> None:
    config = presets(kind)
    loads = tuple(
        KindLoad(kind=name, per_second=3, prompt_chars=(50, 100), answer_tokens=(10, 20), tool_every=2)
        for name in config.providers
    )
    result = await rehearse(config, Script(seconds=1.0, seed=1, loads=loads, faults=NO_FAULTS), ignore, trio.Event())
    assert ok(result)
    figures = by_route(result.entries)
    assert {name: (figures[name, name].done, figures[name, name].failed) for name in config.providers} == {
        name: (3, {}) for name in config.providers
    }

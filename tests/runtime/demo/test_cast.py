from pathlib import Path

import pytest

from loopforge.drivers.simulator.profile import read_profiles
from loopforge.runtime.config.load import check
from loopforge.runtime.demo.cast import (
    BEHAVIOUR,
    CLOUD_LOADS,
    CRASH,
    LOCAL,
    PLANNING,
    SLOW,
    STUCK,
    TARGETS,
    WIRES,
    cloud_profiles,
    config_text,
    local_profile,
    phases,
)

BASE_URLS = {name: f"http://127.0.0.1:4000/{name}/v1" for name in (LOCAL, SLOW, STUCK, CRASH)}


def test_the_configuration_passes_the_real_check_without_a_word(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(config_text(BASE_URLS, phases(15)))
    checked = check(file, {})
    assert checked.problems == ()
    assert checked.config is not None
    assert checked.config.warnings == ()
    assert {kind: route.targets[0].provider for kind, route in checked.config.routes.items()} == TARGETS
    assert checked.config.routes["planning"].lane == "interactive"
    assert {name: provider.kind for name, provider in checked.config.providers.items()} == WIRES
    assert all(provider.api_key_env == "" for provider in checked.config.providers.values())


def test_the_simulator_takes_the_profiles_of_all_four() -> None:
    profiles = read_profiles(local_profile() | cloud_profiles(phases(15)))
    assert set(profiles) == set(BASE_URLS) == set(BEHAVIOUR) == set(TARGETS.values())
    assert {name: profile.kind for name, profile in profiles.items()} == WIRES
    assert len(set(WIRES.values())) == 3
    assert profiles[STUCK].fault == "silence"
    assert profiles[SLOW].first_token_s > profiles[CRASH].first_token_s > profiles[LOCAL].first_token_s


@pytest.mark.parametrize("seconds", [2, 15, 600])
def test_the_phases_fit_the_time_and_the_stuck_turns_end_within_it(seconds: float) -> None:
    plan = phases(seconds)
    assert plan.warm_up_s + plan.idle_s + plan.load_s + plan.silence_s <= seconds
    assert plan.kill_at_s < plan.load_s
    assert plan.first_token_s < plan.load_s


def test_planning_is_asked_often_enough_for_a_p99_in_both_phases() -> None:
    plan = phases(15)
    assert PLANNING.per_second * plan.idle_s > 100
    assert PLANNING.per_second * plan.load_s > 200


def test_every_kind_has_a_load_and_a_provider() -> None:
    assert {PLANNING.kind, *(load.kind for load in CLOUD_LOADS)} == set(TARGETS)

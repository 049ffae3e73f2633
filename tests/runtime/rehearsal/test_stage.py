from dataclasses import fields, replace
from typing import Any

import pytest

from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.simulator.profile import Profile, read_profiles
from loopforge.runtime.config.values import Config, Route, Target
from loopforge.runtime.rehearsal.faults import read_faults
from loopforge.runtime.rehearsal.stage import KEY_VARIABLE, patience, profiles, stage
from loopforge.runtime.rehearsal.workload import TOOL

NO_FAULTS = read_faults([], [])


def settings(name: str, **members: Any) -> ProviderSettings:
    return ProviderSettings(
        **({"name": name, "kind": "openai_compatible", "base_url": f"https://{name}.test/v1"} | members)
    )


def configuration() -> Config:
    providers = {
        "cloud": settings(
            "cloud", api_key_env="CLOUD_KEY", headers={"x-team": "secret"}, vendor="deepseek", max_concurrency=7
        ),
        "local": settings("local", first_event_timeout_s=600.0, event_gap_timeout_s=0.5),
        "foreign": settings("foreign", kind="gemini", api_key_env="FOREIGN_KEY"),
    }
    routes = {
        "planning": Route(kind="planning", targets=(Target(provider="local", model="m"),), first_event_timeout_s=300.0),
        "coding": Route(kind="coding", targets=(Target(provider="cloud", model="c"),), lane="interactive"),
        "review": Route(
            kind="review", targets=(Target(provider="foreign", model="g"), Target(provider="cloud", model="c"))
        ),
    }
    return Config(path="/x/config.toml", providers=providers, routes=routes)


BASE_URLS = {name: f"http://127.0.0.1:4000/{name}/v1" for name in ("cloud", "local")}


def test_every_provider_is_pointed_at_the_simulator_and_keeps_the_rest() -> None:
    before = configuration()
    staged = stage(before, BASE_URLS, seconds=10).config
    assert {name: item.base_url for name, item in staged.providers.items() if name in BASE_URLS} == BASE_URLS
    cloud = staged.providers["cloud"]
    assert (cloud.kind, cloud.vendor, cloud.max_concurrency) == ("openai_compatible", "deepseek", 7)
    assert {kind: (route.targets, route.lane) for kind, route in staged.routes.items()} == {
        kind: (route.targets, route.lane) for kind, route in before.routes.items()
    }


def test_a_provider_at_aws_has_a_key_so_that_no_real_credentials_are_looked_for() -> None:
    before = replace(configuration(), providers={"aws": settings("aws", kind="bedrock", base_url="")}, routes={})
    staged = stage(before, {"aws": "http://127.0.0.1:4000/aws/v1"}, seconds=10).config.providers["aws"]
    assert (staged.base_url, staged.api_key_env) == ("http://127.0.0.1:4000/aws/v1", KEY_VARIABLE)


def test_no_provider_is_left_at_its_own_address_even_one_that_cannot_be_rehearsed() -> None:
    staged = stage(configuration(), BASE_URLS, seconds=10).config
    assert all(item.base_url.startswith("http://127.0.0.1:") for item in staged.providers.values())


def test_no_real_key_and_no_header_of_the_person_is_used() -> None:
    staged = stage(configuration(), BASE_URLS, seconds=10).config
    assert {name: item.api_key_env for name, item in staged.providers.items()} == {
        "cloud": KEY_VARIABLE,
        "local": "",
        "foreign": KEY_VARIABLE,
    }
    assert all(item.headers == {} for item in staged.providers.values())


def test_timeouts_longer_than_the_run_are_cut_and_shorter_ones_kept() -> None:
    staged = stage(configuration(), BASE_URLS, seconds=10)
    local = staged.config.providers["local"]
    assert staged.patience_s == patience(10) == 2.0
    assert (local.first_event_timeout_s, local.event_gap_timeout_s) == (2.0, 0.5)
    assert staged.config.routes["planning"].first_event_timeout_s == 2.0
    assert staged.config.routes["coding"].first_event_timeout_s == 0.0


@pytest.mark.parametrize(("seconds", "expected"), [(0.5, 2.0), (5, 2.0), (20, 4.0), (600, 120.0)])
def test_patience_grows_with_the_run_and_is_never_below_two_seconds(seconds: float, expected: float) -> None:
    assert patience(seconds) == expected


def test_a_kind_whose_route_begins_at_a_provider_without_a_driver_is_not_played() -> None:
    staged = stage(configuration(), BASE_URLS, seconds=10)
    why = "cannot be rehearsed, there is no driver yet for kind 'no-such-wire'"
    assert replace(staged, absent={"foreign": why}).unplayable() == {"review": f"foreign: {why}"}
    assert replace(staged, absent={}).unplayable() == {}


def test_the_simulator_takes_the_profiles_and_they_have_the_fault_in_them() -> None:
    config = configuration()
    written = profiles(config, read_faults(["cloud=stall", "local=kill-worker"], config.providers), seconds=10, seed=4)
    read: dict[str, Profile] = read_profiles(written)
    assert read["cloud"].fault == "stall"
    assert read["local"].fault is None
    assert read["cloud"].seed == 4
    assert read["cloud"].tool_calls[0].name == TOOL.name
    assert read["cloud"].quota_reset_s == patience(10) < min(route.deadline_s for route in staged_routes(config))
    assert set(written["cloud"]) <= {member.name for member in fields(Profile)}


def staged_routes(config: Config) -> list[Route]:
    return list(stage(config, BASE_URLS, seconds=10).config.routes.values())


def test_a_slow_provider_stays_within_the_timeouts_that_the_run_allows() -> None:
    for seconds in (1, 10, 100):
        slow = read_profiles(profiles(configuration(), NO_FAULTS, seconds, seed=0))["cloud"]
        assert slow.first_token_s + slow.slow_s < patience(seconds)

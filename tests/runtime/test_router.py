from __future__ import annotations

import math
from collections.abc import Collection

import pytest

from loopforge.drivers.errors import CredentialsRejected, DriverMissing
from loopforge.drivers.registry import ProviderSettings
from loopforge.runtime.config.values import Route, Target
from loopforge.runtime.errors import NoRoute, ProviderDown
from loopforge.runtime.router import Candidate, Plan, ProviderState, route

NOW = 1000.0
OLLAMA = ProviderSettings(
    name="ollama",
    kind="openai_compatible",
    default_model="llama3.2",
    max_queued=3,
    first_event_timeout_s=600,
    event_gap_timeout_s=300,
)
DEEPSEEK = ProviderSettings(name="deepseek", kind="openai_compatible", default_model="deepseek-chat", max_queued=3)
CLAUDE = ProviderSettings(name="claude", kind="anthropic", default_model="claude-x", max_queued=3)
BARE = ProviderSettings(name="bare", kind="openai_compatible")
PROVIDERS = {settings.name: settings for settings in (OLLAMA, DEEPSEEK, CLAUDE, BARE)}
ROUTES = {
    "planning": Route(kind="planning", targets=(Target(provider="ollama", model="llama3.2"),), lane="interactive"),
    "coding": Route(
        kind="coding",
        targets=(
            Target(provider="ollama", model="qwen3-coder"),
            Target(provider="deepseek", model="deepseek-chat"),
            Target(provider="claude", model="claude-y"),
        ),
        deadline_s=900.0,
        thinking="high",
        resend=False,
        first_event_timeout_s=45.0,
    ),
    "summary": Route(
        kind="summary",
        targets=(Target(provider="ollama", model="llama3.2"), Target(provider="deepseek", model="deepseek-chat")),
        lane="background",
        spill=True,
    ),
}
DOWN = ProviderState(down_until=NOW + 42)
FULL = ProviderState(phase="up", free_slots=0, queued=3)


def resolve(
    kind: str,
    provider: str = "",
    model: str = "",
    *,
    features: Collection[str] = (),
    states: dict[str, ProviderState] | None = None,
) -> Plan:
    return route(kind, provider, model, features, ROUTES, PROVIDERS, states or {}, NOW)


def names(plan: Plan) -> list[str]:
    return [f"{candidate.provider}/{candidate.model}" for candidate in plan.candidates]


def test_the_plan_lists_the_routes_provider_and_then_its_fallbacks_in_order() -> None:
    plan = resolve("coding")
    assert names(plan) == ["ollama/qwen3-coder", "deepseek/deepseek-chat", "claude/claude-y"]
    assert plan.warnings == ()
    assert not plan.pinned


def test_the_plan_carries_what_the_route_says() -> None:
    plan = resolve("coding")
    assert (plan.kind, plan.lane, plan.deadline_s, plan.thinking, plan.resend, plan.spill) == (
        "coding",
        "normal",
        900.0,
        "high",
        False,
        False,
    )
    assert resolve("planning").lane == "interactive"
    assert resolve("planning").resend
    assert resolve("summary").spill


def test_a_routes_timeout_goes_before_the_providers_own() -> None:
    assert resolve("coding").candidates[0] == Candidate(
        provider="ollama", model="qwen3-coder", first_event_timeout_s=45.0, event_gap_timeout_s=300
    )
    assert resolve("planning").candidates[0] == Candidate(
        provider="ollama", model="llama3.2", first_event_timeout_s=600, event_gap_timeout_s=300
    )


@pytest.mark.parametrize(
    ("kind", "hint"),
    [("plannin", "did you mean 'planning'?"), ("zzz", "no route for kind 'zzz'; post"), ("", "no route for kind ''")],
)
def test_an_unknown_kind_is_refused_with_what_is_known(kind: str, hint: str) -> None:
    with pytest.raises(NoRoute) as caught:
        resolve(kind)
    assert hint in str(caught.value)
    assert "one of coding, planning, summary" in caught.value.action


def test_a_kind_of_a_megabyte_is_neither_compared_nor_quoted_in_full() -> None:
    with pytest.raises(NoRoute) as caught:
        resolve("planning" * 200_000)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("model", ["", "default"])
def test_an_override_of_the_provider_alone_means_its_default_model(model: str) -> None:
    plan = resolve("coding", "claude", model)
    assert names(plan) == ["claude/claude-x"]
    assert plan.pinned
    assert (plan.lane, plan.deadline_s, plan.thinking) == ("normal", 900.0, "high")


def test_an_override_of_provider_and_model_is_taken_as_it_is() -> None:
    assert names(resolve("coding", "bare", "a/b")) == ["bare/a/b"]


def test_an_override_of_the_model_alone_stays_with_the_first_provider_of_the_route() -> None:
    plan = resolve("coding", "", "qwen3")
    assert names(plan) == ["ollama/qwen3"]
    assert plan.pinned
    assert names(resolve("coding", "", "default")) == ["ollama/llama3.2"]


def test_an_override_of_an_unknown_kind_is_still_refused() -> None:
    with pytest.raises(NoRoute, match="no route for kind 'codin'"):
        resolve("codin", "claude")


def test_an_override_to_an_unknown_provider_is_refused_with_what_is_known() -> None:
    with pytest.raises(NoRoute) as caught:
        resolve("coding", "olama")
    assert "there is no provider 'olama'; did you mean 'ollama'?" in str(caught.value)
    assert "bare, claude, deepseek, ollama" in caught.value.action


def test_an_override_without_any_model_says_what_to_write() -> None:
    with pytest.raises(NoRoute) as caught:
        resolve("coding", "bare")
    assert caught.value.provider == "bare"
    assert 'default_model = "MODEL" under [providers.bare]' in caught.value.action


def test_a_provider_that_is_down_is_passed_over_and_the_reply_will_say_so() -> None:
    plan = resolve("coding", states={"ollama": DOWN})
    assert names(plan) == ["deepseek/deepseek-chat", "claude/claude-y"]
    assert plan.warnings == ("ollama was passed over: it is down for 42 s more",)


def test_a_fallback_that_is_down_is_left_out_without_a_warning() -> None:
    plan = resolve("coding", states={"deepseek": DOWN})
    assert names(plan) == ["ollama/qwen3-coder", "claude/claude-y"]
    assert plan.warnings == ()


@pytest.mark.parametrize("phase", ["idle", "starting", "up"])
def test_a_provider_takes_turns_from_the_moment_its_down_time_ends(phase: str) -> None:
    states = {
        "ollama": ProviderState(phase=phase, down_until=NOW)  # type: ignore[arg-type]  # parametrize knows only str
    }
    assert names(resolve("planning", states=states)) == ["ollama/llama3.2"]


def test_a_route_without_a_fallback_fails_with_the_time_to_try_again() -> None:
    with pytest.raises(ProviderDown) as caught:
        resolve("planning", states={"ollama": DOWN})
    assert caught.value.provider == "ollama"
    assert caught.value.retry_after_s == 42
    assert "post again in 42 s" in str(caught.value)


def test_a_pinned_turn_fails_with_its_provider_although_the_routes_own_is_up() -> None:
    with pytest.raises(ProviderDown) as caught:
        resolve("planning", "claude", states={"claude": DOWN})
    assert caught.value.provider == "claude"


def test_when_all_are_down_the_first_to_come_back_sets_the_time() -> None:
    states = {
        "ollama": DOWN,
        "deepseek": ProviderState(down_until=NOW + 7),
        "claude": ProviderState(down_until=math.inf, down_error=CredentialsRejected("claude")),
    }
    with pytest.raises(ProviderDown) as caught:
        resolve("coding", states=states)
    assert caught.value.retry_after_s == 7
    assert "every provider of [router.coding] is down" in str(caught.value)
    assert "ollama for 42 s more, deepseek for 7 s more, claude until the configuration changes: the provider " in str(
        caught.value
    )


def test_a_first_provider_that_is_down_for_good_does_not_hide_that_a_fallback_comes_back() -> None:
    states = {
        "ollama": ProviderState(down_until=math.inf, down_error=CredentialsRejected("ollama")),
        "deepseek": DOWN,
    }
    with pytest.raises(ProviderDown) as caught:
        resolve("summary", states=states)
    assert caught.value.retry_after_s == 42


def test_a_provider_that_is_down_for_good_fails_turns_with_a_copy_of_its_reason() -> None:
    reason = DriverMissing("ollama", "there is no driver for kind 'x'")
    states = {"ollama": ProviderState(down_until=math.inf, down_error=reason)}
    with pytest.raises(DriverMissing, match="no driver for kind 'x'") as caught:
        resolve("planning", states=states)
    assert caught.value is not reason
    assert reason.__traceback__ is None
    assert caught.value.retry_after_s is None


def test_when_all_are_down_for_good_the_first_reason_is_told() -> None:
    states = {name: ProviderState(down_until=math.inf, down_error=CredentialsRejected(name)) for name in PROVIDERS}
    with pytest.raises(CredentialsRejected) as caught:
        resolve("coding", states=states)
    assert caught.value.provider == "ollama"


def test_a_reason_with_an_end_says_when_to_come_back() -> None:
    states = {"ollama": ProviderState(down_until=NOW + 5, down_error=CredentialsRejected("ollama"))}
    with pytest.raises(CredentialsRejected) as caught:
        resolve("planning", states=states)
    assert caught.value.retry_after_s == 5


def test_down_for_good_without_a_reason_names_no_time() -> None:
    with pytest.raises(ProviderDown) as caught:
        resolve("planning", states={"ollama": ProviderState(down_until=math.inf)})
    assert caught.value.retry_after_s is None


def test_a_provider_that_lacks_a_feature_is_passed_over_and_the_reply_will_say_so() -> None:
    states = {"ollama": ProviderState(lacks=frozenset({"images", "documents"}))}
    plan = resolve("coding", features=["tools", "images"], states=states)
    assert names(plan) == ["deepseek/deepseek-chat", "claude/claude-y"]
    assert plan.warnings == ("ollama was passed over: it cannot carry images",)
    assert names(resolve("coding", features=["tools"], states=states))[0] == "ollama/qwen3-coder"


def test_a_model_that_lacks_a_feature_is_passed_over_where_another_one_of_the_same_provider_is_not() -> None:
    blind = Target(provider="ollama", model="llama3.2", lacks=("new images", "tools"))
    targets = (blind, Target(provider="ollama", model="llava", lacks=("tools",)))
    routes = {"coding": Route(kind="coding", targets=targets)}
    plan = route("coding", "", "", ["new images"], routes, PROVIDERS, {}, NOW)
    assert names(plan) == ["ollama/llava"]
    assert plan.warnings == ("ollama was passed over: it cannot carry new images",)
    assert names(route("coding", "", "", ["images"], routes, PROVIDERS, {}, NOW)) == ["ollama/llama3.2", "ollama/llava"]
    with pytest.raises(NoRoute, match="ollama: new images, tools; ollama: tools"):
        route("coding", "", "", ["new images", "tools"], routes, PROVIDERS, {}, NOW)
    pinned = route("coding", "ollama", "llama3.2", ["new images"], routes, PROVIDERS, {}, NOW)
    assert names(pinned) == ["ollama/llama3.2"]  # the client's own choice is for the driver to refuse


def test_features_nobody_can_carry_are_refused_with_who_lacks_what() -> None:
    states = {name: ProviderState(lacks=frozenset({"audio"})) for name in PROVIDERS}
    with pytest.raises(NoRoute) as caught:
        resolve("summary", features=["audio"], states=states)
    assert "[router.summary] cannot carry what the turn asks for (ollama: audio; deepseek: audio)" in str(caught.value)
    with pytest.raises(NoRoute, match="provider 'claude', which the turn asks for, cannot carry"):
        resolve("summary", "claude", features=["audio"], states=states)


def test_a_turn_waits_for_the_capable_provider_rather_than_being_refused_for_good() -> None:
    states = {"ollama": ProviderState(lacks=frozenset({"audio"})), "deepseek": DOWN}
    with pytest.raises(ProviderDown) as caught:
        resolve("summary", features=["audio"], states=states)
    assert caught.value.provider == "deepseek"


def test_features_of_any_form_from_a_client_are_only_compared() -> None:
    states = {"ollama": ProviderState(lacks=frozenset({"images"}))}
    odd: list[str] = [{}, [], 7]  # type: ignore[list-item]  # a client's header is only known to hold a list
    assert names(resolve("planning", features=odd, states=states)) == ["ollama/llama3.2"]


def test_a_route_that_spills_passes_over_a_full_queue() -> None:
    plan = resolve("summary", states={"ollama": FULL})
    assert names(plan) == ["deepseek/deepseek-chat", "ollama/llama3.2"]
    assert plan.warnings == ("ollama was passed over: its queue is full",)


@pytest.mark.parametrize(
    "state",
    [
        ProviderState(phase="up", free_slots=1, queued=3),
        ProviderState(phase="up", free_slots=0, queued=2),
        ProviderState(),
    ],
)
def test_a_route_that_spills_stays_while_the_queue_has_room(state: ProviderState) -> None:
    assert names(resolve("summary", states={"ollama": state}))[0] == "ollama/llama3.2"


def test_a_route_that_spills_keeps_its_order_when_all_queues_are_full() -> None:
    assert names(resolve("summary", states={"ollama": FULL, "deepseek": FULL})) == [
        "ollama/llama3.2",
        "deepseek/deepseek-chat",
    ]


def test_a_local_turn_never_leaves_for_a_paid_provider_because_the_local_one_is_busy() -> None:
    assert names(resolve("coding", states={"ollama": FULL}))[0] == "ollama/qwen3-coder"


def test_a_pinned_turn_never_spills() -> None:
    plan = resolve("summary", "ollama", states={"ollama": FULL})
    assert names(plan) == ["ollama/llama3.2"]
    assert not plan.spill

"""What the configuration says, and who is asked therefore."""

from __future__ import annotations

from loopforge.drivers.registry import KINDS, has_driver
from loopforge.runtime.config.load import check_text
from loopforge.runtime.config.values import Checked, Config
from loopforge.runtime.doctor.routes import MAX_PROBLEMS, judge_config, judge_routes, routed
from tests.runtime.config.checking import FILE, OLLAMA, accepted
from tests.runtime.doctor.asking import told, two_providers


def test_first_choices_are_asked_before_fallbacks_each_with_all_its_models_and_kinds() -> None:
    config = two_providers('[router.coding]\nprovider = "ollama"\nmodel = "qwen"\n[router.deep]\nprovider = "acme"\n')
    acme, ollama = routed(config)
    assert (acme.settings.name, acme.models, acme.kinds, acme.first) == ("acme", ("m",), ("planning", "deep"), True)
    assert (ollama.settings.name, ollama.models) == ("ollama", ("llama3.2", "qwen"))
    assert (ollama.kinds, ollama.first) == (("planning", "coding", "summary"), True)


def test_a_provider_that_is_only_a_fallback_is_no_first_choice() -> None:
    config = two_providers('[router.coding]\nprovider = "acme"\n[router.summary]\nprovider = "acme"\n')
    assert [(found.settings.name, found.first) for found in routed(config)] == [("acme", True), ("ollama", False)]


def test_providers_can_be_picked_even_one_that_no_route_names() -> None:
    config = two_providers('[providers.idle]\nbase_url = "https://x"\ndefault_model = "big"\n')
    (ollama,) = routed(config, ["ollama"])
    assert ollama.settings.name == "ollama"
    (idle,) = routed(config, ["idle"])
    assert (idle.models, idle.kinds, idle.first) == (("big",), (), True)


def test_each_kind_is_told_with_all_the_places_its_turns_may_go_to() -> None:
    assert told(list(judge_routes(two_providers()))) == [
        ("ok", "planning goes to acme/m, else to ollama/llama3.2"),
        ("ok", "coding goes to ollama/llama3.2"),
        ("ok", "summary goes to ollama/llama3.2"),
    ]


def test_a_kind_of_provider_without_a_driver_is_an_error_where_turns_begin() -> None:
    missing = [kind for kind in KINDS if not has_driver(kind)]
    for kind in missing:
        config = accepted(
            f'{OLLAMA}[providers.x]\nkind = "{kind}"\nbase_url = "https://x"\ndefault_model = "m"\n'
            '[router.planning]\nprovider = "x"\n[router.coding]\nprovider = "ollama"\nfallbacks = ["x"]\n'
        )
        findings = [found for found in judge_routes(config) if found.status != "ok"]
        assert [found.status for found in findings] == ["error", "warn"]
        assert findings[0].next_step == "route it elsewhere: loopforge route set planning PROVIDER"


def test_every_problem_is_told_with_its_line_and_one_action_for_all() -> None:
    checked = check_text("[providers.ollama]\nfoo = 1\nbar = 2\n", FILE, {})
    findings = list(judge_config(checked, FILE, there=True, presets=False))
    assert {found.status for found in findings} == {"error"}
    assert any(found.what.startswith(f"{FILE}:2: providers.ollama.foo: ") for found in findings)
    assert {found.action for found in findings} == {
        f"correct {FILE} as said above; see it again with: loopforge config validate"
    }
    absent = list(judge_config(checked, FILE, there=False, presets=False))
    assert {found.action for found in absent} == {"write a configuration: loopforge init; or name yours with --config"}


def test_of_very_many_problems_the_first_are_told() -> None:
    checked = check_text("[providers.a]\n" + "".join(f"k{number} = 1\n" for number in range(40)), FILE, {})
    findings = list(judge_config(checked, FILE, there=True, presets=False))
    assert len(findings) == MAX_PROBLEMS + 1
    assert findings[-1].what == f"and {len(checked.problems) - MAX_PROBLEMS} more in {FILE}"


def warnings_of(config: Config) -> list[str]:
    found = judge_config(Checked(config=config), FILE, there=True, presets=False)
    return [finding.what for finding in found if finding.status == "warn"]


def test_missing_keys_are_left_to_the_check_of_keys_and_other_warnings_are_told() -> None:
    config = accepted(
        f'[llm]\n{OLLAMA}[providers.x]\nbase_url = "https://x"\napi_key_env = "NO_KEY"\ndefault_model = "m"\n'
        '[router.planning]\nprovider = "x"\n'
    )
    assert any("NO_KEY" in warning.problem for warning in config.warnings)
    assert [what.partition(": ")[2] for what in warnings_of(config)] == [
        "llm: this table of the original LoopForge is not read here"
    ]


def test_a_newcomer_is_told_how_to_get_a_file() -> None:
    config = accepted(OLLAMA)
    (found,) = judge_config(Checked(config=config), FILE, there=False, presets=True)
    assert (found.status, found.next_step) == ("warn", "write a configuration to edit: loopforge init")

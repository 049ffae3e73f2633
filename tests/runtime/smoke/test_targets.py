"""Which provider is asked, with which model, and why not: from the configuration and the environment alone."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest

from loopforge.drivers.registry import Kind, ProviderSettings, has_driver
from loopforge.runtime.smoke.targets import SKIP_OLLAMA, model_variables, targets_of, variables_of
from tests.runtime.smoke.playing import KEY, every_key, presets

# What a person is told to export; a preset that is renamed breaks somebody's nightly run.
MODEL_VARIABLES = {
    "ollama": ["LOOPFORGE_OLLAMA_MODEL"],
    "deepseek": ["LOOPFORGE_DEEPSEEK_MODEL"],
    "kimi": ["LOOPFORGE_KIMI_MODEL"],
    "kimi_cn": ["LOOPFORGE_KIMI_CN_MODEL", "LOOPFORGE_KIMI_MODEL"],
    "qwen": ["LOOPFORGE_QWEN_MODEL"],
    "qwen_cn": ["LOOPFORGE_QWEN_CN_MODEL", "LOOPFORGE_QWEN_MODEL"],
    "qwen_sg": ["LOOPFORGE_QWEN_SG_MODEL", "LOOPFORGE_QWEN_MODEL"],
    "glm": ["LOOPFORGE_GLM_MODEL"],
    "minimax": ["LOOPFORGE_MINIMAX_MODEL"],
    "nvidia": ["LOOPFORGE_NVIDIA_MODEL"],
    "qwen_native": ["LOOPFORGE_QWEN_NATIVE_MODEL", "LOOPFORGE_QWEN_MODEL"],
    "qwen_native_cn": ["LOOPFORGE_QWEN_NATIVE_CN_MODEL", "LOOPFORGE_QWEN_NATIVE_MODEL", "LOOPFORGE_QWEN_MODEL"],
    "qwen_native_sg": ["LOOPFORGE_QWEN_NATIVE_SG_MODEL", "LOOPFORGE_QWEN_NATIVE_MODEL", "LOOPFORGE_QWEN_MODEL"],
    "glm_native": ["LOOPFORGE_GLM_NATIVE_MODEL", "LOOPFORGE_GLM_MODEL"],
    "minimax_native": ["LOOPFORGE_MINIMAX_NATIVE_MODEL", "LOOPFORGE_MINIMAX_MODEL"],
    "minimax_anthropic": ["LOOPFORGE_MINIMAX_ANTHROPIC_MODEL", "LOOPFORGE_MINIMAX_MODEL"],
    "anthropic": ["LOOPFORGE_ANTHROPIC_MODEL"],
    "gemini": ["LOOPFORGE_GEMINI_MODEL"],
    "bedrock": ["LOOPFORGE_BEDROCK_MODEL"],
}


def test_each_preset_has_its_model_variables() -> None:
    assert {name: list(model_variables(name, presets())) for name in presets()} == MODEL_VARIABLES


def test_with_every_key_nothing_that_has_a_driver_is_skipped() -> None:
    skipped = {target.name: target.skip for target in targets_of(presets(), every_key()) if target.skip}
    assert skipped.keys() == {name for name, settings in presets().items() if not has_driver(settings.kind)}


def test_without_any_variable_only_what_needs_no_key_and_has_a_model_is_asked() -> None:
    targets = targets_of(presets(), {})
    assert [target.name for target in targets if not target.skip] == ["ollama"]
    glm = next(target for target in targets if target.name == "glm")
    assert (glm.skip, glm.next_step) == ("ZHIPUAI_API_KEY is not set here", "export ZHIPUAI_API_KEY=…")


def test_a_provider_without_a_model_says_which_variable_names_one() -> None:
    settings = replace(presets()["glm"], default_model="")
    (target,) = targets_of({"glm": settings}, {"ZHIPUAI_API_KEY": KEY})
    assert target.skip == "no model is named"
    assert "export LOOPFORGE_GLM_MODEL=MODEL" in target.next_step


@pytest.mark.parametrize(
    ("variables", "model", "named_by"),
    [
        ({}, "glm-4", ""),
        ({"LOOPFORGE_GLM_MODEL": "glm-5.3"}, "glm-5.3", "LOOPFORGE_GLM_MODEL"),
        (
            {"LOOPFORGE_GLM_MODEL": "glm-5.3", "LOOPFORGE_GLM_NATIVE_MODEL": "glm-5.2"},
            "glm-5.2",
            "LOOPFORGE_GLM_NATIVE_MODEL",
        ),
        ({"LOOPFORGE_GLM_NATIVE_MODEL": ""}, "glm-4", ""),
    ],
)
def test_a_provider_is_asked_for_its_own_variables_model_then_its_familys_then_its_default(
    variables: dict[str, str], model: str, named_by: str
) -> None:
    (target,) = targets_of(presets(), variables, ["glm_native"])
    assert (target.model, target.model_from) == (model, named_by)


def test_a_name_in_front_is_no_family_without_the_same_key() -> None:
    providers = {
        name: ProviderSettings(name=name, kind="openai_compatible", api_key_env=key)
        for name, key in {"acme": "ACME_KEY", "acme_eu": "OTHER_KEY", "local": "", "local_big": ""}.items()
    }
    assert model_variables("acme_eu", providers) == ("LOOPFORGE_ACME_EU_MODEL",)
    assert model_variables("local_big", providers) == ("LOOPFORGE_LOCAL_BIG_MODEL",)


def test_a_dash_in_a_providers_name_is_an_underscore_in_its_variable() -> None:
    settings = ProviderSettings(name="my-own", kind="openai_compatible")
    assert model_variables("my-own", {"my-own": settings}) == ("LOOPFORGE_MY_OWN_MODEL",)


@pytest.mark.parametrize(("value", "left_out"), [("1", True), ("yes", True), ("0", False), ("", False)])
def test_ollama_can_be_left_out_by_a_variable(value: str, left_out: bool) -> None:
    (target,) = targets_of({"ollama": presets()["ollama"]}, {SKIP_OLLAMA: value})
    assert bool(target.skip) is left_out


def test_whoever_asks_for_ollama_by_name_gets_it_all_the_same() -> None:
    (target,) = targets_of(presets(), {SKIP_OLLAMA: "1"}, ["ollama"])
    assert not target.skip


def test_a_kind_without_a_driver_says_so() -> None:
    settings = replace(presets()["glm"], kind=cast("Kind", "no_such_wire"))
    (target,) = targets_of({"glm": settings}, every_key())
    assert target.skip == "this version has no driver for no_such_wire"


def test_a_provider_that_is_not_there_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="glmm"):
        targets_of(presets(), {}, ["glmm"])


def test_no_key_gets_into_a_target() -> None:
    assert KEY not in repr(targets_of(presets(), every_key()))


def test_the_variables_that_decide_are_all_told() -> None:
    assert variables_of(presets()) == {
        SKIP_OLLAMA,
        *(variable for variables in MODEL_VARIABLES.values() for variable in variables),
        *(settings.api_key_env for settings in presets().values() if settings.api_key_env),
    }

"""Which providers of a configuration can be asked for real, with which model, and why not. Pure: the caller reads env.

Everything is derived from the configuration, so the 19 presets and a person's own providers follow the same rules. The
key is where `api_key_env` says. The model is the one that LOOPFORGE_NAME_MODEL names, NAME being the provider's; or the
one that the variable of its family names (glm for glm_native, minimax for minimax_anthropic: the same name before an
underscore, the same key); or the provider's default_model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from loopforge.drivers.registry import ProviderSettings, has_driver
from loopforge.runtime.config.paths import Environment, key_state

SKIP_OLLAMA = "LOOPFORGE_SKIP_OLLAMA_SMOKE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One provider and the model to ask it for.

    `model_variables`: those that may name the model, first one first; `model_from`: the one that did, "" for
    default_model. `skip`: why it is not asked, "" when it is; `next_step`: what would change that.
    """

    settings: ProviderSettings
    model: str
    model_variables: tuple[str, ...]
    model_from: str = ""
    skip: str = ""
    next_step: str = ""

    @property
    def name(self) -> str:
        return self.settings.name


def targets_of(
    providers: Mapping[str, ProviderSettings], env: Environment, names: Iterable[str] | None = None
) -> tuple[Target, ...]:
    """The providers as targets, in the configuration's order.

    `names`: only these, and for them SKIP_OLLAMA does not count. Raises KeyError for a name that is not there.
    """
    if names is None:
        return tuple(_target(settings, providers, env, asked_for=False) for settings in providers.values())
    return tuple(_target(providers[name], providers, env, asked_for=True) for name in names)


def model_variables(name: str, providers: Mapping[str, ProviderSettings]) -> tuple[str, ...]:
    """The environment variables that may name the provider's model: its own, then its family's."""
    key = providers[name].api_key_env
    family = [
        other
        for other, settings in providers.items()
        if key and settings.api_key_env == key and name.startswith((f"{other}_", f"{other}-"))
    ]
    return tuple(_variable(member) for member in (name, *sorted(family, key=len, reverse=True)))


def variables_of(providers: Mapping[str, ProviderSettings]) -> frozenset[str]:
    """Every variable that decides about these targets, the keys' own among them."""
    keys = {settings.api_key_env for settings in providers.values() if settings.api_key_env}
    models = {variable for name in providers for variable in model_variables(name, providers)}
    return frozenset({SKIP_OLLAMA, *keys, *models})


def _variable(name: str) -> str:
    return f"LOOPFORGE_{re.sub('[^A-Z0-9]', '_', name.upper())}_MODEL"


def _target(
    settings: ProviderSettings, providers: Mapping[str, ProviderSettings], env: Environment, *, asked_for: bool
) -> Target:
    variables = model_variables(settings.name, providers)
    named_by = next((variable for variable in variables if env.get(variable)), "")
    model = env[named_by] if named_by else settings.default_model
    skip, next_step = "", ""
    if settings.vendor == "ollama" and not asked_for and env.get(SKIP_OLLAMA, "") not in ("", "0"):
        skip, next_step = f"{SKIP_OLLAMA} leaves it out", f"unset {SKIP_OLLAMA}"
    elif not has_driver(settings.kind):
        skip, next_step = f"this version has no driver for {settings.kind}", "try a newer version of LoopForge"
    elif key_state(settings.api_key_env, env) == "not set":
        skip, next_step = f"{settings.api_key_env} is not set here", f"export {settings.api_key_env}=…"
    elif not model:
        skip, next_step = "no model is named", f"export {variables[0]}=MODEL, or write default_model in config.toml"
    return Target(
        settings=settings,
        model=model,
        model_variables=variables,
        model_from=named_by,
        skip=skip,
        next_step=next_step,
    )

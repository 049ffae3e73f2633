"""Whether the keys are there that routes need. Pure but for a look at which credential files exist.

A key is looked at and never repeated. Only what a route needs can be an error: the other presets need no key.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from loopforge.drivers.registry import ProviderSettings, has_driver
from loopforge.runtime.config.paths import Environment, key_state
from loopforge.runtime.config.values import Config
from loopforge.runtime.doctor.finding import Finding, error, ok
from loopforge.runtime.doctor.routes import Routed


def judge_keys(targets: Collection[Routed], env: Environment, served: Mapping[str, Any]) -> Iterator[Finding]:
    """One finding a routed provider that needs a key, one for all that need none.

    `served`: what a running service of this configuration tells of itself, else empty: it has an environment of its
    own, and a provider that has answered there has its key.
    """
    without = [target.settings.name for target in targets if not target.settings.api_key_env]
    for target in targets:
        if target.settings.api_key_env:
            yield _judge(target, env, served)
    if without:
        kinds = {target.settings.kind for target in targets if not target.settings.api_key_env}
        need = "takes its credentials from AWS" if kinds == {"bedrock"} else "no key variable to set"
        yield ok("keys", f"{', '.join(without)}: {need}")


def spare_providers(config: Config, targets: Collection[Routed], env: Environment) -> tuple[str, ...]:
    """Providers that no route names, and whose key is there: a newcomer may have one and not know how to use it."""
    named = {target.settings.name for target in targets}
    return tuple(
        name
        for name, settings in config.providers.items()
        if name not in named
        and settings.api_key_env
        and settings.default_model
        and has_driver(settings.kind)
        and key_state(settings.api_key_env, env) in ("set", "in a credentials file")
        and not trouble_with_key(env.get(settings.api_key_env, ""))
    )


def _judge(target: Routed, env: Environment, served: Mapping[str, Any]) -> Finding:
    name, variable = target.settings.name, target.settings.api_key_env
    state = key_state(variable, env)
    if state == "in a credentials file":
        return ok("keys", f"{variable} is there, in the folder of credentials", subject=name)
    if state == "set":
        if wrong := trouble_with_key(env[variable]):
            return error(
                "keys",
                f"{variable} {wrong}",
                f"set the key of {name} again, as it is: export {variable}=…",
                subject=name,
            )
        return ok("keys", f"{variable} is set", subject=name)
    if _has_answered(name, served):
        told = f"{variable} is not set here, and the running service has it: {name} has answered there"
        return ok("keys", told, subject=name)
    users = ", ".join(target.kinds)
    what = f"{variable} is not set" + (f", and {users} turns go to {name}" if users else "")
    return error("keys", what, f"set the key of {name} where the service runs: export {variable}=…", subject=name)


def trouble_with_key(key: str) -> str:
    """What keeps a key from being sent, "" for nothing: real ones are printable ASCII without blanks."""
    if any(char.isspace() for char in key):
        return "holds a blank or a line break"
    if key[:1] in "'\"" and key[:1] == key[-1:] and key:
        return "holds the quotes around the key as well"
    if not (key.isascii() and key.isprintable()):
        return "holds a character that no API key has"
    return ""


def _has_answered(name: str, served: Mapping[str, Any]) -> bool:
    """With the key that it has now: outcomes are told of what it had before a reload, too, its traffic is not."""
    return any(
        provider.get("name") == name
        and provider.get("state") != "retiring"
        and (provider.get("traffic") or {}).get("done")
        for provider in served.get("providers", [])
    )


def signs_with_clock(settings: ProviderSettings) -> bool:
    """Whether requests carry a signature that holds for minutes: AWS's SigV4, Zhipu's tokens."""
    return settings.kind in ("bedrock", "zhipu_native")

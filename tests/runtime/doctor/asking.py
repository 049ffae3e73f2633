"""Configurations and targets for tests of doctor's checks."""

from __future__ import annotations

from typing import Any

from loopforge.drivers.registry import ProviderSettings
from loopforge.runtime.config.values import Config
from loopforge.runtime.doctor.finding import Finding
from loopforge.runtime.doctor.routes import Routed
from tests.runtime.config.checking import accepted

CLOUD = "https://api.acme.test/v1"


def target(
    name: str = "acme",
    *,
    models: tuple[str, ...] = ("m",),
    kinds: tuple[str, ...] = ("planning",),
    first: bool = True,
    base_url: str = CLOUD,
    **settings: Any,
) -> Routed:
    made = ProviderSettings(**{"name": name, "kind": "openai_compatible", "base_url": base_url, **settings})
    return Routed(settings=made, models=models, kinds=kinds, first=first)


def two_providers(extra: str = "") -> Config:
    """Planning goes to a cloud with a key, else to a local Ollama; the rest to that."""
    return accepted(
        f'[providers.acme]\nbase_url = "{CLOUD}"\napi_key_env = "ACME_KEY"\ndefault_model = "m"\n'
        '[providers.ollama]\nbase_url = "http://127.0.0.1:11434/v1"\ndefault_model = "llama3.2"\n'
        '[router.planning]\nprovider = "acme"\nfallbacks = ["ollama"]\n' + extra,
        {"ACME_KEY": "k"},
    )


def told(findings: list[Finding]) -> list[tuple[str, str]]:
    """Status and text, to compare with."""
    return [(found.status, found.what) for found in findings]

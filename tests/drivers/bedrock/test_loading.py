"""AWS's libraries are loaded in the process of a provider at AWS, and nowhere else."""

from __future__ import annotations

import pytest

from tests.packaging.test_imports import modules_after

HEAVY = {"botocore", "aiobotocore", "aiohttp"}
OPEN = """
from loopforge.drivers.auth import open_auth
from loopforge.drivers.registry import ProviderSettings, open_driver
settings = ProviderSettings(name="a", kind={kind!r}, base_url="http://127.0.0.1:9", api_key_env={variable!r})
open_driver(settings)
open_auth(settings, "key")
"""


def test_the_driver_is_pure() -> None:
    assert not modules_after("import loopforge.drivers.bedrock") & {*HEAVY, "trio", "httpx2", "h11", "pydantic"}


@pytest.mark.parametrize(
    ("kind", "variable"), [("openai_compatible", "K"), ("anthropic", "K"), ("bedrock", "K"), ("bedrock", "")]
)
def test_opening_driver_and_auth_loads_nothing_of_awss(kind: str, variable: str) -> None:
    assert not modules_after(OPEN.format(kind=kind, variable=variable)) & HEAVY


def test_looking_for_credentials_does() -> None:
    assert modules_after("import loopforge.drivers.aws_chain") >= HEAVY

"""The driver for an exchange of this wire; the exchanges themselves are shared (tests/drivers/exchanges.py)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from loopforge.drivers.openai_compatible import OpenAICompatible, open_driver
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.vendors import PROFILES
from tests.drivers import exchanges
from tests.drivers.exchanges import PROVIDER, Exchange, Outcome

VENDOR_NAMES = {"moonshot": "kimi"}


def recordings() -> tuple[Exchange, ...]:
    return exchanges.recordings("openai_compatible")


def driver_for(vendor: str, **settings: Any) -> OpenAICompatible:
    """A driver with the profile of a recording's vendor, the generic one where it has none."""
    name = VENDOR_NAMES.get(vendor, vendor)
    return open_driver(
        ProviderSettings(
            name=PROVIDER,
            kind="openai_compatible",
            base_url="https://provider.example/v1",
            vendor=name if name in PROFILES else "generic",
            **settings,
        )
    )


def read(exchange: Exchange, body: Iterable[bytes] | None = None) -> Outcome:
    """What the driver makes of the exchange, with its body in these pieces."""
    return exchanges.read(driver_for(exchange.vendor), exchange, body)

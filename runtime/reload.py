"""What is different between two configurations, as far as a running service is concerned. Pure."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from loopforge.drivers.registry import ProviderSettings
from loopforge.runtime.config.values import Config

AT_START = ("socket", "journal", "retain_days", "retain_mb")
"""Keys of [runtime] that only a start acts on."""
_ALLOWED = ("allow_users", "allow_groups")


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Names of providers and kinds, and keys of [runtime]. `at_start`: those that count from the next start on."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    at_start: tuple[str, ...] = ()

    def to_plain(self) -> dict[str, Any]:
        """For the answer to `loopforge reload`."""
        return {item.name: list(getattr(self, item.name)) for item in fields(self)}

    def __str__(self) -> str:
        said = [
            f"{what}: {', '.join(names)}"
            for what, names in (
                ("new providers", self.added),
                ("changed providers", self.changed),
                ("removed providers", self.removed),
                ("changed routes", self.kinds),
                ("changed settings", self.settings),
                ("counts from the next start on", self.at_start),
            )
            if names
        ]
        return "; ".join(said) or "nothing changed"


def compare(old: Config, new: Config) -> Changes:
    """What a service that runs `old` has to do for `new`."""
    kept = old.providers.keys() & new.providers.keys()
    settings = [item.name for item in fields(old.runtime) if _differs(old, new, item.name)]
    at_start = {*AT_START, *(_ALLOWED if _is_shared(old) != _is_shared(new) else ())}
    return Changes(
        added=tuple(name for name in new.providers if name not in old.providers),
        changed=tuple(name for name in new.providers if name in kept and old.providers[name] != new.providers[name]),
        removed=tuple(name for name in old.providers if name not in new.providers),
        kinds=tuple(
            kind
            for kind in sorted(old.routes.keys() | new.routes.keys())
            if old.routes.get(kind) != new.routes.get(kind)
        ),
        settings=tuple(name for name in settings if name not in at_start),
        at_start=tuple(name for name in settings if name in at_start),
    )


def is_same_account(old: ProviderSettings, new: ProviderSettings) -> bool:
    """Whether turns of both count against the same limits: one address, and one variable that names the key.

    What that variable holds is not known here. Another key behind it waits out the minute of the one before, 60 s at
    most; the other mistake would overrun a limit at once. Headers, timeouts and models make no other account.
    """
    return (old.name, old.base_url, old.api_key_env, old.aws_bedrock) == (
        new.name,
        new.base_url,
        new.api_key_env,
        new.aws_bedrock,
    )


def _differs(old: Config, new: Config, name: str) -> bool:
    return bool(getattr(old.runtime, name) != getattr(new.runtime, name))


def _is_shared(config: Config) -> bool:
    """Whether the socket is made for others than its owner, which is decided as it is made."""
    return bool(config.runtime.allow_users or config.runtime.allow_groups)

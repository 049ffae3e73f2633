"""What is different between two configurations, as far as a running service is concerned. Pure."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from loopforge.runtime.config.values import Config

AT_START = ("socket", "journal", "retain_days", "retain_mb")
"""Keys of [runtime] that only a start acts on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Names of providers and kinds. `at_start`: keys of [runtime] whose new value counts from the next start on."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
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
                ("counts from the next start on", self.at_start),
            )
            if names
        ]
        return "; ".join(said) or "nothing changed"


def compare(old: Config, new: Config) -> Changes:
    """What a service that runs `old` has to do for `new`."""
    kept = old.providers.keys() & new.providers.keys()
    return Changes(
        added=tuple(name for name in new.providers if name not in old.providers),
        changed=tuple(name for name in new.providers if name in kept and old.providers[name] != new.providers[name]),
        removed=tuple(name for name in old.providers if name not in new.providers),
        kinds=tuple(
            kind
            for kind in sorted(old.routes.keys() | new.routes.keys())
            if old.routes.get(kind) != new.routes.get(kind)
        ),
        at_start=tuple(name for name in AT_START if getattr(old.runtime, name) != getattr(new.runtime, name)),
    )

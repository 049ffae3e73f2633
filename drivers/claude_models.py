"""What each generation of Claude models takes, as data, whoever serves them. Pure.

Facts: the vendor's API reference and error texts as of November 2026; this table changes monthly. Words of the values:

`thinking`: "none", "manual" (enabled with a budget), "either", "adaptive", or "always" (adaptive, and cannot be
switched off); `efforts`: an effort is taken. `sampling`: temperature and top_p are taken always, never, or only
without thinking; `both_samplers`: together, too. `forced_tools`: a call can be forced always, never, or only without a
thinking budget. `structured`: how an answer of a schema is asked for: a field, its beta form, or a tool that must be
called; `strict_tools`: schemas of tools are enforced. `prefill`: the last message may be the assistant's.
`late_system`: messages of role system are taken. `most_tokens`: of an answer (0: not known).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What is different from version `since` on, for families that `families` names (empty: all)."""

    since: tuple[int, int]
    families: tuple[str, ...] = ()
    changes: Mapping[str, Any]


def _since(major: int, minor: int, *families: str, **changes: Any) -> Generation:
    return Generation(since=(major, minor), families=families, changes=changes)


_OLD = {"thinking": "none", "most_tokens": 4096}
_MANUAL = {"thinking": "manual", "sampling": "not_thinking", "forced_tools": "not_thinking", "most_tokens": 64_000}
_ONE_SAMPLER = {**_MANUAL, "both_samplers": False}
_EITHER = {
    **_ONE_SAMPLER, "thinking": "either", "efforts": True, "structured": "format", "strict_tools": True,
    "prefill": False, "most_tokens": 128_000,
}  # fmt: skip
_ADAPTIVE = {**_EITHER, "thinking": "adaptive", "sampling": "never", "forced_tools": "yes", "most_tokens": 0}
_ALWAYS = {**_ADAPTIVE, "thinking": "always", "forced_tools": "no"}

# The first row that fits counts: newest first, what holds for one family before what holds for all.
_GENERATIONS = (
    _since(0, 0, "fable", "mythos", **_ALWAYS, late_system=True),
    _since(5, 5, "opus", **_ALWAYS, late_system=True),
    _since(4, 8, "opus", **_ADAPTIVE, late_system=True),
    _since(4, 7, **_ADAPTIVE),
    _since(4, 6, **_EITHER),
    _since(4, 5, **_ONE_SAMPLER, structured="format", strict_tools=True),
    _since(4, 1, **{**_ONE_SAMPLER, "most_tokens": 32_000}, structured="beta"),
    _since(4, 0, "opus", **{**_MANUAL, "most_tokens": 32_000}),
    _since(4, 0, **_MANUAL),
    _since(3, 7, **_MANUAL),
    _since(3, 5, **{**_OLD, "most_tokens": 8192}),
    _since(0, 0, **_OLD),
)
_UNKNOWN = _EITHER  # a name without a version on Anthropic's own wire: the generation that takes old and new forms

_FAMILIES = "opus|sonnet|haiku|fable|mythos|instant"
_CLAUDE = re.compile(
    rf"claude-(?:(?P<first>{_FAMILIES})-)?(?:(?P<major>\d{{1,2}})(?:[-.](?P<minor>\d{{1,2}}))?(?!\d))?"
    rf"(?:-(?P<last>{_FAMILIES}))?",
    re.IGNORECASE,
)


def claude_version(model: str) -> tuple[str, tuple[int, int]] | None:
    """Family and version that a model's name tells: claude-3-5-haiku-20241022 and claude-opus-4.5 do, "fast" does not.

    A name with a family alone has version (0, 0).
    """
    found = _CLAUDE.search(model)
    if found is None:
        return None
    family = (found["first"] or found["last"] or "").lower()
    if found["major"] is None and not family:
        return None
    return family, (int(found["major"] or 0), int(found["minor"] or 0))


def generation(model: str) -> Mapping[str, Any]:
    """What is known of the model that the name tells; of a name without a version, what the newest wire takes."""
    named = claude_version(model)
    if named is None or (named[1] == (0, 0) and named[0] not in ("fable", "mythos")):
        return _UNKNOWN
    family, version = named
    return next(
        row.changes for row in _GENERATIONS if version >= row.since and (not row.families or family in row.families)
    )

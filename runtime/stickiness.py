"""Which provider a session was last served by, while that is not its route's own: prompt caches live there. Pure.

A session that had to leave its route's first target (an error, an open breaker, a full queue) stays where it went for
STAY_S, so that it does not lose its cache twice while the first one comes and goes; then it goes home. A session at
home needs no entry.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from loopforge.runtime.config.values import Target

# Caches live for five minutes to an hour. Longer than a provider's bad spell, shorter than a person wonders why a local
# model's turns still go to a paid one.
STAY_S = 600.0
MAX_SESSIONS = 10_000


@dataclass(frozen=True, slots=True)
class _Away:
    target: Target
    since: float


class Stickiness:
    """Sessions that are away from home, by session and kind of turn. The one noted longest ago is forgotten first."""

    def __init__(self, max_sessions: int = MAX_SESSIONS) -> None:
        self._max_sessions = max_sessions
        self._away: OrderedDict[tuple[str, str], _Away] = OrderedDict()

    def __len__(self) -> int:
        return len(self._away)

    def served(self, session: str, kind: str, by: Target, home: Target, now: float) -> None:
        """A turn of the session got its answer. Turns without a session are nobody's."""
        if not session:
            return
        key = session, kind
        before = self._away.pop(key, None)
        if by == home:
            return
        since = before.since if before is not None and before.target == by else now
        self._away[key] = _Away(by, since)
        if len(self._away) > self._max_sessions:
            self._away.popitem(last=False)

    def target(self, session: str, kind: str, now: float) -> Target | None:
        """Whom the session's next turn should go to if its route allows; None: whomever the route says."""
        away = self._away.get((session, kind))
        if away is None or now - away.since >= STAY_S:
            return None
        return away.target

    def reload(self) -> None:
        """Routes may have changed: every session goes by them from its next turn on."""
        self._away.clear()

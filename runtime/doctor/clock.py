"""How far this machine's clock is off, by the Date headers of answers that cost nothing. Pure.

A signature of AWS holds five minutes either way, a token of Zhipu three: with a clock that is off by more, every turn
is refused as a bad key. Date has whole seconds: RFC 9110, 6.6.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from loopforge.runtime.doctor.dial import Contact
from loopforge.runtime.doctor.finding import Finding, error, ok, warn

SIGNED_WARN_S, SIGNED_ERROR_S = 30.0, 120.0
PLAIN_WARN_S = 300.0
"""Keys that are sent as they are do not care; certificates and log lines do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One server's clock. `ahead_s`: how far ours is ahead of it, negative when behind; true within `within_s`."""

    provider: str
    ahead_s: float
    within_s: float
    signs: bool

    @property
    def at_least_s(self) -> float:
        """What is certain of the difference."""
        return max(abs(self.ahead_s) - self.within_s, 0.0)


def read_clock(contact: Contact, provider: str, *, signs: bool) -> Reading | None:
    """The server's clock at the answer; None when the answer is a cache's, or has no date."""
    if contact.headers.get("age", "0").strip() != "0":
        return None
    try:
        date = parsedate_to_datetime(contact.headers["date"])
    except (KeyError, ValueError, TypeError):
        return None
    ours = (contact.sent_at + contact.received_at) / 2
    theirs = date.timestamp() + 0.5
    within_s = 0.5 + abs(contact.received_at - contact.sent_at) / 2
    return Reading(provider=provider, ahead_s=ours - theirs, within_s=within_s, signs=signs)


def judge_clock(readings: Sequence[Reading], *, expected: bool) -> Iterator[Finding]:
    """Nothing but one finding when all agree. `expected`: somebody far away was asked."""
    if not readings:
        if expected:
            yield ok("clock", "not compared: no provider answered with a date")
        return
    nearest = min(readings, key=lambda reading: reading.at_least_s)
    if nearest.at_least_s > _bearable_s(readings):  # all of them are off: it is ours
        signing = [reading.provider for reading in readings if reading.signs]
        what = f"this machine's clock is {_spell(nearest)} that of {nearest.provider}"
        step = "set the clock: timedatectl set-ntp true"
        if signing and nearest.at_least_s > SIGNED_ERROR_S:
            yield error("clock", f"{what}; {', '.join(signing)} refuses requests signed so", step)
        else:
            yield warn("clock", what, step)
        return
    for reading in readings:
        if reading.at_least_s > (SIGNED_WARN_S if reading.signs else PLAIN_WARN_S):
            what = f"the clock here is {_spell(reading)} that of {reading.provider}, and agrees with other servers"
            yield warn("clock", what, "try again later: that server's clock seems off", subject=reading.provider)
    within = max(abs(nearest.ahead_s) + nearest.within_s, 1.0)
    yield ok("clock", f"agrees with the clock of {nearest.provider} within {within:.0f} s")


def _bearable_s(readings: Sequence[Reading]) -> float:
    return SIGNED_WARN_S if any(reading.signs for reading in readings) else PLAIN_WARN_S


def _spell(reading: Reading) -> str:
    side = "ahead of" if reading.ahead_s > 0 else "behind"
    seconds = abs(reading.ahead_s)
    if seconds < 120:
        return f"{seconds:.0f} s {side}"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min {side}"
    return f"{seconds / 3600:.0f} h {side}" if seconds < 172_800 else f"{seconds / 86_400:.0f} days {side}"

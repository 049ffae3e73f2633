"""How many turns a local server gets at once, when nobody wrote it down: found out from how long first tokens take.

A server works on so many turns at once as it has slots; one more waits inside it, where neither lanes nor deadlines
are seen. That shows in the time to the first token: within the slots it hardly changes, beyond them it grows by a
whole turn. So the number starts at what the server told (or a small guess), rises by one while that time holds, and
falls by a quarter when it has doubled or the server refuses. Pure: samples in, a new state out.

Sources: additive increase, multiplicative decrease (Chiu and Jain, 1989); comparing with the latency of an unloaded
server as Netflix's concurrency-limits does, https://github.com/Netflix/concurrency-limits.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from typing import Literal

# What a prompt's tokens cost differs from server to server; only that a long prompt takes longer holds for all. First
# token times are compared per this many tokens, and short prompts count as this long, because there the rest is noise.
PROMPT_TOKENS = 500
MIN_SAMPLES = 4
KEPT_QUIET = 32  # samples from which the unloaded time is known; the oldest go, because models and machines change


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptivePolicy:
    """`slow`: that many times the unloaded time is too slow. `patience_s`: a number that proved too high is not tried
    again for so long, then twice as long, at most `max_patience_s`.
    """

    slow: float = 2.0
    decrease: float = 0.75
    patience_s: float = 60.0
    max_patience_s: float = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptive:
    """What is known of one server. `limit`: turns it gets at once, 1 to `most`.

    `quiet`, `loaded`: first token times per PROMPT_TOKENS, seconds; of turns that ran beside at most half of the limit
    or alone, and of those that ran with the limit used up since it last changed. `ceiling`: the limit that proved too
    high, not tried again before `ceiling_until`; `patience_s`: how long that was. `told`: the slots that the server
    said it has, None when it said nothing. `source`: where the limit comes from.
    """

    limit: int
    most: int
    told: int | None = None
    source: Literal["guess", "server", "measured"] = "guess"
    quiet: tuple[float, ...] = ()
    loaded: tuple[float, ...] = ()
    ceiling: int = 0
    ceiling_until: float = 0.0
    patience_s: float = 0.0


def begin(slots: int | None, guess: int, most: int) -> Adaptive:
    """`slots`: what the server said of itself, None when it said nothing; then `guess`. `most`: never beyond that."""
    state = Adaptive(limit=max(1, min(guess, most)), most=max(1, most))
    return state if slots is None else after_told(state, slots)


def after_told(state: Adaptive, slots: int) -> Adaptive:
    """The server said how many slots it has: what was found out under another number says nothing of this one.

    What it had said before, told again, changes nothing. Of the samples those of the unloaded server stay.
    """
    if slots == state.told:
        return state
    limit = max(1, min(slots, state.most))
    return Adaptive(limit=limit, most=state.most, told=slots, source="server", quiet=state.quiet)


def after_turn(
    state: Adaptive, *, first_token_s: float, prompt_tokens: int, running: int, now: float, policy: AdaptivePolicy
) -> Adaptive:
    """A turn was answered. `running`: how many ran when it was sent, itself among them; `now`: seconds."""
    sample = first_token_s * PROMPT_TOKENS / max(prompt_tokens, PROMPT_TOKENS)
    if running * 2 <= state.limit or running == 1:
        state = replace(state, quiet=(*state.quiet, sample)[-KEPT_QUIET:])
    if running < state.limit:
        return state
    state = replace(state, loaded=(*state.loaded, sample))
    if len(state.loaded) < max(MIN_SAMPLES, state.limit):
        return state
    unloaded = statistics.median(state.quiet) if state.quiet else min(state.loaded)
    if state.limit > 1 and statistics.median(state.loaded) > policy.slow * unloaded:
        return _lower(state, now, policy)
    return _raise(state, now)


def after_refusal(state: Adaptive, now: float, policy: AdaptivePolicy) -> Adaptive:
    """The server refused a turn as too many (Overloaded, RateLimited): the limit is too high, whatever was measured."""
    return _lower(state, now, policy)


def _raise(state: Adaptive, now: float) -> Adaptive:
    higher = min(state.limit + 1, state.most)
    if state.ceiling and higher >= state.ceiling and now < state.ceiling_until:
        higher = state.limit
    source = state.source if higher == state.limit else "measured"
    return replace(state, limit=higher, source=source, loaded=())


def _lower(state: Adaptive, now: float, policy: AdaptivePolicy) -> Adaptive:
    lower = max(1, min(int(state.limit * policy.decrease), state.limit - 1))
    again = state.limit == state.ceiling
    patience_s = min(state.patience_s * 2, policy.max_patience_s) if again else policy.patience_s
    return replace(
        state,
        limit=lower,
        source="measured",
        loaded=(),
        ceiling=state.limit,
        ceiling_until=now + patience_s,
        patience_s=patience_s,
    )

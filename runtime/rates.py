"""How many requests and tokens a provider gets a minute. Pure: `now` is an argument, turns are names.

Counted over the last 60 s, so that no minute, wherever it begins, holds more than was allowed. What a turn will cost is
estimated when it starts and corrected when the provider has said; what it did not use is free at once. The interactive
lane keeps a tenth of each limit for itself, as it keeps slots: others may not use up the minute before a person asks.

What the provider's rate-limit headers say tightens this further: until the time they name, no more starts than they say
are left. They are believed for a minute at most (RFC 9110 and the vendors' pages leave open which of them mean a
minute, which a day); a provider that still wants no turn says so with a 429, and breakers.py hears it.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from itertools import takewhile

from loopforge.drivers.turn import Limits

MINUTE_S = 60.0
INTERACTIVE_SHARE = 10  # one part in so many
# What an answer costs as long as none was seen: a paragraph or two. Then the mean of the latest answers.
FIRST_OUTPUT_TOKENS = 500.0
LATEST_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class RatesStatus:
    """The last minute. Limits of 0 are none. `held_until`: by the provider's own headers, -math.inf when it is not."""

    requests: int
    requests_limit: int
    tokens: int
    tokens_limit: int
    held_until: float


class Rates:
    """The minute of one provider. Limits of 0 are none; then only headers limit, and nothing is kept before the first.

    `keeps_share`: the interactive lane has its share; without it all lanes are alike.
    """

    def __init__(self, requests_limit: int, tokens_limit: int, *, keeps_share: bool) -> None:
        self.requests, self.tokens = _Minute(), _Minute()
        self._uses: deque[_Use] = deque()
        self._by_turn: dict[str, _Use] = {}
        self._output_tokens = FIRST_OUTPUT_TOKENS
        self._headers_at = -math.inf
        self.active = False
        """Whether there is, or was, any limit."""
        self.set_limits(requests_limit, tokens_limit, keeps_share=keeps_share)

    def set_limits(self, requests_limit: int, tokens_limit: int, *, keeps_share: bool) -> None:
        """These from now on. What was used in the last minute, and what headers said, counts as before.

        What was used while there was no limit at all was not counted.
        """
        self.requests.resize(requests_limit, max(1, requests_limit // INTERACTIVE_SHARE) if keeps_share else 0)
        self.tokens.resize(tokens_limit, tokens_limit // INTERACTIVE_SHARE if keeps_share else 0)
        self.active = self.active or bool(requests_limit or tokens_limit)

    def estimate(self, prompt_tokens: int) -> int:
        """Tokens that a turn with such a prompt costs, as far as one can tell before."""
        return prompt_tokens + round(self._output_tokens)

    def when(self, prompt_tokens: int, now: float, *, interactive: bool) -> float:
        """The first moment at which a turn may start if no other starts before; `now` when it may start now."""
        if not self.active:
            return now
        self._forget(now)
        tokens = self.estimate(prompt_tokens)
        requests, spent = self.requests, self.tokens
        if requests.has_room(1, interactive) and spent.has_room(tokens, interactive):
            return max(now, requests.held_until(1, now), spent.held_until(tokens, now))
        return self._when(_View(requests, 1, interactive), _View(spent, tokens, interactive), tokens, now)

    def when_in_share(self, prompt_tokens: int, now: float) -> float:
        """The same for an interactive turn that takes nothing but what its lane alone may use. math.inf: never."""
        self._forget(now)
        tokens = self.estimate(prompt_tokens)
        return self._when(_ShareView(self.requests, 1), _ShareView(self.tokens, tokens), tokens, now)

    def _when(self, requests: _View, spent: _View, tokens: int, now: float) -> float:
        at = max(now, self.requests.held_until(1, now), self.tokens.held_until(tokens, now))
        if requests.fits and spent.fits:
            return at
        for use in self._uses:
            requests.give_back(1 if use.requests else 0, use.interactive)
            spent.give_back(use.tokens, use.interactive)
            if requests.fits and spent.fits:
                return max(at, use.at + MINUTE_S)
        return math.inf

    def take(self, turn: str, prompt_tokens: int, now: float, *, interactive: bool) -> None:
        """The turn starts now, whatever `when` says."""
        if not self.active:
            return
        self._forget(now)
        use = _Use(turn, now, interactive, self.estimate(prompt_tokens))
        self._uses.append(use)
        self._by_turn[turn] = use
        self.requests.add(1, interactive)
        self.tokens.add(use.tokens, interactive)

    def correct(self, turn: str, input_tokens: int | None, output_tokens: int | None) -> None:
        """The attempt cost that much. Of what the provider did not say, the estimate stays."""
        if output_tokens is not None:
            self._output_tokens += LATEST_SHARE * (output_tokens - self._output_tokens)
        if input_tokens is not None and (use := self._by_turn.get(turn)) is not None:
            self._change(use, input_tokens + (round(self._output_tokens) if output_tokens is None else output_tokens))

    def refund(self, turn: str, *, request: bool) -> None:
        """The attempt used no tokens; with `request` it did not even reach the provider."""
        if (use := self._by_turn.get(turn)) is None:
            return
        self._change(use, 0)
        if request and use.requests:
            use.requests = False
            self.requests.add(-1, use.interactive)

    def learn(self, limits: Limits, at: float, now: float) -> None:
        """What the headers of an answer said. `at`: when they came; what started since is not in their count."""
        if at < self._headers_at:
            return
        self._headers_at, self.active = at, True
        self._forget(now)
        since = list(takewhile(lambda use: use.at > at, reversed(self._uses)))
        self.requests.hold(limits.requests_remaining, limits.requests_reset_s, at, len(since))
        self.tokens.hold(limits.tokens_remaining, limits.tokens_reset_s, at, sum(use.tokens for use in since))

    def snapshot(self, now: float) -> RatesStatus:
        self._forget(now)
        held = max(self.requests.held_until(1, now), self.tokens.held_until(self.estimate(0), now))
        return RatesStatus(
            requests=self.requests.used,
            requests_limit=self.requests.limit,
            tokens=self.tokens.used,
            tokens_limit=self.tokens.limit,
            held_until=held,
        )

    def _change(self, use: _Use, tokens: int) -> None:
        self.tokens.add(tokens - use.tokens, use.interactive)
        use.tokens = tokens

    def _forget(self, now: float) -> None:
        """What is a minute old no longer counts."""
        while self._uses and self._uses[0].at + MINUTE_S <= now:
            use = self._uses.popleft()
            self.requests.forget(1 if use.requests else 0, use.interactive)
            self.tokens.forget(use.tokens, use.interactive)
            if self._by_turn.get(use.turn) is use:
                del self._by_turn[use.turn]


@dataclass(slots=True, eq=False)
class _Use:
    turn: str
    at: float
    interactive: bool
    tokens: int
    requests: bool = True


class _Minute:
    """One limit: how much of it was used in the last minute, in all and by the interactive lane.

    `share`: the interactive lane's. `_left`, `_left_until`: what the provider's headers allow until then.
    """

    def __init__(self) -> None:
        self.limit = 0
        self.share = 0
        self.used = 0
        self.interactive = 0
        self._left: int | None = None
        self._left_until = -math.inf

    def resize(self, limit: int, share: int) -> None:
        self.limit = limit
        self.share = min(share, limit - 1) if limit else 0

    def add(self, amount: int, interactive: bool) -> None:
        self.used += amount
        if interactive:
            self.interactive += amount
        if self._left is not None:
            self._left -= amount

    def forget(self, amount: int, interactive: bool) -> None:
        self.used -= amount
        if interactive:
            self.interactive -= amount

    def has_room(self, amount: int, interactive: bool) -> bool:
        """What a _View says of this moment, without one: this is asked for every start."""
        limit = self.limit
        if not limit:
            return True
        if interactive:
            return self.used + min(amount, limit) <= limit
        share = self.share
        kept = share - self.interactive
        return self.used + max(0, kept) + min(amount, limit - share) <= limit

    def hold(self, left: int | None, reset_s: float | None, at: float, used_since: int) -> None:
        if left is None or reset_s is None:
            self._left = None
        else:
            self._left, self._left_until = left - used_since, at + min(reset_s, MINUTE_S)

    def held_until(self, amount: int, now: float) -> float:
        """When the provider's headers allow that much; -math.inf when they do now."""
        if self._left is None or now >= self._left_until:
            self._left = None
            return -math.inf
        return -math.inf if amount <= self._left else self._left_until


class _View:
    """Whether an amount fits, now and as uses run out."""

    def __init__(self, minute: _Minute, amount: int, interactive: bool) -> None:
        self._limit = minute.limit
        self._share = 0 if interactive else minute.share
        self._amount = min(amount, self._limit - self._share)  # a larger one may have all that its lane can have
        self._used, self.interactive = minute.used, minute.interactive

    @property
    def fits(self) -> bool:
        if not self._limit:
            return True
        kept = max(0, self._share - self.interactive)
        return self._used + kept + self._amount <= self._limit

    def give_back(self, amount: int, interactive: bool) -> None:
        self._used -= amount
        if interactive:
            self.interactive -= amount


class _ShareView(_View):
    """The same for an interactive turn that has to leave to the others what is not its lane's alone."""

    def __init__(self, minute: _Minute, amount: int) -> None:
        super().__init__(minute, amount, interactive=True)
        self._own_share = minute.share

    @property
    def fits(self) -> bool:
        return super().fits and (not self._limit or self.interactive + self._amount <= self._own_share)

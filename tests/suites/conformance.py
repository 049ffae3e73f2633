"""What a driver makes of every recorded exchange: the same however it is cut, and what an oracle reads in it.

Subclass for each kind and give its members; what a reply of this wire holds, and which of it the kind's oracle names,
is said there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar

import pytest

from loopforge.drivers.turn import Finished, Reply, Usage
from loopforge.drivers.wire import Driver
from tests.drivers.exchanges import Exchange, Outcome, cut_differently, read, recordings
from tests.recorded import MISSING


class ConformanceSuite(ABC):
    kind: ClassVar[str]
    driver: ClassVar[Driver]
    exchanges: ClassVar[Sequence[Exchange]]
    """The recordings, and with some kinds replies that were written by hand."""
    recorded: ClassVar[int]
    written: ClassVar[int] = 0
    cut_by_the_network: ClassVar[int] = 0
    """Of how many recordings the pieces are known in which they came."""
    exceptions: ClassVar[Mapping[str, str]] = {}
    """Exchanges in which the reader is right and the oracle is not, with the reason."""
    of_error: ClassVar[tuple[str, ...]] = ("error",)
    """The members of a verdict that count when it is an error."""

    def driver_for(self, exchange: Exchange) -> Driver:
        """For kinds that ask their vendors differently; else it is `driver`."""
        del exchange
        return self.driver

    @abstractmethod
    def second_reading(self, exchange: Exchange) -> Any:
        """The oracle's verdict: a dataclass whose `error` is the class of an error, "" for none."""

    @abstractmethod
    def verdict_of(self, outcome: Outcome) -> Any:
        """The driver's outcome in the oracle's words."""

    def agree(self, name: str, ours: Any, theirs: Any) -> bool:
        """Whether a member of both verdicts is the same."""
        del name
        return bool(ours == theirs)

    def may_warn(self, reply: Reply) -> set[str]:
        """All that a reply may warn of."""
        del reply
        return {"empty answer"}

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "exchange" in metafunc.fixturenames:
            nothing = [pytest.param(None, marks=pytest.mark.skip(reason=MISSING))]
            ids = [exchange.id for exchange in self.exchanges] or ["none"]
            metafunc.parametrize("exchange", self.exchanges or nothing, ids=ids)

    def outcome_of(self, exchange: Exchange) -> Outcome:
        return read(self.driver_for(exchange), exchange)

    def differences(self, exchange: Exchange) -> dict[str, tuple[object, object]]:
        """Members in which the reader and the oracle differ, each as (ours, theirs)."""
        got, expected = self.verdict_of(self.outcome_of(exchange)), self.second_reading(exchange)
        names = self.of_error if got.error or expected.error else tuple(field.name for field in fields(expected))
        both = {name: (getattr(got, name), getattr(expected, name)) for name in names}
        return {name: (ours, theirs) for name, (ours, theirs) in both.items() if not self.agree(name, ours, theirs)}

    def test_the_reply_is_what_a_second_reading_says(self, exchange: Exchange) -> None:
        found = self.differences(exchange)
        if exchange.id in self.exceptions:
            assert found, f"the exception {self.exceptions[exchange.id]!r} is no longer needed"
        else:
            assert found == {}

    def test_a_recording_reads_the_same_at_every_cut(self, exchange: Exchange) -> None:
        assert cut_differently(self.driver_for(exchange), exchange) == []

    def test_the_tokens_that_are_known_are_those_that_the_reply_says(self, exchange: Exchange) -> None:
        outcome = self.outcome_of(exchange)
        if outcome.reply is not None:
            assert (outcome.known_usage or Usage()) == outcome.reply.usage

    def test_a_reply_finishes_once_and_with_ids_that_tell_its_calls_apart(self, exchange: Exchange) -> None:
        outcome = self.outcome_of(exchange)
        if outcome.reply is not None:
            assert sum(isinstance(delta, Finished) for delta in outcome.deltas) == 1
            ids = [call.id for call in outcome.reply.tool_calls]
            assert all(ids)
            assert len(set(ids)) == len(ids)

    def test_a_reply_warns_of_nothing_unexpected(self, exchange: Exchange) -> None:
        reply = self.outcome_of(exchange).reply
        if reply is not None:
            assert set(reply.warnings) <= self.may_warn(reply)

    def test_all_recordings_are_here_and_every_exception_is_one_of_them(self) -> None:
        if not self.exchanges:
            pytest.skip(MISSING)
        assert len(recordings(self.kind)) == self.recorded
        ids = {exchange.id for exchange in self.exchanges}
        assert len(ids) == self.recorded + self.written
        assert ids >= self.exceptions.keys()
        assert sum(bool(exchange.chunk_sizes) for exchange in self.exchanges) == self.cut_by_the_network

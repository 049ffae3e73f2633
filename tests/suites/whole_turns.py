"""What whole turns promise, whatever the wire: driver, auth and transport against the simulator, with every fault.

Subclass for each kind and give `provider`; what else a kind has of its own are facts of its wire.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, get_args

import pytest
import trio

from loopforge.drivers.errors import (
    ContextTooLong,
    CredentialsRejected,
    DriverError,
    ModelNotFound,
    Overloaded,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    Stalled,
    StreamBroken,
    WireMismatch,
)
from loopforge.drivers.registry import ProviderSettings, has_driver, open_driver
from loopforge.drivers.run import Watchdogs, run_turn
from loopforge.drivers.simulator.faults import FaultName
from loopforge.drivers.simulator.profile import ScriptedCall
from loopforge.drivers.simulator.wires import has_wire
from loopforge.drivers.turn import (
    Delta,
    Effort,
    TextDelta,
    ThinkingDelta,
    Turn,
    Usage,
    UsageDelta,
    system,
    tool_result,
    user,
)
from tests.drivers.simulated import CALM, LOOK, SimulatedProvider

OUTCOMES: Mapping[FaultName, type[DriverError] | None] = {
    "slow": None,
    "endless": None,
    "silence": ProviderUnavailable,
    "comments": ProviderUnavailable,
    "cut": StreamBroken,
    "malformed": StreamBroken,
    "error-event": ProviderUnavailable,
    "stall": Stalled,
    "reset": ProviderUnavailable,
    "reset-midway": StreamBroken,
    "drip": ProviderUnavailable,
    "huge": WireMismatch,
    "wrong-type": WireMismatch,
    "401": CredentialsRejected,
    "429": RateLimited,
    "quota": QuotaExhausted,
    "quota-reset": QuotaExhausted,
    "500": ProviderUnavailable,
    "503": Overloaded,
    "529": Overloaded,
    "context": ContextTooLong,
    "no-model": ModelNotFound,
}
"""What each fault is called; None: the turn is answered all the same. A wire's words differ, what to do next not."""

streamed_or_not = pytest.mark.parametrize("stream", [True, False])


class WholeTurnsSuite:
    """`provider`: the kind, as it is asked when nothing more is said. `models`: one for each way this wire has."""

    provider: ClassVar[SimulatedProvider]
    models: ClassVar[tuple[str, ...]]
    thinking_models: ClassVar[tuple[str, ...]] = ()
    """Those that can be asked to think, where not all of `models` can."""
    thinking: ClassVar[Effort | int | None] = None
    """What a turn says to have the model's thoughts."""
    output_with_thinking: ClassVar[tuple[int, int | None]] = (17, 5)
    """`usage.output` and `usage.reasoning` of an answer of 12 tokens behind 5 of thinking."""
    finish_raw: ClassVar[str] = "stop"
    request_id: ClassVar[str] = r".+"
    """What this wire's ids look like: a pattern of the whole."""
    names_model: ClassVar[bool] = True
    """Whether an answer says which model gave it."""
    gives_wait: ClassVar[bool] = True
    """Whether a provider that has no room says how long."""
    no_room: ClassVar[tuple[tuple[FaultName, int | None, str], ...]]
    """Faults that mean to come back later, each with the status and the provider's own code or word."""
    output_midway: ClassVar[int | None] = None
    """The answer's tokens as the simulator counts them midway in a stream; None: it tells tokens only at the end."""
    counted: ClassVar[bytes]
    """A stream of this wire that breaks off behind a count of 24 tokens of input and 7 of output."""
    stream_says_its_end: ClassVar[bool] = True
    """Else a stream is over when its body is, as a JSON text is anywhere."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "any_model" in metafunc.fixturenames:
            metafunc.parametrize("any_model", self.models)
        if "thinking_model" in metafunc.fixturenames:
            metafunc.parametrize("thinking_model", self.thinking_models or self.models)
        if "no_room" in metafunc.fixturenames:
            metafunc.parametrize("no_room", self.no_room, ids=[fault for fault, _, _ in self.no_room])

    def turn(self, **members: Any) -> Turn:
        return replace(self.provider.turn, **members)

    # -- answers ------------------------------------------------------------------------------------------------------

    def test_the_kind_has_a_driver_and_a_simulated_wire(self) -> None:
        assert has_driver(self.provider.kind)
        assert has_wire(self.provider.kind)

    @streamed_or_not
    async def test_a_turn_is_answered(self, stream: bool) -> None:
        deltas: list[Delta] = []
        async with self.provider.open_line() as line:
            reply = await line.run(self.turn(stream=stream), deltas=deltas)
        assert len(reply.text.split()) == 12
        assert reply.text == "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))
        assert (reply.finish, reply.finish_raw) == ("stop", self.finish_raw)
        assert (reply.provider, reply.model) == ("acme", self.provider.model)
        assert reply.model_reported == (self.provider.model if self.names_model else "")
        assert reply.usage.output == 12
        assert reply.usage.input
        assert re.fullmatch(self.request_id, reply.request_id)
        assert reply.timings.first_token_s is not None
        assert reply.warnings == ()

    @streamed_or_not
    async def test_a_turn_is_answered_with_thinking_text_and_usage(self, thinking_model: str, stream: bool) -> None:
        deltas: list[Delta] = []
        messages = (system("Be kind."), user("hi"))
        turn = self.turn(model=thinking_model, messages=messages, thinking=self.thinking, stream=stream)
        async with self.provider.open_line(replace(self.provider.profile, thinking_tokens=5)) as line:
            reply = await line.run(turn, deltas=deltas)
        kinds = [type(delta) for delta in deltas if isinstance(delta, ThinkingDelta | TextDelta)]
        assert kinds == sorted(kinds, key=lambda kind: kind is TextDelta)
        assert (len(reply.text.split()), len(reply.message.thinking.split())) == (12, 5)
        assert not reply.text.startswith("\n")
        assert (reply.finish, reply.finish_raw) == ("stop", self.finish_raw)
        assert reply.model_reported == (thinking_model if self.names_model else "")
        assert (reply.usage.output, reply.usage.reasoning) == self.output_with_thinking
        assert reply.usage.input
        assert re.fullmatch(self.request_id, reply.request_id)
        assert reply.timings.first_token_s is not None
        assert reply.warnings == ()

    @streamed_or_not
    async def test_tools_are_called_in_parallel_and_their_results_taken(self, any_model: str, stream: bool) -> None:
        calls = tuple(ScriptedCall(name="look", arguments={"path": path}) for path in ("a/b", "c"))
        profile = replace(self.provider.profile, tool_calls=calls, thinking_tokens=3)
        turn = self.turn(model=any_model, tools=(LOOK,), stream=stream)
        async with self.provider.open_line(profile) as line:
            asked = await line.run(turn)
            assert [call.parsed for call in asked.tool_calls] == [{"path": "a/b"}, {"path": "c"}]
            assert asked.finish == "tool_calls"
            results = [tool_result(call, "found") for call in reversed(asked.tool_calls)]
            answer = await line.run(replace(turn, messages=(*turn.messages, asked.message, *results)))
        assert (answer.finish, answer.warnings) == ("stop", ())

    @streamed_or_not
    async def test_calls_with_letters_of_all_kinds_arrive(self, stream: bool) -> None:
        calls = (ScriptedCall(name="look", arguments={"path": 'é"\n😀'}),) * 2
        async with self.provider.open_line(replace(self.provider.profile, tool_calls=calls)) as line:
            reply = await line.run(self.turn(tools=(LOOK,), stream=stream))
        assert [call.parsed for call in reply.tool_calls] == [{"path": 'é"\n😀'}] * 2

    async def test_an_answer_beyond_its_budget_says_so(self) -> None:
        async with self.provider.open_line() as line:
            assert (await line.run(self.turn(max_output_tokens=3))).finish == "length"

    async def test_turns_one_after_the_other_share_a_connection(self) -> None:
        async with self.provider.open_line() as line:
            for stream in (True, False, True, False):
                await line.run(self.turn(stream=stream))
                await line.fails(self.turn(stream=stream, model="fault-500"))
            assert line.simulator.stats.connections == 1

    # -- keys ---------------------------------------------------------------------------------------------------------

    async def test_the_key_arrives(self) -> None:
        key = self.provider.key
        async with self.provider.open_line(replace(self.provider.profile, api_key=key), key=key) as line:
            assert (await line.run()).finish == "stop"

    async def test_a_wrong_key_is_rejected_and_shows_nowhere(self) -> None:
        key = self.provider.key
        async with self.provider.open_line(replace(self.provider.profile, api_key="another"), key=key) as line:
            error = await line.fails()
        assert type(error) is CredentialsRejected
        assert key not in f"{error!r} {error} {error.to_fields()}"

    # -- faults -------------------------------------------------------------------------------------------------------

    async def test_an_error_says_how_long_to_wait(self, no_room: tuple[FaultName, int | None, str]) -> None:
        fault, status, raw = no_room
        async with self.provider.open_line(replace(self.provider.profile, retry_after_s=2.5)) as line:
            error = await line.fails(self.turn(model=f"fault-{fault}"))
        assert error.retry_after_s == (2.5 if self.gives_wait else None)
        assert (error.status, error.raw) == (status, raw)

    def test_every_fault_has_an_expected_outcome(self) -> None:
        assert set(OUTCOMES) == set(get_args(FaultName))

    # Each drop of a dripping whole answer is progress: it only takes its time.
    @pytest.mark.parametrize(
        ("fault", "stream"),
        [(fault, stream) for fault in OUTCOMES for stream in (True, False) if stream or fault != "drip"],
    )
    async def test_each_fault_is_named_for_what_to_do_next(self, fault: FaultName, stream: bool) -> None:
        expected = OUTCOMES[fault]
        turn = self.turn(model=f"fault-{fault}", stream=stream)
        profile, watchdogs = self.provider.profile, self.watchdogs_for(fault, stream=stream)
        if watchdogs is not CALM:
            # All at once: between tokens that come one by one, a busy machine could make a gap of its own.
            profile = replace(profile, tokens_per_s=0)
        async with self.provider.open_line(profile) as line:
            if expected is None:
                assert len((await line.run(turn, watchdogs=watchdogs)).text.split()) == 12
                return
            error = await line.fails(turn, watchdogs=watchdogs)
            with trio.fail_after(60):
                await line.simulator.stats.wait(lambda stats: stats.active == 0)
            assert (await line.run()).finish == "stop"  # nothing of it stays with the transport
        assert type(error) is expected
        assert (error.provider, error.model) == ("acme", turn.model)
        assert error.action
        text_had_come = stream and fault in {"cut", "malformed", "error-event", "stall", "reset-midway"}
        assert error.started == text_had_come
        if text_had_come:
            assert error.partial is not None
            assert len(error.partial.text.split()) == profile.fault_after_tokens
        else:
            assert error.partial is None

    # -- tokens of answers that break ---------------------------------------------------------------------------------

    @pytest.mark.parametrize("cut", [1, 7, 10_000])
    def test_a_count_of_tokens_is_known_as_soon_as_it_was_told(self, cut: int) -> None:
        settings = ProviderSettings(name="acme", kind=self.provider.kind, base_url="http://127.0.0.1:1", api_key_env="")
        reader = open_driver(settings).new_reader(self.provider.turn, {})
        assert reader.known_usage() is None
        for start in range(0, len(self.counted), cut):
            reader.feed(self.counted[start : start + cut])
        assert reader.known_usage() == Usage(input=24, output=7)
        with pytest.raises(StreamBroken):
            reader.close()
        assert reader.known_usage() == Usage(input=24, output=7)

    @pytest.mark.parametrize("fault", ["cut", "reset-midway", "malformed", "error-event", "stall"])
    async def test_the_tokens_that_a_broken_answer_had_told_are_said_once(self, fault: FaultName) -> None:
        profile = replace(self.provider.profile, tokens_per_s=0)
        told: list[Usage] = []
        async with self.provider.open_line(profile) as line:
            prompt = (await line.run()).usage.input
        async with self.provider.open_line(replace(profile, fault=fault)) as line:
            await line.fails(watchdogs=self.watchdogs_for(fault, stream=True), told=told)
        assert [(usage.input, usage.output) for usage in told] == self.counts_midway(prompt)

    async def test_the_tokens_that_a_cancelled_answer_had_told_are_known(self) -> None:
        profile = replace(self.provider.profile, tokens_per_s=0)
        async with self.provider.open_line(profile) as line:
            prompt = (await line.run()).usage.input
        words: list[str] = []
        told: list[Usage] = []
        async with self.provider.open_line(replace(profile, fault="stall")) as line:
            with trio.fail_after(60), trio.CancelScope() as scope:

                async def emit(delta: Delta) -> None:
                    assert not isinstance(delta, UsageDelta)
                    if isinstance(delta, TextDelta):
                        words.append(delta.text)
                    if len("".join(words).split()) == profile.fault_after_tokens:
                        scope.cancel()  # nothing of the answer is still to come
                    await trio.lowlevel.checkpoint()

                await run_turn(line.driver, line.auth, line.turn, line.transport, emit, CALM, book=told.append)
        assert scope.cancelled_caught
        assert [(usage.input, usage.output) for usage in told] == self.counts_midway(prompt)

    async def test_the_tokens_of_an_answer_that_is_whole_are_said_by_its_deltas_alone(self) -> None:
        told: list[Usage] = []
        deltas: list[Delta] = []
        async with self.provider.open_line() as line:
            for stream in (True, False):
                reply = await line.run(self.turn(stream=stream), deltas=deltas, book=told.append)
                assert UsageDelta(reply.usage) in deltas
        assert told == []

    def counts_midway(self, prompt: int | None) -> list[tuple[int | None, int | None]]:
        """The tokens of input and output that are told of an answer that breaks in the middle."""
        return [] if self.output_midway is None else [(prompt, self.output_midway)]

    def watchdogs_for(self, fault: FaultName, *, stream: bool) -> Watchdogs:
        """Impatient only where it is the watchdog that ends the turn, and with that watchdog alone."""
        if fault in {"silence", "comments", "drip"}:
            return Watchdogs(first_event_s=0.2, event_gap_s=60)
        if fault == "stall" or (fault == "endless" and not (stream and self.stream_says_its_end)):
            return Watchdogs(first_event_s=60, event_gap_s=0.2)
        return CALM

"""What becomes of a failed attempt, through the whole runtime in virtual time: every row of the table in retry.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from loopforge.drivers.errors import (
    ContentFiltered,
    ContextTooLong,
    CredentialsRejected,
    GenerationFailed,
    ModelNotFound,
    ProviderUnavailable,
    RateLimited,
    Stalled,
    StreamBroken,
    WireMismatch,
    WorkerLost,
)
from loopforge.drivers.turn import (
    Accepted,
    Done,
    Failed,
    Finished,
    Restarted,
    Started,
    TextDelta,
)
from loopforge.runtime.config.values import Target
from tests.fakes.worker import ANSWER, Break, Die, FakeWorkers, Finish, Say, Script, Wait
from tests.runtime.chains import (
    CLOUD,
    HOME,
    NARROW,
    THIRD,
    asked,
    assert_nothing_is_left,
    chain,
    events_of,
    failing,
    failure_of,
)
from tests.runtime.core import Core, open_core, provider, turn
from tests.runtime.retrying import CLASSES
from tests.runtime.test_retry_table import OTHERS, ROWS, TABLE

# -- each row --------------------------------------------------------------------------------------------------------

AGAIN_AT_ONCE = {"StreamBroken": 1, "Stalled": 1, "GenerationFailed": 1}
ENDS_HERE = {"WorkerLost": 3}
"""Resent to the same provider until it is poison: nobody else's worker may die of the turn."""


@pytest.mark.parametrize("name", ROWS)
async def test_a_failed_turn_is_answered_by_the_next_candidate(autojump_clock: MockClock, name: str) -> None:
    workers = FakeWorkers(at={"home": failing(name, action="mend it")})
    async with open_core(chain("home", "cloud"), workers) as core:
        if name in ENDS_HERE:
            assert isinstance(await failure_of(core), CLASSES[name])
            assert asked(core) == ["home"] * ENDS_HERE[name]
        else:
            before = trio.current_time()
            reply = await core.runtime.ask(turn("t1"))
            assert (reply.text, reply.provider, reply.model) == ("hello", "cloud", "cloud-model")
            assert asked(core) == ["home"] * (1 + AGAIN_AT_ONCE.get(name, 0)) + ["cloud"]
            assert reply.attempts == len(asked(core))
            assert trio.current_time() == before, "a healthy candidate was idle: nothing is to be waited for"
            warned = [warning for warning in reply.warnings if warning.startswith("home was left")]
            assert bool(warned) == ("with a warning" in TABLE[name]["next candidate"])
            assert all(warning.endswith("mend it") for warning in warned)
        assert_nothing_is_left(core)


@pytest.mark.parametrize("name", ROWS)
async def test_the_same_provider_gets_a_turn_again_where_there_is_no_other(
    autojump_clock: MockClock, name: str
) -> None:
    """The attempts and the seconds between them, when each fails in the same way (jitter is off)."""
    waits = {
        "waits": [0.5, 1.0, 2.0],  # ended by max_attempts
        "twice, after back-off": [0.5, 1.0],
        "once": [0.0],
        "parks": [],  # the route does not say so
        "no": [],
        "as a suspect": [0.0, 0.5],  # what the supervisor waits before it starts a worker again
    }[TABLE[name]["same provider again"]]
    async with open_core(chain("home"), FakeWorkers(at={"home": failing(name)})) as core:
        await trio.sleep(1)
        before = trio.current_time()
        assert isinstance(await failure_of(core), CLASSES[name])
        assert asked(core) == ["home"] * (1 + len(waits))
        assert trio.current_time() - before == pytest.approx(sum(waits), abs=0.05)
        assert_nothing_is_left(core)


@pytest.mark.parametrize("name", sorted(set(CLASSES) - set(ROWS)))
async def test_an_error_without_a_row_ends_the_turn_at_once(autojump_clock: MockClock, name: str) -> None:
    assert set(TABLE[OTHERS].values()) == {"no"}
    async with open_core(chain("home", "cloud"), FakeWorkers(at={"home": failing(name)})) as core:
        assert isinstance(await failure_of(core), CLASSES[name])
        assert asked(core) == ["home"]
        assert (await core.runtime.status())["breakers"] == []


@pytest.mark.parametrize("name", ROWS)
async def test_the_breaker_counts_or_opens_as_the_row_says(autojump_clock: MockClock, name: str) -> None:
    """Five attempts fail at home; the turn after them shows whether home still gets any."""
    workers = FakeWorkers(at={"home": failing(name)})
    if name == "WorkerLost":  # or each turn would be poison
        workers = FakeWorkers(scripts={f"t{i}": [failing(name), ANSWER] for i in range(5)})
    async with open_core(chain("home", "cloud"), workers) as core:
        lost = 0
        for i in range(7):
            await core.runtime.ask(turn(f"t{i}"))
            if asked(core, f"t{i}")[0] != "home":
                break
            lost += 1 if name == "WorkerLost" else asked(core, f"t{i}").count("home")
        match TABLE[name]["breaker"]:
            case "no":
                assert lost == 7 * (1 + AGAIN_AT_ONCE.get(name, 0))
            case "opens":
                assert lost == 1
            case "counts":
                assert lost == 5
            case other:
                pytest.fail(f"nothing tests {other!r}")


# -- to whom it goes -------------------------------------------------------------------------------------------------


async def test_a_turn_too_long_goes_past_windows_that_are_no_larger(autojump_clock: MockClock) -> None:
    small = replace(
        chain("home", "cloud", "third"), providers={"home": HOME, "cloud": provider("cloud"), "third": THIRD}
    )
    async with open_core(small, FakeWorkers(at={"home": failing("ContextTooLong")})) as core:
        assert (await core.runtime.ask(turn("t1"))).provider == "third"
        assert asked(core) == ["home", "third"]


async def test_a_turn_too_long_for_everybody_fails_with_that(autojump_clock: MockClock) -> None:
    same = replace(chain("home", "cloud"), providers={"home": HOME, "cloud": replace(CLOUD, context_window=NARROW)})
    async with open_core(same, FakeWorkers(at={"home": failing("ContextTooLong")})) as core:
        assert isinstance(await failure_of(core), ContextTooLong)
        assert asked(core) == ["home"]


async def test_a_turn_that_each_filter_blocks_is_shown_to_each_once(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(default=(Break(ContentFiltered("x", "blocked")),))
    async with open_core(chain("home", "cloud", "third"), workers) as core:
        error = await failure_of(core)
        assert isinstance(error, ContentFiltered)
        assert asked(core) == ["home", "cloud", "third"]
        assert all(f"{name}: ContentFiltered" in str(error) for name in ("home", "cloud", "third"))


async def test_a_suspect_goes_to_its_provider_alone_and_then_is_poison(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(scripts={"t1": [(Die(),)], "other": [(Wait(3), Say("other"), Finish())]})
    async with open_core(chain("home", "cloud"), workers) as core:
        await core.runtime.post(turn("other"))
        error = await failure_of(core)
        assert isinstance(error, WorkerLost)
        assert "the last time with no other turn" in str(error)
        assert "do not post it again" in str(error)
        assert asked(core) == ["home"] * 3
        reply = await core.runtime.wait("other")  # it fell with the first two, and was sent again each time
        assert (reply.text, reply.provider) == ("other", "home")
        assert workers.attempts["t1"].count(("cloud", "cloud-model")) == 0


async def test_turns_that_wait_for_a_worker_that_does_not_come_back_go_on_elsewhere(autojump_clock: MockClock) -> None:
    async with open_core(chain("home", "cloud")) as core:
        await core.runtime.ask(turn("first"))
        await core.runtime.ask(turn("second", kind="coding"))
        core.workers.refuse_boot = 1000  # of home's, cloud's worker lives on
        core.workers.alive["home"].kill()
        reply = await core.runtime.ask(turn("t1"))
        assert (reply.provider, asked(core)) == ("cloud", ["cloud"])
        assert 1 < trio.current_time() < 30  # until home was given up
        before = trio.current_time()
        assert (await core.runtime.ask(turn("t2"))).provider == "cloud"
        assert trio.current_time() == before


async def test_waiting_a_moment_is_better_than_another_queue_and_that_better_than_waiting_long(
    autojump_clock: MockClock,
) -> None:
    scripts: dict[str, list[Script]] = {
        "busy": [(Wait(20), Say("x"), Finish())],
        "moment": [failing("RateLimited", retry_after_s=3), ANSWER],
        "long": [failing("RateLimited", retry_after_s=60), ANSWER],
    }
    async with open_core(chain("home", "cloud", busy="cloud"), FakeWorkers(scripts=scripts)) as core:
        await core.runtime.post(turn("busy", kind="coding"))
        await trio.sleep(1)
        before = trio.current_time()
        assert (await core.runtime.ask(turn("moment"))).provider == "home"
        assert trio.current_time() - before == pytest.approx(3)
        assert (await core.runtime.ask(turn("long"))).provider == "cloud"
        assert trio.current_time() == pytest.approx(before + 19)


async def test_a_named_time_is_honoured(autojump_clock: MockClock) -> None:
    scripts = {"t1": [failing("Overloaded", retry_after_s=7.25), ANSWER]}
    async with open_core(chain("home"), FakeWorkers(scripts=scripts)) as core:
        await trio.sleep(1)
        before = trio.current_time()
        assert (await core.runtime.ask(turn("t1"))).attempts == 2
        assert trio.current_time() - before == pytest.approx(7.25)


async def test_who_named_a_time_gets_no_turn_before_it(autojump_clock: MockClock) -> None:
    scripts = {"t1": [failing("RateLimited", retry_after_s=30), ANSWER]}
    async with open_core(chain("home", "cloud"), FakeWorkers(scripts=scripts)) as core:
        await core.runtime.ask(turn("t1"))
        await core.runtime.ask(turn("t2"))
        assert asked(core, "t2") == ["cloud"]
        await trio.sleep(31)
        await core.runtime.ask(turn("t3"))
        assert asked(core, "t3") == ["home"]


# -- what the client sees --------------------------------------------------------------------------------------------

LOST = {
    "cut": Break(StreamBroken("home")),
    "stalled": Break(Stalled("home")),
    "malformed": Break(WireMismatch("home")),
    "failed": Break(GenerationFailed("home")),
    "unavailable": Break(ProviderUnavailable("home")),
    "killed": Die(),
}


@pytest.mark.parametrize("loss", LOST.values(), ids=LOST.keys())
async def test_restarted_comes_before_the_second_answer(autojump_clock: MockClock, loss: Break | Die) -> None:
    scripts: dict[str, list[Script]] = {"t1": [(Say("half"), Wait(0.1), loss), ANSWER]}
    async with open_core(chain("home", "cloud"), FakeWorkers(scripts=scripts)) as core:
        events = await events_of(core)
    next_one = core.workers.attempts["t1"][1][0]
    kinds = [type(event) for event in events]
    assert kinds == [Accepted, Started, TextDelta, Restarted, Started, TextDelta, Finished, Done]
    restarted, again, done = events[3], events[4], events[-1]
    assert isinstance(restarted, Restarted)
    assert isinstance(again, Started)
    assert isinstance(done, Done)
    assert restarted.provider == again.provider == next_one
    assert again.attempt == 2
    assert done.reply.text == "hello"


async def test_the_reply_is_that_of_the_last_attempt_alone(autojump_clock: MockClock) -> None:
    scripts: dict[str, list[Script]] = {
        "t1": [
            (Say("one "), Break(StreamBroken("home"))),
            (Say("two "), Break(StreamBroken("home"))),
            (Say("three"), Finish()),
        ]
    }
    async with open_core(chain("home", "cloud"), FakeWorkers(scripts=scripts)) as core:
        reply = await core.runtime.ask(turn("t1"))
        assert (reply.text, reply.provider, reply.attempts) == ("three", "cloud", 3)


async def test_a_turn_that_fails_for_good_brings_what_the_last_attempt_had_said(autojump_clock: MockClock) -> None:
    scripts: dict[str, list[Script]] = {
        "t1": [(Say("first"), Break(StreamBroken("home"))), (Say("last"), Break(StreamBroken("home")))]
    }
    async with open_core(chain("home"), FakeWorkers(scripts=scripts)) as core:
        events = await events_of(core)
        last = events[-1]
        assert isinstance(last, Failed)
        assert isinstance(last.error, StreamBroken)
        assert last.error.partial is not None
        assert last.error.partial.text == "last"


async def test_an_error_that_ends_a_turn_names_everybody_and_what_he_failed_with(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(
        at={
            "home": failing("CredentialsRejected"),
            "cloud": failing("GenerationFailed"),
            "third": failing("RateLimited", retry_after_s=90),
        }
    )
    async with open_core(chain("home", "cloud", "third", max_attempts=5), workers) as core:
        before = trio.current_time()
        error = await failure_of(core, deadline_s=30)
        assert isinstance(error, RateLimited), "the one that can take the turn first"
        assert error.retry_after_s == pytest.approx(90)
        for clause in ("home: CredentialsRejected", "cloud: GenerationFailed 2 times", "third: RateLimited"):
            assert clause in str(error)
        assert trio.current_time() == before, "nobody comes back before the deadline"


async def test_who_was_not_asked_is_named_with_the_reason(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(at={"home": failing("CredentialsRejected")}, scripts={"t2": [failing("WireMismatch")]})
    async with open_core(chain("home", "cloud"), workers) as core:
        await core.runtime.ask(turn("t1"))
        error = await failure_of(core, "t2")
        assert isinstance(error, WireMismatch)
        assert "home: not asked, CredentialsRejected before" in str(error)


# -- breakers --------------------------------------------------------------------------------------------------------


async def open_breaker(core: Core, name: str = "home") -> None:
    """Five turns meet a provider that cannot be reached."""
    core.workers.at[name] = failing("ProviderUnavailable")
    for i in range(5):
        await core.runtime.ask(turn(f"breaks-{i}"))
    assert [row["state"] for row in (await core.runtime.status())["breakers"]] == ["open"]


async def test_one_waiting_turn_probes_and_its_answer_closes_the_breaker(autojump_clock: MockClock) -> None:
    async with open_core(chain("home", "cloud")) as core:
        await open_breaker(core)
        await core.runtime.ask(turn("meanwhile"))
        assert asked(core, "meanwhile") == ["cloud"]
        await trio.sleep(60)
        core.workers.at["home"] = (Wait(5), Say("well again"), Finish())
        for name in ("probe", "second", "third"):
            await core.runtime.post(turn(name))
        assert (await core.runtime.wait("probe")).text == "well again"
        assert [asked(core, name) for name in ("probe", "second", "third")] == [["home"], ["cloud"], ["cloud"]]
        assert (await core.runtime.status())["breakers"] == []
        await core.runtime.ask(turn("after"))
        assert asked(core, "after") == ["home"]


async def test_a_failed_probe_keeps_the_breaker_open_for_longer(autojump_clock: MockClock) -> None:
    async with open_core(chain("home", "cloud")) as core:
        await open_breaker(core)
        await trio.sleep(60)
        assert (await core.runtime.ask(turn("probe"))).provider == "cloud"
        assert asked(core, "probe") == ["home", "cloud"]
        await trio.sleep(61)
        await core.runtime.ask(turn("still"))
        assert asked(core, "still") == ["cloud"]
        await trio.sleep(60)
        core.workers.at.clear()
        await core.runtime.ask(turn("second probe"))
        assert asked(core, "second probe") == ["home"]


async def test_without_anybody_else_turns_wait_for_the_probe_and_follow_it(autojump_clock: MockClock) -> None:
    async with open_core(chain("home", max_attempts=1)) as core:
        core.workers.at["home"] = failing("ProviderUnavailable")
        for i in range(5):
            await failure_of(core, f"breaks-{i}")
        opened_at = trio.current_time()
        core.workers.at["home"] = (Wait(5), Say("hello"), Finish())
        for name in ("probe", "second"):
            await core.runtime.post(turn(name))
        await core.runtime.wait("probe")
        assert trio.current_time() - opened_at == pytest.approx(65, abs=0.1)
        await core.runtime.wait("second")
        assert trio.current_time() - opened_at == pytest.approx(70, abs=0.1)


async def test_a_cancelled_probe_leaves_its_place_to_the_next_turn(autojump_clock: MockClock) -> None:
    async with open_core(chain("home", "cloud")) as core:
        await open_breaker(core)
        await trio.sleep(60)
        core.workers.at["home"] = (Wait(50), Say("late"), Finish())
        await core.runtime.post(turn("probe"))
        await trio.sleep(1)
        await core.runtime.cancel("probe")
        await trio.sleep(1)
        core.workers.at.clear()
        await core.runtime.ask(turn("next"))
        assert (asked(core, "probe"), asked(core, "next")) == (["home"], ["home"])
        assert_nothing_is_left(core)


@pytest.mark.parametrize("error", ["CredentialsRejected", "QuotaExhausted"])
async def test_turns_that_wait_leave_a_provider_that_closes(autojump_clock: MockClock, error: str) -> None:
    scripts = {"t1": [(Wait(1), *failing(error)), ANSWER]}
    setup = chain("home", "cloud", busy="home")
    async with open_core(setup, FakeWorkers(scripts=scripts)) as core:
        names = [f"t{i}" for i in range(1, 5)]
        for name in names:
            await core.runtime.post(turn(name))
        replies = [await core.runtime.wait(name) for name in names]
        assert [reply.provider for reply in replies] == ["cloud"] * 4
        assert [len(asked(core, name)) for name in names] == [2, 1, 1, 1]
        assert trio.current_time() < 2
        assert_nothing_is_left(core)


async def test_turns_that_wait_for_the_only_provider_learn_at_once_that_its_key_is_wrong(
    autojump_clock: MockClock,
) -> None:
    scripts = {"t1": [(Wait(1), *failing("CredentialsRejected"))]}
    async with open_core(chain("home", busy="home"), FakeWorkers(scripts=scripts)) as core:
        for name in ("t1", "t2"):
            await core.runtime.post(turn(name))
        for name in ("t1", "t2"):
            with pytest.raises(CredentialsRejected):
                await core.runtime.wait(name)
        assert asked(core, "t2") == []
        assert trio.current_time() < 2
        assert_nothing_is_left(core)


async def test_turns_that_name_their_provider_open_no_breaker(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(scripts={f"p{i}": [failing("CredentialsRejected")] for i in range(6)})
    async with open_core(chain("home", "cloud"), workers) as core:
        for i in range(6):
            assert isinstance(await failure_of(core, f"p{i}", provider="home"), CredentialsRejected)
            assert asked(core, f"p{i}") == ["home"]
        assert (await core.runtime.status())["breakers"] == []
        assert (await core.runtime.ask(turn("t1"))).provider == "home"


async def test_a_turn_that_names_its_provider_passes_an_open_breaker(autojump_clock: MockClock) -> None:
    async with open_core(chain("home", "cloud")) as core:
        await open_breaker(core)
        core.workers.at.clear()
        assert (await core.runtime.ask(turn("pinned", provider="home"))).provider == "home"


async def test_a_model_that_does_not_exist_closes_that_model_alone(autojump_clock: MockClock) -> None:
    setup = chain("home")
    both = (Target(provider="home", model="gone"), Target(provider="home", model="home-model"))
    setup = replace(setup, routes={**setup.routes, "planning": replace(setup.routes["planning"], targets=both)})
    scripts = {"t1": [(Break(ModelNotFound("home", model="gone")),), ANSWER]}
    async with open_core(setup, FakeWorkers(scripts=scripts)) as core:
        assert (await core.runtime.ask(turn("t1"))).model == "home-model"
        assert (await core.runtime.ask(turn("t2"))).model == "home-model"
        assert len(asked(core, "t2")) == 1

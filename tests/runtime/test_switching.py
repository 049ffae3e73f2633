"""Reload, idle workers, sessions that stay: who serves the next turn, and who still the last. Over real processes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from loopforge.drivers.simulator.profile import Profile
from loopforge.drivers.simulator.server import open_simulator as open_simulator_here
from loopforge.drivers.turn import Turn, user
from loopforge.runtime.client import open_runtime
from tests.runtime.cli.running import loopforge, succeed
from tests.runtime.cli.service import (
    Service,
    Simulator,
    asking,
    events_of,
    open_service,
    open_simulator,
    wait_until,
    write_config,
)
from tests.runtime.core import config, provider, with_fallback
from tests.workers.real_worker import wait_dead

PATIENCE_S = 60.0
QUICK = Profile(first_token_s=0, tokens_per_s=0, answer_tokens=3)


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with open_simulator(tmp_path_factory.mktemp("simulator")) as running:
        yield running


def by_whom(home: Path, *arguments: str) -> str:
    done = events_of(succeed(home, "ask", "--json", *arguments))[-1]
    return str(done["reply"]["provider"])


def hang_up(service: Service, told: str) -> None:
    """SIGHUP, until its log says so."""
    before = service.process.err.count(told)
    service.process.popen.send_signal(signal.SIGHUP)
    service.process.wait_for(told, times=before + 1)


def test_a_signal_switches_routes_between_two_turns_of_a_session_and_running_ones_end_where_they_are(
    simulator: Simulator, tmp_path: Path
) -> None:
    path = write_config(tmp_path, simulator)
    text = path.read_text()
    coding = '[router.coding]\nprovider = "quick"'
    with open_service(tmp_path) as service:
        path.write_text(text.replace(coding, '[router.coding]\nprovider = "brief"'))
        hang_up(service, "reloaded ")
        with asking(tmp_path, "--kind", "coding", "--session", "s", "--json", "hi") as ask:
            ask.wait_for('"text"')
            old, other = service.provider("brief")["pid"], service.provider("quick")["pid"]
            path.write_text(text.replace("[providers.brief]\n", "[providers.brief]\nmax_queued = 900\n"))
            hang_up(service, "changed providers: brief")
            assert by_whom(tmp_path, "--kind", "coding", "--session", "s", "hi") == "quick"
            assert ask.wait() == 0
            done = events_of(ask.out)[-1]["reply"]
        assert (done["provider"], done["attempts"]) == ("brief", 1)
        assert wait_dead(old), "its worker ends with its last turn"
        assert service.provider("quick")["pid"] == other, "who has not changed keeps his worker"
        path.write_text("[providers.quick]\nkind = 7\n")
        hang_up(service, "not reloaded: ")
        assert by_whom(tmp_path, "--kind", "coding", "hi") == "quick"
        assert loopforge(tmp_path, "reload").returncode == 78


@pytest.mark.slow
def test_a_worker_that_no_route_needs_ends_when_it_is_idle_and_comes_back_with_the_next_turn(
    simulator: Simulator, tmp_path: Path
) -> None:
    write_config(tmp_path, simulator, "[runtime]\nidle_worker_s = 1\n")
    with open_service(tmp_path) as service:
        wait_until(lambda: service.provider("quick")["state"] == "ready", "the routed worker is there")
        routed = service.provider("quick")["pid"]
        succeed(tmp_path, "ask", "--model", "thinker", "hi")
        pid = service.provider("thinker")["pid"]
        assert wait_dead(pid)
        wait_until(lambda: service.provider("thinker")["state"] == "stopped", "it has stopped")
        assert service.provider("thinker")["deaths"] == 0
        succeed(tmp_path, "ask", "--model", "thinker", "hi")
        assert service.provider("quick")["pid"] == routed


async def test_a_session_stays_with_the_fallback_that_served_it_and_others_go_home() -> None:
    with trio.fail_after(PATIENCE_S):
        async with open_simulator_here({"home": QUICK, "cloud": QUICK}) as simulator:
            home, cloud = (provider(name, base_url=simulator.base_url(name)) for name in ("home", "cloud"))
            setup = with_fallback(config(home, cloud), "planning", cloud, spill=False)
            async with open_runtime(setup) as runtime:
                while any(desk["state"] != "ready" for desk in (await runtime.status())["providers"]):  # noqa: ASYNC110
                    await trio.sleep(0.02)

                async def served(session: str) -> str:
                    turn = Turn(kind="planning", session=session, messages=(user("hi"),))
                    return (await runtime.ask(turn)).provider

                simulator.profiles["home"] = replace(QUICK, fault="cut", fault_after_tokens=1)
                assert await served("moved") == "cloud"
                simulator.profiles["home"] = QUICK
                assert await served("moved") == "cloud", "where its prompt is cached"
                assert await served("another") == "home"
                assert await served("") == "home"
                assert await served("moved") == "cloud"

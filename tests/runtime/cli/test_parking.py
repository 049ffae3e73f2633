"""A plan that is used up, a route that waits for its reset: a real service, its workers, and a provider that tells."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from loopforge.runtime.retry import PARK_MARGIN_S
from tests.runtime.cli.running import loopforge
from tests.runtime.cli.service import (
    Service,
    Simulator,
    asking,
    events_of,
    open_service,
    open_simulator,
    wait_until,
)

SOON_S = 1.5
LATER_S = 6.0
"""Longer than a service takes to be there again, on a busy machine too."""
GRACE_S = 2.0
"""After a restart a turn waits at least so long for its client, whatever its reset."""
PLANS = {"soon": SOON_S, "later": LATER_S, "never": 3600.0}
"""Each has a task kind of its own, without a fallback."""


def config_of(simulator: Simulator) -> str:
    kinds = "".join(
        f'[providers.{name}]\nkind = "openai_compatible"\nbase_url = "{simulator.url}/{name}/v1"\napi_key_env = ""\n'
        f'vendor = "minimax"\ndefault_model = "MiniMax-M2.7"\n'
        f'[router.{name}]\nprovider = "{name}"\nmodel = "default"\npark_max_s = 7200\ndeadline_s = 7200\n'
        for name in PLANS
    )
    standing = "".join(
        f'[router.{kind}]\nprovider = "soon"\nmodel = "default"\n' for kind in ("planning", "coding", "summary")
    )
    return kinds + standing + f"[runtime]\nreattach_grace_s = {GRACE_S}\n"


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Simulator]:
    """Used up from the first request on; of this test alone, for it is used up only once."""
    profiles: dict[str, dict[str, Any]] = {
        name: {"first_token_s": 0, "tokens_per_s": 0, "answer_tokens": 5, "fault": "quota-reset", "quota_reset_s": wait}
        for name, wait in PLANS.items()
    }
    with open_simulator(tmp_path, profiles) as running:
        (tmp_path / "config.toml").write_text(config_of(running))
        yield running


@contextmanager
def parked(service: Service, kind: str) -> Iterator[dict[str, Any]]:
    """The turn of that id once it is held, as status --json shows it; `asked`: the process that waits for it."""
    with asking(service.home, "--kind", kind, "--id", kind, "--json", "hi") as ask:
        wait_until(lambda: held(service, kind) or ask.popen.poll() is not None, f"{kind} is parked")
        shown = held(service, kind)
        assert shown is not None, ask.out + ask.err
        yield {**shown, "asked": ask}


def held(service: Service, turn_id: str) -> dict[str, Any] | None:
    turns = service.status()["live"]
    return next((turn for turn in turns if turn["id"] == turn_id and turn["held_for"]), None)


def journaled(home: Path, turn_id: str) -> dict[str, Any]:
    run = loopforge(home, "turns", "show", turn_id, "--json")
    assert run.returncode == 0, run.stderr
    told: dict[str, Any] = json.loads(run.stdout)
    return told


@pytest.mark.usefixtures("simulator")
def test_a_turn_waits_for_the_reset_that_its_provider_named_and_is_done_then(tmp_path: Path) -> None:
    with open_service(tmp_path) as service, parked(service, "soon") as shown:
        assert (shown["phase"], shown["held_for"]) == ("held", "a quota's reset")
        assert 0 <= shown["held_s"] <= SOON_S + 1 + PARK_MARGIN_S  # the vendor names whole seconds
        assert shown["asked"].wait() == 0
        done = events_of(shown["asked"].out)[-1]
        assert (done["event"], done["reply"]["attempts"], len(done["text"].split())) == ("done", 2, 5)
        told = journaled(tmp_path, "soon")
        (lost,) = told["lost"]
        assert (told["state"], lost["error"]) == ("done", "QuotaExhausted")
        assert told["ended_at"] - told["accepted_at"] >= SOON_S


def test_a_parked_turn_is_cancelled_from_another_terminal(simulator: Simulator, tmp_path: Path) -> None:
    with open_service(tmp_path) as service, parked(service, "never") as shown:
        assert 3500 < shown["held_s"] <= 3601 + PARK_MARGIN_S
        assert journaled(tmp_path, "never")["state"] == "parked"
        assert loopforge(tmp_path, "cancel", "never").stdout == "never is cancelled\n"
        assert shown["asked"].wait() == 1
        assert events_of(shown["asked"].out)[-1]["event"] == "cancelled"
        assert journaled(tmp_path, "never")["state"] == "cancelled"
    assert simulator.stats("never")["requests"] == 1


@pytest.mark.slow
def test_a_parked_turn_is_parked_and_then_done_though_the_service_was_killed(
    simulator: Simulator, tmp_path: Path
) -> None:
    with open_service(tmp_path) as service, parked(service, "later") as shown:
        until = journaled(tmp_path, "later")["park"]["until"]
        service.stop(signal.SIGKILL)
        assert service.process.wait() == -signal.SIGKILL
        with open_service(tmp_path) as again:
            still = held(again, "later")
            assert still is not None
            assert still["held_for"] == "a quota's reset"
            assert still["held_s"] < shown["held_s"]
            assert journaled(tmp_path, "later")["park"]["until"] == until
            assert simulator.stats("later")["requests"] == 1
            assert shown["asked"].wait() == 0
        assert events_of(shown["asked"].out)[-1]["reply"]["attempts"] == 2
    assert simulator.stats("later")["requests"] == 2

"""kill -9 of a process while 64 clients post: all that was acknowledged is there, over and over in the same file."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from loopforge.runtime.journal.operations import END_STATES, Lookup, Recover
from tests.runtime.journal.sample import do, open_store

ROOT = Path(__file__).resolve().parents[3]
RANKS = ("accepted", "running", "done")


def kill_while_writing(path: Path, run: int, lines: int) -> dict[str, str]:
    """The last acknowledged state of each turn, by id. Killed once that many lines have come."""
    argv = [sys.executable, "-m", "tests.runtime.journal.writers", str(path), str(run)]
    told: dict[str, str] = {}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        for count, line in enumerate(process.stdout):
            if count == lines:
                process.send_signal(signal.SIGKILL)  # and read on: what was said before counts, too
            if line.endswith(b"\n"):
                turn_id, state = line.decode().split()
                told[turn_id] = state
        assert process.wait() == -signal.SIGKILL
    assert len(told) > lines // 4
    return told


def check(path: Path, told: dict[str, str]) -> None:
    with open_store(path) as store:
        assert store.connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        live = set()
        found = do(store, *(Lookup(id=turn_id) for turn_id in told))
        for (turn_id, state), answer in zip(told.items(), found, strict=True):
            turn = answer.turn
            assert turn is not None, f"{turn_id} was {state}"
            assert RANKS.index(turn.state) >= RANKS.index(state)
            assert (turn.ending is not None) == (turn.state in END_STATES)
            if turn.ending is None:
                live.add(turn_id)
        recovered = do(store, Recover())[0].turns
        assert {turn.id for turn in recovered} >= live
        assert all(turn.body == f"the request of {turn.id}".encode() for turn in recovered)


def run_kills(path: Path, kills: int, most_lines: int) -> int:
    rng = random.Random(kills)
    told: dict[str, str] = {}
    for run in range(kills):
        new = kill_while_writing(path, run, rng.randrange(most_lines))
        check(path, new)
        told |= new
    check(path, told)
    return len(told)


def test_nothing_acknowledged_is_lost_over_kills_at_random_moments(tmp_path: Path) -> None:
    assert run_kills(tmp_path / "journal" / "journal.db", kills=8, most_lines=4_000) > 2_000


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_over_a_hundred_kills(tmp_path: Path) -> None:
    assert run_kills(tmp_path / "journal" / "journal.db", kills=100, most_lines=6_000) > 10_000

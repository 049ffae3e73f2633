"""The soak, for as long as a check can take: everything is killed, and the books balance."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.quick import ROOT

SECONDS, KILLS = 100, 200


@pytest.mark.slow
def test_no_accepted_turn_is_lost_or_ends_twice_whatever_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "faults.json"
    argv = [sys.executable, "-m", "bench.faults", "--json", str(file), "--rate", "3"]
    argv += ["--seconds", str(SECONDS), "--kills", str(KILLS)]
    run = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=4 * SECONDS + 300)
    assert run.returncode == 0, run.stdout + run.stderr
    figures = json.loads(file.read_text())["figures"]
    assert figures["problems"] == []
    assert figures["lost"] == 0
    assert figures["kills"] >= KILLS
    assert figures["books"]["done"] > 1000

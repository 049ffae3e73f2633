"""Runs a benchmark as a person would, but quickly: shows that it still works, and nothing about speed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def run_quick(bench: str, folder: Path, *options: str) -> dict[str, Any]:
    """The JSON that `python -m bench.NAME --quick` writes."""
    file = folder / f"{bench}.json"
    argv = [sys.executable, "-m", f"bench.{bench}", "--quick", "--json", str(file), *options]
    run = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"bench.{bench}: 1 round" in run.stdout
    result: dict[str, Any] = json.loads(file.read_text())
    return result

#!/usr/bin/env python3
"""Asks every provider whose key is set for a text, a stream and a tool call; --help says more.

    python3 scripts/provider_health_report.py --out-dir .tmp/provider-health          plans, spends nothing
    python3 scripts/provider_health_report.py --out-dir .tmp/provider-health --run    asks

Any Python will do: one that does not know this checkout's package hands over to .venv, which scripts/setup makes ready.
The report itself is loopforge.runtime.smoke.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
NAME = "scripts/provider_health_report.py"


def main() -> int:
    if not _knows_this_checkout():
        _hand_over()
    from loopforge.runtime.smoke.__main__ import main as report

    return report(prog=NAME)


def _hand_over() -> NoReturn:
    if Path(sys.prefix).resolve() == VENV.resolve():
        sys.exit(f"{NAME}: .venv lacks the project itself.\nNext: rm -r .venv, then run this again.")
    made_ready = subprocess.run([str(ROOT / "scripts" / "setup"), "run"], check=False)
    if made_ready.returncode != 0:  # it has said why, and what to do
        sys.exit(made_ready.returncode)
    python = str(VENV / "bin" / "python")
    os.execv(python, [python, str(Path(__file__).resolve()), *sys.argv[1:]])  # noqa: S606 - it takes our place


def _knows_this_checkout() -> bool:
    """Whether `loopforge` is this checkout's, and not some other that is installed, too."""
    found = find_spec("loopforge")
    return found is not None and found.origin is not None and ROOT in Path(found.origin).resolve().parents


if __name__ == "__main__":
    sys.exit(main())

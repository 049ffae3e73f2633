"""Where the recorded provider traffic lies: beside the repository, never in it, so it may be missing.

To be imported where tests are parametrized over the recordings; for others the fixture `recordings` skips by itself.
"""

from __future__ import annotations

import os
from pathlib import Path

MISSING = "no recorded provider traffic: LOOPFORGE_RECORDINGS names no folder, and ../shared/recordings is not there"

_BESIDE_THE_REPOSITORY = Path(__file__).resolve().parents[2] / "shared" / "recordings"


def recordings_folder() -> Path | None:
    """The folder of *.jsonl files, or None: then skip, and give MISSING as the reason."""
    folder = Path(os.environ.get("LOOPFORGE_RECORDINGS") or _BESIDE_THE_REPOSITORY)
    return folder if folder.is_dir() else None

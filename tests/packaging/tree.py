"""The project's own files: what git tracks and what it would add; in an unpacked sdist, without git, all there is."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("runtime", "workers", "drivers")  # the folders that make up loopforge


@cache
def project_files() -> tuple[PurePosixPath, ...]:
    """Paths from the root, sorted, no symlink among them."""
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    else:
        listed = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if "__pycache__" not in path.parts]
    paths = sorted({PurePosixPath(name) for name in listed if name})
    return tuple(path for path in paths if (ROOT / path).is_file() and not (ROOT / path).is_symlink())


def python_files(*folders: str) -> tuple[PurePosixPath, ...]:
    """The Python files in these top-level folders; of the whole tree when none is named."""
    return tuple(path for path in project_files() if path.suffix == ".py" and (not folders or path.parts[0] in folders))

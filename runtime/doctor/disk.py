"""Whether the file system that turns are written to has room. Looks at the nearest folder that exists."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from loopforge.runtime.doctor.finding import Finding, error, ok, warn

Statvfs = Callable[[str], os.statvfs_result]

LEAST_BYTES = 64 * 2**20
"""Below this a journal cannot even clean up: what it deletes is written to its log first."""


def judge_disk(folder: Path, retain_mb: int, statvfs: Statvfs = os.statvfs) -> Iterator[Finding]:
    """`folder`: where the service keeps its files. `retain_mb`: what they may grow to ([runtime] retain_mb)."""
    place = next((place for place in (folder, *folder.parents) if place.is_dir()), Path("/"))
    try:
        found = statvfs(str(place))
    except OSError as exc:
        yield warn("disk", f"the room at {place} is not known: {exc.strerror}", f"check the file system of {place}")
        return
    free = found.f_bavail * found.f_frsize
    move = "free some, or move LOOPFORGE_HOME to another disk"
    if found.f_flag & os.ST_RDONLY:
        yield error("disk", f"the file system of {place} is read-only", "mount it for writing, or move LOOPFORGE_HOME")
    elif free < LEAST_BYTES:
        yield error("disk", f"{_mb(free)} are free at {place}; new turns are refused when there is no room", move)
    elif found.f_files and found.f_favail == 0:
        yield error("disk", f"no inode is free at {place}: no file can be made", move)
    elif free < retain_mb * 2**20:
        what = f"{_mb(free)} are free at {place}, and turns may take {retain_mb} MB ([runtime] retain_mb)"
        yield warn("disk", what, f"{move}, or lower retain_mb")
    else:
        yield ok("disk", f"{_mb(free)} are free at {place}")


def _mb(count: int) -> str:
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.0f} MB"

"""Puts a file in place whole or not at all, and keeps what stood there before.

A reader sees the old file or the new one, also after a power cut: what is new is written and synced beside it, then
takes its name. Knows no configuration; whether a content is worth writing is decided before.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FILE_MODE = 0o600
MAX_BACKUPS = 1000


class CannotWrite(Exception):
    """Something is in the way; the text says what, and what to do. Failures of the system stay OSErrors."""


@contextmanager
def draft_beside(path: Path, data: bytes, *, mode: int = FILE_MODE) -> Iterator[Path]:
    """`data` in a new file in the same folder, on disk; it is gone when the block is left, unless it was moved."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)  # of a process that was killed, and whose number is ours now
    try:
        write_new(draft, data, mode=mode)
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def write_new(path: Path, data: bytes, *, mode: int = FILE_MODE) -> None:
    """Write a file that did not exist and see it onto the disk. Raises FileExistsError."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, FILE_MODE), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def place_new(draft: Path, path: Path) -> None:
    """Give the draft its name, unless the name is taken: link() checks and acts in one step, rename() does not.

    Raises FileExistsError.
    """
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
        os.close(descriptor)
        draft.replace(path)
    sync_folder(path.parent)


def replace(draft: Path, path: Path) -> None:
    """Give the draft the name of a file that may exist, in one step."""
    draft.replace(path)
    sync_folder(path.parent)


def take_over_mode(draft: Path, path: Path) -> None:
    """Let the draft be read and written by those who may do so with `path`: its mode, owner and group.

    Raises CannotWrite when the system does not let this account give the file away: a service of another account could
    not read it then.
    """
    old, new = path.stat(), draft.stat()
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        try:
            os.chown(draft, old.st_uid, old.st_gid)
        except PermissionError:
            raise CannotWrite(
                f"{path} belongs to another user or group, and this account may not write a file for them; "
                "run this as its owner"
            ) from None
    draft.chmod(old.st_mode & 0o7777)


def keep_backup(path: Path) -> Path:
    """A copy of the file beside it, for its owner alone, under a name that was free.

    Raises CannotWrite when there is no file to copy.
    """
    if path.is_dir():
        raise CannotWrite(f"{path} is a folder; remove it first")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise CannotWrite(f"{path} is a link that leads nowhere; remove it first") from None
    for number in range(1, MAX_BACKUPS):
        backup = path.with_name(f"{path.name}.bak" if number == 1 else f"{path.name}.bak.{number}")
        with contextlib.suppress(FileExistsError):
            write_new(backup, data)
            return backup
    raise CannotWrite(f"there are {MAX_BACKUPS} backups beside {path}; remove some")


def sync_folder(folder: Path) -> None:
    """So that the name of a file in it, too, outlives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Puts a file in place whole or not at all, and keeps what stood there before.

A reader sees the old file or the new one, also after a power cut: what is new is written and synced beside it, then
takes its name. Knows no configuration; whether a content is worth writing is decided before.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FILE_MODE = 0o600
MAX_BACKUPS = 1000
ELSEWHERE = "set LOOPFORGE_HOME to another folder"


class CannotWrite(Exception):
    """Something is in the way; the text says what, and what to do."""


def trouble_with(folder: Path, exc: OSError, elsewhere: str = ELSEWHERE) -> str:
    """Why nothing can be written to a folder, which need not exist, and what to do. `elsewhere`: the other way out."""
    place = next((place for place in (folder, *folder.parents) if place.is_dir()), folder)
    match exc.errno:
        case errno.EROFS:
            why, way = "its file system is read-only", "mount it for writing"
        case errno.EACCES | errno.EPERM:
            why, way = "this account may not do so", "run this as the owner of the folder"
        case errno.ENOSPC | errno.EDQUOT:
            why, way = "there is no room", "free some"
        case _:
            return f"{folder} cannot be made, or written to: {exc.strerror or exc}; correct that, or {elsewhere}"
    return f"nothing can be written in {place}: {why}; {way}, or {elsewhere}"


@contextmanager
def draft_beside(path: Path, data: bytes, *, mode: int = FILE_MODE) -> Iterator[Path]:
    """`data` in a new file in the same folder, on disk; it is gone when the block is left, unless it was moved.

    Raises CannotWrite.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.unlink(missing_ok=True)  # of a process that was killed, and whose number is ours now
        write_new(draft, data, mode=mode)
    except OSError as exc:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise CannotWrite(trouble_with(path.parent, exc)) from exc
    try:
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
    """Give the draft the name of a file that may exist, in one step. Raises CannotWrite for one that is a mount."""
    try:
        draft.replace(path)
    except OSError as exc:
        if exc.errno != errno.EBUSY:
            raise
        raise CannotWrite(
            f"{path} is mounted by itself and cannot be replaced; mount its folder instead, or edit it where it lies"
        ) from exc
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

    Raises CannotWrite when there is no file to copy, or no place for the copy.
    """
    if path.is_dir():
        raise CannotWrite(f"{path} is a folder; remove it first")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise CannotWrite(f"{path} is a link that leads nowhere; remove it first") from None
    for number in range(1, MAX_BACKUPS):
        backup = path.with_name(f"{path.name}.bak" if number == 1 else f"{path.name}.bak.{number}")
        try:
            write_new(backup, data)
        except FileExistsError:
            continue
        except OSError as exc:
            with contextlib.suppress(OSError):
                backup.unlink()
            raise CannotWrite(trouble_with(path.parent, exc)) from exc
        return backup
    raise CannotWrite(f"there are {MAX_BACKUPS} backups beside {path}; remove some")


def sync_folder(folder: Path) -> None:
    """So that the name of a file in it, too, outlives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

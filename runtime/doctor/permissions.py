"""Who may read and change what: the home folder, the config file, the socket and its folder. Looks, changes nothing.

No key stands in any of these files. But whoever may write config.toml can send turns, with their key, to a server of
his own; and whoever may write the socket's folder can put his own service there.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from loopforge.runtime.config.values import RuntimeSettings
from loopforge.runtime.doctor.finding import Finding, error, ok, warn


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """`socket`: None when its path cannot be used, and `socket_trouble` says why."""

    home: Path
    config: Path
    socket: Path | None
    socket_trouble: str = ""


def judge_permissions(places: Places, settings: RuntimeSettings, uid: int) -> Iterator[Finding]:
    """`settings`: decide whether others are to reach the socket. `uid`: of whoever asks."""
    found = [*_home(places.home, uid), *_config(places.config, uid)]
    if places.socket is None:
        what, _, step = places.socket_trouble.rpartition("; ")
        found.append(error("permissions", what or places.socket_trouble, step or "set LOOPFORGE_SOCKET"))
    else:
        found += _socket(places.socket, settings, uid)
    yield from found or [ok("permissions", f"{places.home}, its files and the socket are for you alone")]


def _home(home: Path, uid: int) -> Iterator[Finding]:
    found = _look(home)
    if found is None:
        parent = _nearest(home)
        if not os.access(parent, os.W_OK | os.X_OK):
            what = f"{home} is not there, and this account may not make it in {parent}"
            yield error("permissions", what, "set LOOPFORGE_HOME to a folder of your own")
        return
    if not stat.S_ISDIR(found.st_mode):
        yield error("permissions", f"{home} is not a folder", "remove it, or set LOOPFORGE_HOME to another place")
        return
    if not os.access(home, os.W_OK | os.X_OK) and not _is_read_only(home):
        yield error("permissions", f"this account may not write into {home}", f"sudo chown -R $USER {home}")
    yield from _owner(home, found, uid)
    if found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
        yield error("permissions", f"others may write into {home} ({_mode(found)})", f"chmod 700 {home}")
    elif found.st_mode & 0o055:
        yield warn("permissions", f"others may look into {home} ({_mode(found)})", f"chmod 700 {home}")


def _config(path: Path, uid: int) -> Iterator[Finding]:
    found = _look(path)
    if found is None or not stat.S_ISREG(found.st_mode):
        return  # the check of the configuration says so
    yield from _owner(path, found, uid)
    if found.st_mode & 0o022:
        what = f"others may write {path} ({_mode(found)}), and so send your turns and keys elsewhere"
        yield error("permissions", what, f"chmod go-w {path}")


def _socket(path: Path, settings: RuntimeSettings, uid: int) -> Iterator[Finding]:
    shared = bool(settings.allow_users or settings.allow_groups)
    folder = _look(path.parent)
    if folder is not None:
        if folder.st_mode & 0o022 and not folder.st_mode & stat.S_ISVTX:
            what = f"others may write into {path.parent} ({_mode(folder)}), and so put their own socket there"
            yield error("permissions", what, f"chmod go-w {path.parent}")
        if not os.access(path.parent, os.X_OK):
            yield error(
                "permissions", f"this account may not enter {path.parent}", "ask the service's owner for access"
            )
    found = _look(path)
    if found is None:
        return
    if not stat.S_ISSOCK(found.st_mode):
        yield error("permissions", f"{path} is no socket", f"remove it: rm {path}")
    elif found.st_mode & 0o066 and not shared and found.st_uid == uid:
        what = f"others may connect to {path} ({_mode(found)}); the service turns them away"
        yield warn("permissions", what, f"chmod 600 {path}")
    elif not os.access(path, os.R_OK | os.W_OK):
        what = f"this account may not use {path}, which belongs to {_name(found.st_uid)}"
        yield error("permissions", what, "ask the service's owner to add you to allow_users in [runtime]")


def _owner(path: Path, found: os.stat_result, uid: int) -> Iterator[Finding]:
    if found.st_uid not in (uid, 0):
        what = f"{path} belongs to {_name(found.st_uid)}, who may change what runs here"
        yield warn("permissions", what, f"use a folder of your own (LOOPFORGE_HOME), or sudo chown $USER {path}")


def _look(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _nearest(path: Path) -> Path:
    """The deepest folder above `path` that exists."""
    return next((parent for parent in path.parents if _look(parent) is not None), Path("/"))


def _is_read_only(path: Path) -> bool:
    """Its whole file system: no owner or mode would help, and the check of the disk says so."""
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def _mode(found: os.stat_result) -> str:
    return f"mode {stat.S_IMODE(found.st_mode):o}"


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)

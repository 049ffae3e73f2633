"""A disk that remembers every write, so that the moment before any of them can be gone back to.

SQLite's own VFS for Unix, called through ctypes, with xOpen, xDelete, xWrite, xTruncate and xSync put in front of it:
https://www.sqlite.org/c3ref/vfs.html, https://www.sqlite.org/c3ref/io_methods.html. Files and locks are the real ones.
"""

from __future__ import annotations

import ctypes
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

SECTOR_BYTES = 512
SQLITE_OK = 0
SQLITE_IOERR_WRITE, SQLITE_IOERR_FSYNC, SQLITE_IOERR_TRUNCATE = 778, 1034, 1546

_P = ctypes.c_void_p
_Open = ctypes.CFUNCTYPE(ctypes.c_int, _P, _P, _P, ctypes.c_int, _P)
_Delete = ctypes.CFUNCTYPE(ctypes.c_int, _P, _P, ctypes.c_int)
_Write = ctypes.CFUNCTYPE(ctypes.c_int, _P, _P, ctypes.c_int, ctypes.c_longlong)
_Truncate = ctypes.CFUNCTYPE(ctypes.c_int, _P, ctypes.c_longlong)
_Sync = ctypes.CFUNCTYPE(ctypes.c_int, _P, ctypes.c_int)


class _Vfs(ctypes.Structure):
    _fields_ = (
        ("iVersion", ctypes.c_int),
        ("szOsFile", ctypes.c_int),
        ("mxPathname", ctypes.c_int),
        ("pNext", _P),
        ("zName", ctypes.c_char_p),
        ("pAppData", _P),
        ("xOpen", _P),
        ("xDelete", _P),
        ("others", _P * 14),
    )


class _Methods(ctypes.Structure):
    _fields_ = (
        ("iVersion", ctypes.c_int),
        ("xClose", _P),
        ("xRead", _P),
        ("xWrite", _P),
        ("xTruncate", _P),
        ("xSync", _P),
        ("others", _P * 13),
    )


@dataclass(frozen=True)
class Write:
    file: str
    offset: int
    data: bytes


@dataclass(frozen=True)
class Truncate:
    file: str
    size: int


@dataclass(frozen=True)
class Sync:
    file: str


@dataclass(frozen=True)
class Delete:
    file: str


Event = Write | Truncate | Sync | Delete
Files = dict[str, bytes]


class RecordingDisk:
    """`events`: what SQLite did to its files, in order, by the files' names without their folder.

    `broken`: whether the next write, cut or sync fails; called with how many were tried before it.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self.events: list[Event] = []
        self.broken: Callable[[int], bool] = lambda _: False
        self.tried = 0
        self._names: dict[int, str] = {}
        self._library = library
        find = library.sqlite3_vfs_find
        find.restype, find.argtypes = ctypes.POINTER(_Vfs), (ctypes.c_char_p,)
        original = find(None).contents
        self._vfs = _Vfs.from_buffer_copy(original)
        self._vfs.zName = b"recording"
        self._open, self._delete = _Open(original.xOpen), _Delete(original.xDelete)
        self._methods: list[_Methods] = []
        self._by_original: dict[int, _Methods] = {}
        self._kept: list[Any] = [_Open(self._on_open), _Delete(self._on_delete)]
        self._vfs.xOpen, self._vfs.xDelete = (ctypes.cast(call, _P).value for call in self._kept)

    def connect(self, path: Path) -> sqlite3.Connection:
        """As runtime.journal.files.connect."""
        uri = f"{path.as_uri()}?vfs=recording"
        return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)

    def register(self) -> None:
        self._library.sqlite3_vfs_register(ctypes.byref(self._vfs), 0)

    def unregister(self) -> None:
        self._library.sqlite3_vfs_unregister(ctypes.byref(self._vfs))

    def _on_open(self, vfs: int, name: int | None, file: int, flags: int, out_flags: int | None) -> int:
        result = int(self._open(vfs, name, file, flags, out_flags))
        if result == SQLITE_OK and name is not None:
            self._names[file] = Path(ctypes.string_at(name).decode()).name
            place = ctypes.cast(file, ctypes.POINTER(_P))
            assert place[0] is not None
            place[0] = ctypes.addressof(self._recording_methods(place[0]))
        return result

    def _on_delete(self, vfs: int, name: int, sync_folder: int) -> int:
        result = int(self._delete(vfs, name, sync_folder))
        if result == SQLITE_OK:
            self.events.append(Delete(Path(ctypes.string_at(name).decode()).name))
        return result

    def _recording_methods(self, address: int) -> _Methods:
        if address in self._by_original:
            return self._by_original[address]
        original = _Methods.from_address(address)
        methods = self._by_original[address] = _Methods.from_buffer_copy(original)
        write, truncate, sync = _Write(original.xWrite), _Truncate(original.xTruncate), _Sync(original.xSync)

        def fails() -> bool:
            self.tried += 1
            return self.broken(self.tried - 1)

        def on_write(file: int, data: int, size: int, offset: int) -> int:
            if fails():
                return SQLITE_IOERR_WRITE
            result = int(write(file, data, size, offset))
            self.events.append(Write(self._names[file], offset, ctypes.string_at(data, size)))
            return result

        def on_truncate(file: int, size: int) -> int:
            if fails():
                return SQLITE_IOERR_TRUNCATE
            result = int(truncate(file, size))
            self.events.append(Truncate(self._names[file], size))
            return result

        def on_sync(file: int, flags: int) -> int:
            if fails():
                return SQLITE_IOERR_FSYNC
            result = int(sync(file, flags))
            self.events.append(Sync(self._names[file]))
            return result

        calls = _Write(on_write), _Truncate(on_truncate), _Sync(on_sync)
        self._kept += calls
        methods.xWrite, methods.xTruncate, methods.xSync = (ctypes.cast(call, _P).value for call in calls)
        return methods


@contextmanager
def recording_disk() -> Iterator[RecordingDisk | None]:
    """None where this Python's SQLite cannot be reached: it is linked into the interpreter without its names."""
    import _sqlite3

    library = ctypes.CDLL(getattr(_sqlite3, "__file__", None))
    if not hasattr(library, "sqlite3_vfs_find"):
        yield None
        return
    disk = RecordingDisk(library)
    disk.register()
    try:
        yield disk
    finally:
        disk.unregister()


def after_kill(events: Sequence[Event]) -> Files:
    """What is on disk when the process is killed behind these: all of it, for the system lives on."""
    files: dict[str, bytearray] = {}
    for event in events:
        _apply(files, event)
    return {name: bytes(data) for name, data in files.items()}


def after_power_loss(events: Sequence[Event], rng: Random) -> Files:
    """The same when the system dies, too: of what was not synced each sector is there or not, and so is each cut.

    A deletion is there: SQLite syncs the folder after it.
    """
    last_sync = {event.file: at for at, event in enumerate(events) if isinstance(event, Sync)}
    files: dict[str, bytearray] = {}
    for at, event in enumerate(events):
        if at <= last_sync.get(event.file, -1) or isinstance(event, Delete):
            _apply(files, event)
        elif isinstance(event, Write):
            for piece in _sectors(event):
                if rng.random() < 0.5:
                    _apply(files, piece)
        elif rng.random() < 0.5:
            _apply(files, event)
    return {name: bytes(data) for name, data in files.items()}


def _sectors(write: Write) -> Iterator[Write]:
    at = 0
    while at < len(write.data):
        end = min(len(write.data), at + SECTOR_BYTES - (write.offset + at) % SECTOR_BYTES)
        yield Write(write.file, write.offset + at, write.data[at:end])
        at = end


def _apply(files: dict[str, bytearray], event: Event) -> None:
    match event:
        case Delete(name):
            files.pop(name, None)
        case Truncate(name, size):
            data = files.setdefault(name, bytearray())
            del data[size:]
        case Write(name, offset, new):
            data = files.setdefault(name, bytearray())
            data.extend(bytes(max(0, offset + len(new) - len(data))))
            data[offset : offset + len(new)] = new

"""config.toml on disk -> checked values, or every problem in it. Reads one file; no network.

Of problems of syntax TOML's grammar lets only the first be told; of values all are told at once, each with its line.
Bounded: a file of more than 1 MiB is refused unread. Runs in its own process where time matters: see child.py.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import tomli

from loopforge.runtime.config.findings import Findings, shorten
from loopforge.runtime.config.paths import MAX_CONFIG_BYTES, Environment
from loopforge.runtime.config.positions import scan
from loopforge.runtime.config.resolve import resolve
from loopforge.runtime.config.values import Checked, Problem

_MANY_DIGITS = re.compile(r"[0-9_]{4000,}")


def check(path: Path, env: Environment) -> Checked:
    """The configuration in the file, or what forbids it. Raises nothing that a file can cause.

    `env`: decides only whether a key variable counts as set; no value of it gets into the result.
    """
    try:
        text = _read(path)
    except _UnreadableError as exc:
        return Checked(config=None, problems=(exc.problem,))
    return check_text(text, path, env)


def check_text(text: str, path: Path, env: Environment) -> Checked:
    """As `check`, for a text that would stand in the file `path`."""
    try:
        raw = tomli.loads(text)
    except tomli.TOMLDecodeError as exc:
        return Checked(config=None, problems=(_syntax_problem(exc, text, path),))
    except RecursionError:
        return _only(path, 0, "tables or lists are nested too deeply", "a configuration needs four levels")
    except ValueError:  # int() refuses more digits than sys.get_int_max_str_digits()
        digits = _MANY_DIGITS.search(text)
        line = text.count("\n", 0, digits.start()) + 1 if digits else 0
        return _only(path, line, "a number has too many digits", "shorten it")
    findings = Findings(str(path), text)
    config = resolve(raw, path, findings, env)
    return Checked(config=config, problems=() if config else findings.errors)


def _only(path: Path, line: int, problem: str, suggestion: str) -> Checked:
    found = Problem(file=str(path), line=line, place="", problem=problem, suggestion=suggestion)
    return Checked(config=None, problems=(found,))


class _UnreadableError(Exception):
    def __init__(self, path: Path, problem: str, suggestion: str, line: int = 0) -> None:
        super().__init__(problem)
        self.problem = Problem(file=str(path), line=line, place="", problem=problem, suggestion=suggestion)


def _read(path: Path) -> str:
    """The file's text, without a byte order mark. Does not wait for a pipe's other end."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as exc:  # ValueError: a zero byte in the path
        raise _UnreadableError(path, *_open_problem(exc)) from exc
    try:
        data = _read_bounded(descriptor, path)
    except OSError as exc:
        raise _UnreadableError(path, f"cannot be read: {exc.strerror}", "check the disk") from exc
    finally:
        os.close(descriptor)
    if len(data) > MAX_CONFIG_BYTES:
        raise _UnreadableError(
            path,
            f"the file has more than {MAX_CONFIG_BYTES >> 20} MiB",
            "a configuration has a few KB; is this the right file?",
        )
    return _decode(data, path)


def _read_bounded(descriptor: int, path: Path) -> bytes:
    """At most one byte more than a configuration may have."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISDIR(mode):
        raise _UnreadableError(path, "this is a folder", f"name a file in it, such as {path / 'config.toml'}")
    if not stat.S_ISREG(mode):
        raise _UnreadableError(path, "this is not a regular file", "write the configuration to a file")
    with open(descriptor, "rb", closefd=False) as file:
        return file.read(MAX_CONFIG_BYTES + 1)


def _decode(data: bytes, path: Path) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _UnreadableError(path, "the file is in UTF-16", "save it as UTF-8", line=1)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        problem = f"byte 0x{data[exc.start]:02x} is not UTF-8"
        raise _UnreadableError(path, problem, "save the file as UTF-8", line=line) from exc


def _open_problem(exc: OSError | ValueError) -> tuple[str, str]:
    match exc:
        case FileNotFoundError():
            return "there is no such file", "run 'loopforge init' to write one, or name yours with --config"
        case PermissionError():
            return "this account may not read the file", "check the owner and mode of the file and of its folders"
        case NotADirectoryError():
            return "a part of the path is not a folder", "correct the path"
        case OSError():
            return f"cannot be opened: {exc.strerror}", "correct the path"
    return f"cannot be opened: {exc}", "correct the path"


def _syntax_problem(exc: tomli.TOMLDecodeError, text: str, path: Path) -> Problem:
    """The first error of syntax. A repetition, which tomli calls an overwrite, is told with its first line."""
    line, column = exc.lineno, exc.colno
    repeated = scan(text).repeated if exc.msg.startswith(("Cannot", "Duplicate")) else None
    if repeated is not None and repeated.line == line:
        return Problem(
            file=str(path),
            line=line,
            place=shorten(repeated.name),
            problem=f"stands here a second time; the first is in line {repeated.first_line}",
            suggestion="remove one of the two",
        )
    problem = f"not TOML: {exc.msg[:1].lower()}{exc.msg[1:]} (column {column})"
    return Problem(file=str(path), line=line, place="", problem=problem, suggestion=_syntax_hint(exc))


def _syntax_hint(exc: tomli.TOMLDecodeError) -> str:
    match exc.msg:
        case "Invalid value":
            return 'text stands in quotes: key = "text"; true and false do not'
        case message if message.startswith("Expected '=' after a key"):
            return 'write key = "value"'
        case message if message.startswith(("Cannot overwrite", "Cannot declare")):
            return "this name is taken by a key or table above"
        case message if message.startswith("Unescaped '\\'"):
            return "write '…' with single quotes around text that has backslashes"
        case message if message.startswith(("Unterminated string", "Illegal character '\\n'")):
            return "close the quotes in the same line"
    return ""

"""Where things are: home folder, config file, socket, key. Reads environment and disk, imports nothing heavy.

Every client looks for the socket in the same order: LOOPFORGE_SOCKET, `[runtime] socket` of the config file,
$LOOPFORGE_HOME/run/loopforge.sock, /run/loopforge/loopforge.sock (where the system unit puts it).
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

CONFIG_NAME = "config.toml"
PRESETS = Path(__file__).with_name("presets.toml")  # what `loopforge init` writes; ships as package data
SYSTEM_SOCKET = Path("/run/loopforge/loopforge.sock")
MAX_SOCKET_PATH_BYTES = 107  # sun_path has 108 with the closing zero: man 7 unix
MAX_CONFIG_BYTES = 1 << 20  # a full config with comments has 10 KB

Environment = Mapping[str, str]
KeyState = Literal["not needed", "set", "in a credentials file", "not set"]


class UnusablePath(Exception):
    """A path cannot serve its purpose; the text says which, why, and what to do."""


def home(env: Environment) -> Path:
    """$LOOPFORGE_HOME, by default ~/.loopforge; absolute. Raises UnusablePath when there is no home to put it in."""
    return _expand(env.get("LOOPFORGE_HOME") or "~/.loopforge", env)


def config_path(option: str | os.PathLike[str] | None, env: Environment) -> Path:
    """The file that `--config` names, by default $LOOPFORGE_HOME/config.toml; absolute, need not exist."""
    if option:
        return _expand(os.fspath(option), env)
    return home(env) / CONFIG_NAME


def config_or_presets(option: str | os.PathLike[str] | None, env: Environment) -> Path:
    """As `config_path`; where nobody named a file and none was ever written, the presets: no set-up is required."""
    path = config_path(option, env)
    return PRESETS if not option and not path.exists() else path


def journal_path(env: Environment) -> Path:
    """The journal's database, in a folder of its own below the home folder; lock and spare files stand beside it."""
    return home(env) / "journal" / "journal.db"


def server_socket(configured: str, env: Environment) -> Path:
    """Where a service listens: LOOPFORGE_SOCKET, else `configured` (`[runtime] socket`), else below the home folder.

    Raises UnusablePath when the path is longer than a socket's may be.
    """
    if named := _named_socket(configured, env):
        return named
    return _fitting(home(env) / "run" / "loopforge.sock", "set LOOPFORGE_SOCKET to a shorter path")


def client_socket(config: Path, env: Environment) -> Path:
    """Where a client finds the service. Of the two default places the one that exists; else the first.

    `config`: the client's config file, which need not exist. Raises UnusablePath as `server_socket` does.
    """
    configured = "" if env.get("LOOPFORGE_SOCKET") else configured_socket(config)
    own = server_socket(configured, env)
    if env.get("LOOPFORGE_SOCKET") or configured or own.exists() or not SYSTEM_SOCKET.exists():
        return own
    return SYSTEM_SOCKET


def configured_socket(config: Path) -> str:
    """`[runtime] socket` of a config file; "" when there is none, or no readable file.

    A file that never mentions a socket outside of comments is not parsed: importing a TOML parser costs 8 ms, a tenth
    of what `status` may take. A broken file counts as silent here: the service may be running on what it said before.
    """
    try:
        with config.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES)
    except OSError:
        return ""
    if not any(b"socket" in line and not line.lstrip().startswith(b"#") for line in data.splitlines()):
        return ""
    import tomli

    try:
        runtime = tomli.loads(data.decode("utf-8-sig")).get("runtime")
    except (ValueError, RecursionError):
        return ""
    value = runtime.get("socket") if isinstance(runtime, dict) else None
    return value if isinstance(value, str) else ""


def key_state(name: str, env: Environment) -> KeyState:
    """Whether the key that `api_key_env = name` names is there. Opens and reads nothing."""
    if not name:
        return "not needed"
    if env.get(name):
        return "set"
    return "not set" if credential_file(name, env) is None else "in a credentials file"


def credential_file(name: str, env: Environment) -> Path | None:
    """The file of this name in $CREDENTIALS_DIRECTORY (systemd's LoadCredential=), if it is there."""
    folder = env.get("CREDENTIALS_DIRECTORY")
    if not folder or not name or "/" in name:
        return None
    path = Path(folder) / name
    return path if path.is_file() else None


def _named_socket(configured: str, env: Environment) -> Path | None:
    if named := env.get("LOOPFORGE_SOCKET"):
        return _fitting(_expand(named, env), "shorten LOOPFORGE_SOCKET")
    if configured:
        return _fitting(_expand(configured, env), "shorten socket in [runtime]")
    return None


def _fitting(path: Path, action: str) -> Path:
    if (size := len(os.fsencode(path))) > MAX_SOCKET_PATH_BYTES:
        raise UnusablePath(
            f"the socket's path has {size} bytes, the system allows {MAX_SOCKET_PATH_BYTES}: {path}; {action}"
        )
    return path


def _expand(path: str, env: Environment) -> Path:
    """The path, absolute, with ~ replaced by the home folder: $HOME of `env`, else the account's."""
    if path != "~" and not path.startswith("~/"):
        return Path(path).absolute()
    folder = env.get("HOME")
    if not folder:
        try:
            folder = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            raise UnusablePath("this account has no home folder; set LOOPFORGE_HOME to a folder of its own") from None
    return Path(folder + path[1:]).absolute()

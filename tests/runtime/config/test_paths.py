"""Where things are, for services and for clients; and what that may cost."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from loopforge.runtime.config.paths import (
    PRESETS,
    SYSTEM_SOCKET,
    UnusablePath,
    client_socket,
    config_or_presets,
    config_path,
    configured_socket,
    credential_file,
    home,
    key_state,
    server_socket,
)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_home_is_the_variable_or_a_folder_below_the_accounts_home() -> None:
    assert home({"HOME": "/h"}) == Path("/h/.loopforge")
    assert home({"HOME": "/h", "LOOPFORGE_HOME": ""}) == Path("/h/.loopforge")
    assert home({"HOME": "/h", "LOOPFORGE_HOME": "/x"}) == Path("/x")
    assert home({"HOME": "/h", "LOOPFORGE_HOME": "~/x"}) == Path("/h/x")
    assert home({"LOOPFORGE_HOME": "x"}) == Path.cwd() / "x"
    assert home({}) == Path(pwd.getpwuid(os.getuid()).pw_dir) / ".loopforge"


def test_the_option_counts_more_than_the_home_folder() -> None:
    env = {"LOOPFORGE_HOME": "/x", "HOME": "/h"}
    assert config_path(None, env) == Path("/x/config.toml")
    assert config_path("", env) == Path("/x/config.toml")
    assert config_path("/etc/c.toml", env) == Path("/etc/c.toml")
    assert config_path(Path("~/c.toml"), env) == Path("/h/c.toml")
    assert config_path("c.toml", env) == Path.cwd() / "c.toml"


def test_where_no_file_was_ever_written_the_presets_serve(tmp_path: Path) -> None:
    env = {"LOOPFORGE_HOME": str(tmp_path)}
    assert config_or_presets(None, env) == PRESETS
    assert PRESETS.is_file()
    assert config_or_presets("/named/file", env) == Path("/named/file")  # its absence is a mistake to be told
    write(tmp_path / "config.toml", "")
    assert config_or_presets(None, env) == tmp_path / "config.toml"


def test_clients_look_for_the_socket_in_the_order_that_is_promised(tmp_path: Path) -> None:
    config = write(tmp_path / "config.toml", '[runtime]\nsocket = "/configured"\n')
    env = {"LOOPFORGE_HOME": str(tmp_path), "LOOPFORGE_SOCKET": "/from-variable"}
    assert client_socket(config, env) == Path("/from-variable")
    del env["LOOPFORGE_SOCKET"]
    assert client_socket(config, env) == Path("/configured")
    write(config, "")
    assert client_socket(config, env) == tmp_path / "run" / "loopforge.sock"
    config.unlink()
    assert client_socket(config, env) == tmp_path / "run" / "loopforge.sock"


def test_a_service_listens_where_its_clients_look(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    for variable in ("", "/v", "~/v"):
        for configured in ("", "/c", "~/c"):
            env = {"LOOPFORGE_HOME": str(tmp_path), "HOME": "/h", "LOOPFORGE_SOCKET": variable}
            write(config, f'runtime.socket = "{configured}"')
            assert client_socket(config, env) == server_socket(configured, env)


@pytest.mark.skipif(SYSTEM_SOCKET.exists(), reason="a service runs on this machine")
def test_the_system_socket_is_only_taken_when_it_is_there(tmp_path: Path) -> None:
    env = {"LOOPFORGE_HOME": str(tmp_path)}
    assert client_socket(tmp_path / "config.toml", env) == tmp_path / "run" / "loopforge.sock"


@pytest.mark.parametrize(
    ("text", "socket"),
    [
        ('[runtime]\nsocket = "/a"\n', "/a"),
        ('\ufeff[runtime]\r\nsocket = "/a"\r\n', "/a"),
        ('runtime = { socket = "/a" }', "/a"),
        ('"runtime"."socket" = "/a"', "/a"),
        ('[runtime]\n# socket = "/a"\n', ""),
        ("[runtime]\ndrain_s = 1 # no socket here\n", ""),
        ('[other]\nsocket = "/a"\n', ""),
        ("[runtime]\nsocket = 3\n", ""),
        ("runtime = 3 # socket\n", ""),
        ('[runtime]\nsocket = "/a\n', ""),
        ('[runtime]\nsocket = "/\udc80"\n', ""),
        ("socket = " + "[" * 5000, ""),
    ],
)  # fmt: skip
def test_the_configured_socket_is_read_without_checking_the_rest(tmp_path: Path, text: str, socket: str) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert configured_socket(path) == socket


def test_a_config_that_cannot_be_read_configures_no_socket(tmp_path: Path) -> None:
    assert configured_socket(tmp_path / "missing.toml") == ""
    assert configured_socket(tmp_path) == ""


def test_looking_for_the_socket_loads_a_toml_parser_only_for_a_file_that_mentions_one(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys\nfrom loopforge.runtime.config import paths\n"
        "socket = paths.client_socket(pathlib.Path(sys.argv[1]), os.environ)\n"
        "print(socket.name, *{'tomli', 'pydantic', 'trio', 'click', 'msgpack'} & set(sys.modules))"
    )
    named = write(tmp_path / "named.toml", '[runtime]\nsocket = "/run/named.sock"\n')
    for config, printed in [(PRESETS, "loopforge.sock\n"), (named, "named.sock tomli\n")]:
        run = subprocess.run([sys.executable, "-c", code, config], capture_output=True, text=True)
        assert (run.stdout, run.stderr) == (printed, "")


def test_a_path_too_long_for_a_socket_is_refused_with_what_to_do(tmp_path: Path) -> None:
    fitting, long = "/" + "x" * 106, "/" + "é" * 53 + "x"
    assert server_socket(fitting, {}) == Path(fitting)
    for configured, env, action in [
        (long, {}, r"108 bytes.*107.*socket in \[runtime\]"),
        ("", {"LOOPFORGE_SOCKET": long}, "108 bytes.*shorten LOOPFORGE_SOCKET"),
        ("", {"LOOPFORGE_HOME": long}, "bytes.*set LOOPFORGE_SOCKET"),
    ]:
        with pytest.raises(UnusablePath, match=action):
            server_socket(configured, env)
        config = write(tmp_path / "config.toml", f'[runtime]\nsocket = "{configured}"\n')
        with pytest.raises(UnusablePath, match=action):
            client_socket(config, env)


def test_a_key_is_in_a_variable_or_in_the_credentials_folder(tmp_path: Path) -> None:
    write(tmp_path / "K", "secret")
    credentials = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert key_state("", {}) == "not needed"
    assert key_state("K", {"K": "x"}) == "set"
    assert key_state("K", {"K": "", **credentials}) == "in a credentials file"
    assert key_state("K", {}) == "not set"
    assert key_state("OTHER", credentials) == "not set"
    assert credential_file("K", credentials) == tmp_path / "K"
    assert credential_file("../K", {"CREDENTIALS_DIRECTORY": str(tmp_path / "x")}) is None
    assert credential_file("K", {}) is None

"""loopforge init: whole or not at all, never over what is there, for its owner's eyes only."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from loopforge.runtime.config.paths import PRESETS
from tests.runtime.cli.running import loopforge, succeed


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_init_writes_the_presets_and_says_what_to_do_next(tmp_path: Path) -> None:
    home = tmp_path / "deep" / "home"
    told = succeed(home, "init")
    assert (home / "config.toml").read_bytes() == PRESETS.read_bytes()
    assert (mode(home), mode(home / "config.toml")) == (0o700, 0o600)
    assert files(home) == {"config.toml"}
    assert str(home / "config.toml") in told
    assert "ollama pull llama3.2" in told
    assert "loopforge config validate" in told


def test_what_init_writes_is_valid_and_warns_of_nothing(tmp_path: Path) -> None:
    succeed(tmp_path, "init")
    told = succeed(tmp_path, "config", "validate")
    assert told == f"{tmp_path}/config.toml: valid, 19 providers, 3 kinds of task\n"


def test_the_default_home_is_in_the_accounts_home_folder(home: Path) -> None:
    assert loopforge(home, "init", env={"LOOPFORGE_HOME": ""}).returncode == 0
    assert (home / ".loopforge" / "config.toml").is_file()
    assert mode(home / ".loopforge") == 0o700


def test_a_generous_umask_opens_nothing(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        succeed(tmp_path / "home", "init")
        succeed(tmp_path / "home", "init", "--force")
    finally:
        os.umask(before)
    assert mode(tmp_path / "home") == 0o700
    assert {mode(path) for path in (tmp_path / "home").iterdir()} == {0o600}


def test_init_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("mine")
    run = loopforge(tmp_path, "init")
    assert run.returncode == 1
    assert "exists already" in run.stderr
    assert "--force" in run.stderr
    assert path.read_text() == "mine"
    assert files(tmp_path) == {"config.toml"}


def test_of_many_at_once_one_wins_and_the_rest_say_so(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: loopforge(tmp_path, "init"), range(4)))
    assert sorted(run.returncode for run in runs) == [0, 1, 1, 1]
    assert (tmp_path / "config.toml").read_bytes() == PRESETS.read_bytes()
    assert files(tmp_path) == {"config.toml"}


def test_force_keeps_every_old_file_as_a_backup(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    for content in ("first", "second", "third"):
        path.write_text(content)
        path.chmod(0o644)
        told = succeed(tmp_path, "init", "--force")
        assert "the old one is now" in told
        assert path.read_bytes() == PRESETS.read_bytes()
        assert mode(path) == 0o600
    backups = ["config.toml.bak", "config.toml.bak.2", "config.toml.bak.3"]
    assert [(tmp_path / name).read_text() for name in backups] == ["first", "second", "third"]
    assert {mode(tmp_path / name) for name in backups} == {0o600}
    assert files(tmp_path) == {"config.toml", *backups}


def test_force_writes_where_nothing_was_too(tmp_path: Path) -> None:
    assert "the old one" not in succeed(tmp_path, "init", "--force")
    assert files(tmp_path) == {"config.toml"}


def test_force_follows_a_link_to_the_real_file(tmp_path: Path) -> None:
    home, real = tmp_path / "home", tmp_path / "dotfiles" / "loopforge.toml"
    home.mkdir()
    real.parent.mkdir()
    real.write_text("mine")
    (home / "config.toml").symlink_to(real)
    assert loopforge(home, "init").returncode == 1
    assert real.read_text() == "mine"
    succeed_or_note(home)
    assert (home / "config.toml").readlink() == real
    assert real.read_bytes() == PRESETS.read_bytes()
    assert (home / "config.toml.bak").read_text() == "mine"


def succeed_or_note(home: Path) -> None:
    run = loopforge(home, "init", "--force")
    assert run.returncode == 0, run.stderr


def test_a_folder_that_others_may_enter_is_left_as_it_is_and_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert f"chmod 700 {tmp_path}" in succeed(tmp_path, "init")
    assert mode(tmp_path) == 0o755


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_what_is_in_the_way_is_told(tmp_path: Path, force: list[str]) -> None:
    (tmp_path / "file").write_text("")
    run = loopforge(tmp_path / "file", "init", *force)
    assert run.returncode == 1
    assert "not a folder" in run.stderr

    (tmp_path / "home" / "config.toml").mkdir(parents=True)
    run = loopforge(tmp_path / "home", "init", *force)
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    assert files(tmp_path / "home") == {"config.toml"}

    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.toml").symlink_to(tmp_path / "nowhere")
    run = loopforge(tmp_path / "other", "init", *force)
    assert run.returncode == 1
    assert files(tmp_path / "other") == {"config.toml"}


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    home = tmp_path / "home"
    run = loopforge(
        home, "init", command=["sh", "-c", 'ulimit -f 1; exec "$0" -m loopforge.runtime "$@"', sys.executable]
    )
    assert run.returncode == 1
    assert run.stderr.startswith("Error: ")
    assert files(home) == set()


READ_ONLY = (
    'mount --bind "$LOOPFORGE_HOME" "$LOOPFORGE_HOME" && mount -o remount,bind,ro "$LOOPFORGE_HOME" || exit 99; '
    'exec "$0" -m loopforge.runtime "$@"'
)


def can_mount() -> bool:
    """Whether this account may mount something in a name space of its own."""
    return (
        shutil.which("unshare") is not None
        and not subprocess.run(
            ["unshare", "-rm", "mount", "--bind", "/tmp", "/tmp"], stderr=subprocess.DEVNULL
        ).returncode
    )


@pytest.mark.skipif(not can_mount(), reason="the system lets this account mount nothing")
@pytest.mark.parametrize(
    "arguments", [("init",), ("init", "--force"), ("route", "set", "coding", "deepseek"), ("serve",)]
)
def test_a_read_only_home_is_told_in_one_line_with_its_folder_and_what_to_do(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    if arguments != ("init",):
        (tmp_path / "config.toml").write_bytes(PRESETS.read_bytes())
    run = loopforge(tmp_path, *arguments, command=["unshare", "-rm", "sh", "-c", READ_ONLY, sys.executable])
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert line.startswith(
        f"Error: nothing can be written in {tmp_path}: its file system is read-only; mount it for writing, or "
    )
    assert "LOOPFORGE_HOME" in line

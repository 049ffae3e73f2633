"""Who may read and change what. Real files; root, whom nothing is forbidden, sees the same modes."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from loopforge.runtime.config.values import RuntimeSettings
from loopforge.runtime.doctor.finding import Finding
from loopforge.runtime.doctor.permissions import Places, judge_permissions

ALONE = RuntimeSettings()
OTHER = os.getuid() + 4242


MS_RDONLY = 1
"""<sys/mount.h>"""


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """A home as the service makes it."""
    run = tmp_path / "run"
    run.mkdir(mode=0o700)
    tmp_path.chmod(0o700)
    config = tmp_path / "config.toml"
    config.write_text("")
    config.chmod(0o600)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(run / "s"))
    (run / "s").chmod(0o600)
    return Places(home=tmp_path, config=config, socket=run / "s")


def look(places: Places, settings: RuntimeSettings = ALONE) -> list[Finding]:
    return list(judge_permissions(places, settings, os.getuid()))


def test_a_home_for_ones_own_eyes_is_fine(places: Places) -> None:
    (found,) = look(places)
    assert (found.status, found.what) == ("ok", f"{places.home}, its files and the socket are for you alone")


@pytest.mark.parametrize(
    ("change", "status", "step"),
    [
        (lambda places: places.home.chmod(0o755), "warn", "chmod 700 {home}"),
        (lambda places: places.home.chmod(0o770), "error", "chmod 700 {home}"),
        (lambda places: places.config.chmod(0o644), "ok", ""),
        (lambda places: places.config.chmod(0o664), "error", "chmod go-w {home}/config.toml"),
        (lambda places: places.socket.parent.chmod(0o777), "error", "chmod go-w {home}/run"),
        (lambda places: places.socket.parent.chmod(0o1777), "ok", ""),
        (lambda places: places.socket.chmod(0o666), "warn", "chmod 600 {home}/run/s"),
        (lambda places: places.socket.unlink(), "ok", ""),
    ],
)
def test_a_mode_that_lets_others_in_is_told_with_the_command(
    places: Places, change: Callable[[Places], None], status: str, step: str
) -> None:
    change(places)
    (found,) = look(places)
    assert (found.status, found.next_step) == (status, step.format(home=places.home))


def test_a_socket_that_is_meant_for_others_may_be_open(places: Places) -> None:
    assert places.socket is not None
    places.socket.chmod(0o666)
    assert [found.status for found in look(places, RuntimeSettings(allow_groups=("staff",)))] == ["ok"]


def test_a_file_that_belongs_to_somebody_else_is_told_with_his_name(places: Places) -> None:
    if os.getuid() != 0:
        pytest.skip("only root gives files away")
    os.chown(places.config, OTHER, -1)
    found = look(places)
    assert [(each.status, str(OTHER) in each.what) for each in found] == [("warn", True)]


def test_what_stands_where_a_folder_or_socket_should_is_told(places: Places, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    found = look(Places(home=file, config=places.config, socket=file))
    assert [each.what for each in found] == [f"{file} is not a folder", f"{file} is no socket"]
    assert all(each.status == "error" and each.next_step for each in found)


def test_no_owner_is_to_be_changed_where_the_whole_file_system_is_read_only(tmp_path: Path) -> None:
    """chown fails there as well; the check of the disk says what to do."""
    tmp_path.chmod(0o700)
    home, libc = tmp_path / "home", ctypes.CDLL(None, use_errno=True)
    home.mkdir()
    if os.geteuid() != 0 or libc.mount(b"tmpfs", os.fsencode(home), b"tmpfs", MS_RDONLY, b"size=1m,mode=700") != 0:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        (found,) = look(Places(home=home, config=home / "config.toml", socket=home / "run" / "s"))
        assert found.status == "ok"
    finally:
        assert libc.umount2(os.fsencode(home), 2) == 0  # MNT_DETACH


def test_a_home_that_is_not_there_yet_is_fine_where_it_can_be_made(places: Places, tmp_path: Path) -> None:
    new = tmp_path / "a" / "b"
    assert [each.status for each in look(Places(home=new, config=new / "c", socket=new / "s"))] == ["ok"]


def test_a_socket_whose_path_is_too_long_is_told_with_what_to_set(places: Places) -> None:
    trouble = "the socket's path has 130 bytes, the system allows 107: /x; set LOOPFORGE_SOCKET to a shorter path"
    (found,) = look(Places(home=places.home, config=places.config, socket=None, socket_trouble=trouble))
    assert (found.status, found.next_step) == ("error", "set LOOPFORGE_SOCKET to a shorter path")

"""Files are put in place whole or not at all; what stood there is kept, and its mode with it."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from loopforge.runtime.config import on_disk


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_draft_that_was_not_placed_is_gone_afterwards(tmp_path: Path) -> None:
    with on_disk.draft_beside(tmp_path / "a.toml", b"new") as draft:
        assert (draft.parent, draft.read_bytes(), mode(draft)) == (tmp_path, b"new", 0o600)
    assert names(tmp_path) == []


def test_a_draft_left_by_a_killed_process_of_our_number_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / f".a.toml.{os.getpid()}").write_text("torn")
    with on_disk.draft_beside(tmp_path / "a.toml", b"new") as draft:
        on_disk.replace(draft, tmp_path / "a.toml")
    assert (names(tmp_path), (tmp_path / "a.toml").read_text()) == (["a.toml"], "new")


def test_the_new_file_can_be_read_by_those_who_read_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("old")
    path.chmod(0o640)
    with on_disk.draft_beside(path, b"new") as draft:
        on_disk.take_over_mode(draft, path)
        on_disk.replace(draft, path)
    assert (path.read_text(), mode(path)) == ("new", 0o640)


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_the_new_file_belongs_to_whom_the_old_one_belonged(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("old")
    os.chown(path, 12345, 54321)
    with on_disk.draft_beside(path, b"new") as draft:
        on_disk.take_over_mode(draft, path)
        on_disk.replace(draft, path)
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 54321)


def test_what_exists_is_not_replaced_by_what_is_placed_new(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("old")
    with on_disk.draft_beside(path, b"new") as draft, pytest.raises(FileExistsError):
        on_disk.place_new(draft, path)
    assert (names(tmp_path), path.read_text()) == (["a.toml"], "old")


def test_every_backup_has_a_name_of_its_own_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    for content in ("one", "two"):
        path.write_text(content)
        backup = on_disk.keep_backup(path)
        assert (backup.read_text(), mode(backup)) == (content, 0o600)
    assert names(tmp_path) == ["a.toml", "a.toml.bak", "a.toml.bak.2"]


@pytest.mark.parametrize("what", ["folder", "dangling link"])
def test_what_is_no_file_has_no_backup(tmp_path: Path, what: str) -> None:
    path = tmp_path / "a.toml"
    if what == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(on_disk.CannotWrite, match="remove it first"):
        on_disk.keep_backup(path)


@pytest.mark.parametrize(
    ("number", "why", "way"),
    [
        (errno.EROFS, "its file system is read-only", "mount it for writing"),
        (errno.EACCES, "this account may not do so", "as the owner"),
        (errno.EDQUOT, "there is no room", "free some"),
    ],
)
def test_what_keeps_a_file_out_is_told_with_the_folder_that_is_there_and_a_way(
    tmp_path: Path, number: int, why: str, way: str
) -> None:
    told = on_disk.trouble_with(tmp_path / "not" / "yet", OSError(number, os.strerror(number), "a.toml.17"))
    assert told.startswith(f"nothing can be written in {tmp_path}: {why}; ")
    assert way in told
    assert told.endswith("or set LOOPFORGE_HOME to another folder")


def test_a_folder_that_takes_no_file_is_named_and_the_draft_is_not() -> None:
    folder = Path("/proc/self")  # which takes none, not even of root
    told = "/proc/self cannot be made, or written to: No such file"
    with pytest.raises(on_disk.CannotWrite, match=told) as caught, on_disk.draft_beside(folder / "a.toml", b"new"):
        pytest.fail("there is no draft")
    assert "a.toml" not in str(caught.value)

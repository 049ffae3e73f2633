"""A change of one route, as a draft beside the file: what it may be, and how it takes the file's place."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import click
import pytest

from loopforge.runtime.cli.exits import BadConfig, TryLater
from loopforge.runtime.cli.switch import RefusedDraft, Switch, prepared
from loopforge.runtime.config.load import check
from loopforge.runtime.config.paths import PRESETS
from tests.runtime.config.checking import accepted


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_bytes(PRESETS.read_bytes())
    path.chmod(0o600)
    return path


def switch(
    config: Path, kind: str = "planning", provider: str = "deepseek", model: str = "", *, new_kind: bool = False
) -> AbstractContextManager[Switch]:
    return prepared(config, kind, provider, model, new_kind=new_kind, check=check)


@contextmanager
def unchanged(config: Path) -> Iterator[None]:
    """Whatever is done in the block leaves the folder as it was."""
    before = {path.name: path.read_bytes() for path in config.parent.iterdir()}
    yield
    assert {path.name: path.read_bytes() for path in config.parent.iterdir()} == before


@pytest.mark.parametrize(
    ("kind", "provider", "model", "goes_to"),
    [
        ("planning", "anthropic", "claude-x", "anthropic/claude-x"),
        ("coding", "deepseek", "", "deepseek/deepseek-chat"),
        ("summary", "nvidia", "meta/llama-3", "nvidia/meta/llama-3"),
    ],
)
def test_a_switch_knows_both_ends_and_places_its_draft(
    config: Path, kind: str, provider: str, model: str, goes_to: str
) -> None:
    before = config.read_bytes()
    with switch(config, kind, provider, model) as made:
        assert made.before is not None
        assert (made.before.provider, made.before.model, made.changes) == ("ollama", "llama3.2", True)
        assert (f"{made.after.provider}/{made.after.model}", made.config.path) == (goes_to, str(config))
        assert config.read_bytes() == before
        backup = made.place()
    assert backup.read_bytes() == before
    target = accepted(config.read_text()).routes[kind].targets[0]
    assert f"{target.provider}/{target.model}" == goes_to


def test_a_switch_that_is_not_placed_leaves_nothing_behind(config: Path) -> None:
    with unchanged(config), switch(config) as made:
        assert made.draft.read_bytes() == made.new


def test_what_is_set_already_is_no_change(config: Path) -> None:
    with switch(config, provider="ollama") as made:
        assert not made.changes


def test_only_what_the_change_brings_is_warned_of(config: Path) -> None:
    config.write_text(config.read_text() + "[llm]\n")
    with switch(config) as made:
        assert [problem.place for problem in made.warnings] == ["providers.deepseek.api_key_env"]
        assert {problem.file for problem in made.warnings} == {str(config)}


def test_a_link_stays_a_link_and_a_mode_stays_as_it_was(config: Path, tmp_path: Path) -> None:
    real = tmp_path / "dotfiles" / "lf.toml"
    real.parent.mkdir()
    config.rename(real)
    real.chmod(0o640)
    config.symlink_to(real)
    with switch(config, model="other") as made:
        backup = made.place()
    assert (config.readlink(), stat.S_IMODE(real.stat().st_mode), backup.parent) == (real, 0o640, real.parent)
    assert 'model = "other"' in real.read_text()


def test_the_undo_command_is_safe_with_odd_paths(config: Path, tmp_path: Path) -> None:
    odd = tmp_path / "it's mine"
    odd.mkdir()
    moved = config.rename(odd / "config.toml")
    with switch(moved) as made:
        assert made.undo_command(made.place()) == (
            f"""cp '{tmp_path}/it'"'"'s mine/config.toml.bak' '{tmp_path}/it'"'"'s mine/config.toml'"""
        )


@pytest.mark.parametrize(
    ("kind", "provider", "told"),
    [
        ("planing", "ollama", r"no kind of task 'planing' \(did you mean planning\?\); --new makes it one"),
        ("planning", "olama", "did you mean ollama"),
        ("Planning!", "ollama", "write it with a-z, 0-9, _ and -"),
    ],
)
def test_names_that_are_not_there_are_wrong_usage(config: Path, kind: str, provider: str, told: str) -> None:
    with unchanged(config), pytest.raises(click.UsageError, match=told), switch(config, kind, provider):
        pass


def test_a_new_kind_has_no_before(config: Path) -> None:
    with switch(config, "review", new_kind=True) as made:
        assert (made.before, made.after.provider) == (None, "deepseek")


def test_a_draft_with_errors_is_refused_with_the_files_own_name(config: Path) -> None:
    with unchanged(config), pytest.raises(RefusedDraft) as caught, switch(config, provider="bedrock"):
        pass
    assert {problem.file for problem in caught.value.problems} == {str(config)}


def test_a_file_with_errors_is_to_be_corrected_first(config: Path) -> None:
    config.write_text("x = 1\n")
    with unchanged(config), pytest.raises(BadConfig), switch(config):
        pass
    with pytest.raises(BadConfig), switch(config.parent / "none.toml"):
        pass


def test_a_file_that_somebody_changed_meanwhile_stays_as_they_left_it(config: Path) -> None:
    with switch(config) as made:
        config.write_text("theirs")
        with unchanged(config), pytest.raises(TryLater, match="changed by somebody else"):
            made.place()

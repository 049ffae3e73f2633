"""loopforge init: writes the presets as config.toml. Never overwrites without --force, and then keeps a backup."""

from __future__ import annotations

import contextlib
import os
from importlib import resources
from pathlib import Path

import click

from loopforge.runtime.cli.exits import CommandFailed
from loopforge.runtime.config import paths

FOLDER_MODE = 0o700
FILE_MODE = 0o600
MAX_BACKUPS = 1000


@click.command()
@click.option("--force", is_flag=True, help="Replace an existing config.toml; the old one is kept as a backup.")
def init(force: bool) -> None:
    """Write config.toml with presets of 19 providers.

    It goes to $LOOPFORGE_HOME, by default ~/.loopforge. All kinds of task are routed to a local Ollama; no key is
    needed for that.
    """
    path = paths.config_path(None, os.environ)
    _make_folder(path.parent)
    presets = resources.files("loopforge.runtime.config").joinpath("presets.toml").read_bytes()
    backup = _keep_backup(path) if force and os.path.lexists(path) else None
    _write(path, presets, replace=force)
    click.echo(f"Wrote {path}" + (f"; the old one is now {backup}" if backup else ""))
    _warn_of_open_folder(path.parent)
    click.echo(
        "All kinds of task go to a local Ollama (https://ollama.com). Next:\n"
        "  ollama pull llama3.2                  the model that the presets name\n"
        "  loopforge ask hello                   a first turn\n"
        "For a cloud provider: set its key variable, name the provider in a route of that file, then\n"
        "  loopforge config validate             tells every mistake with its line\n"
        "  loopforge rehearse                    tries the routes without a key"
    )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=FOLDER_MODE, parents=True)
    except FileExistsError:
        if not folder.is_dir():
            raise CommandFailed(f"{folder} is not a folder; remove it or set LOOPFORGE_HOME to another place") from None


def _warn_of_open_folder(folder: Path) -> None:
    """A folder that was there before keeps its mode: it may be shared on purpose, or be no folder of ours."""
    if (mode := folder.stat().st_mode & 0o777) & 0o077:
        click.echo(f"Note: others may enter {folder} (mode {mode:o}); 'chmod 700 {folder}' keeps it to yourself")


def _write(path: Path, data: bytes, *, replace: bool) -> None:
    """Put the file in place whole or not at all, on disk when this returns, readable by its owner only.

    Raises CommandFailed when the file exists and is not to be replaced, even if it came into being just now.
    """
    target = Path(os.path.realpath(path)) if replace else path  # a link to the real file stays a link
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        _write_new(draft, data)
        if replace:
            draft.replace(target)
        else:
            _place_new(draft, target)
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(target.parent)


def _place_new(draft: Path, path: Path) -> None:
    """Give the draft its name, unless the name is taken: link() checks and acts in one step, rename() does not."""
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        raise CommandFailed(
            f"{path} exists already and stays as it is; edit it, or replace it with 'loopforge init --force'"
        ) from None
    except OSError:  # a file system without hard links
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
        os.close(descriptor)
        draft.replace(path)


def _keep_backup(path: Path) -> Path:
    """A copy of the file beside it, under a name that was free."""
    if path.is_dir():
        raise CommandFailed(f"{path} is a folder; remove it first")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise CommandFailed(f"{path} is a link that leads nowhere; remove it first") from None
    for number in range(1, MAX_BACKUPS):
        backup = path.with_name(f"{path.name}.bak" if number == 1 else f"{path.name}.bak.{number}")
        with contextlib.suppress(FileExistsError):
            _write_new(backup, data)
            return backup
    raise CommandFailed(f"there are {MAX_BACKUPS} backups beside {path}; remove some")


def _write_new(path: Path, data: bytes) -> None:
    """Write a file that did not exist and see it onto the disk. Raises FileExistsError."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, FILE_MODE), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """So that the name, too, outlives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

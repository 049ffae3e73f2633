"""loopforge init: writes the presets as config.toml. Never overwrites without --force, and then keeps a backup."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

import click

from loopforge.runtime.cli.exits import CommandFailed
from loopforge.runtime.config import on_disk, paths

FOLDER_MODE = 0o700


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
        "  loopforge doctor                      when something does not work: what it is, and what to do\n"
        "For a cloud provider: set its key variable, then\n"
        "  loopforge route set planning NAME --check   sends these turns there, once all is well\n"
        "After editing the file:\n"
        "  loopforge config validate             tells every mistake with its line\n"
        "  loopforge rehearse                    tries the routes without a key"
    )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=FOLDER_MODE, parents=True)
    except FileExistsError:
        if not folder.is_dir():
            raise CommandFailed(f"{folder} is not a folder; remove it or set LOOPFORGE_HOME to another place") from None
    except OSError as exc:
        raise CommandFailed(on_disk.trouble_with(folder, exc)) from None


def _warn_of_open_folder(folder: Path) -> None:
    """A folder that was there before keeps its mode: it may be shared on purpose, or be no folder of ours."""
    if (mode := folder.stat().st_mode & 0o777) & 0o077:
        click.echo(f"Note: others may enter {folder} (mode {mode:o}); 'chmod 700 {folder}' keeps it to yourself")


def _write(path: Path, data: bytes, *, replace: bool) -> None:
    """Put the file in place whole or not at all, on disk when this returns, readable by its owner only.

    Raises CommandFailed when the file exists and is not to be replaced, even if it came into being just now.
    """
    target = Path(os.path.realpath(path)) if replace else path  # a link to the real file stays a link
    try:
        with on_disk.draft_beside(target, data) as draft:
            if replace:
                on_disk.replace(draft, target)
            else:
                on_disk.place_new(draft, target)
    except FileExistsError:
        raise CommandFailed(
            f"{path} exists already and stays as it is; edit it, or replace it with 'loopforge init --force'"
        ) from None
    except on_disk.CannotWrite as exc:
        raise CommandFailed(str(exc)) from None


def _keep_backup(path: Path) -> Path:
    try:
        return on_disk.keep_backup(path)
    except on_disk.CannotWrite as exc:
        raise CommandFailed(str(exc)) from None

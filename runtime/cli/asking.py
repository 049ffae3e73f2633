"""Questions that commands ask the running service, and what its silence means for a command. Loads no trio.

The answers are plain values: what runtime/journal/operations.py, runtime/reload.py and runtime/status.py tell.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loopforge.runtime.blocking import ANSWER_S, NoAnswer, ask_query
from loopforge.runtime.cli.exits import CommandFailed
from loopforge.runtime.config import paths


@contextmanager
def needing_service() -> Iterator[None]:
    """NoAnswer becomes the command's end."""
    try:
        yield
    except NoAnswer as exc:
        text = str(exc)
        raise CommandFailed(f"{text}." if text.startswith("/") else f"{text[:1].upper()}{text[1:]}.") from exc


def ask_journal(config: Path, what: str, *, answer_s: float = ANSWER_S, **members: Any) -> dict[str, Any]:
    """What the service's journal answers: runtime/queries.py. Raises CommandFailed, TurnError."""
    with needing_service():
        return ask_query(paths.client_socket(config, os.environ), {"what": what, **members}, answer_s=answer_s)


def show_turn(config: Path, turn_id: str) -> dict[str, Any]:
    """A StoredTurn. Raises CommandFailed, among others when there is none of this id."""
    turn: dict[str, Any] | None = ask_journal(config, "turn", id=turn_id)["turn"]
    if turn is None:
        from loopforge.runtime.cli.printable import one_line

        raise CommandFailed(
            f"There is no turn with the id {one_line(turn_id)!r}; 'loopforge turns list' shows those that are kept."
        )
    return turn

"""Keeps what worker processes say away from a live table: their log lines are repeated in the result as errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_STDERR = 2


@contextmanager
def quiet_stderr() -> Iterator[TextIO]:
    """This process's stderr, for the block's own use, while whoever inherits descriptor 2 writes to nowhere.

    With LOOPFORGE_DEBUG set nothing is held back.
    """
    if os.environ.get("LOOPFORGE_DEBUG", "") not in ("", "0"):
        yield sys.stderr
        return
    sys.stderr.flush()
    kept = os.dup(_STDERR)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, _STDERR)
    os.close(nowhere)
    try:
        with open(kept, "w", encoding="utf-8", errors="backslashreplace", closefd=False) as own:
            yield own
    finally:
        sys.stderr.flush()
        os.dup2(kept, _STDERR)
        os.close(kept)

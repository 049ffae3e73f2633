"""Questions about past turns and what they cost: a QUERY frame's header -> an operation of the journal, and its answer.

The header: {"what": "turns" | "turn" | "usage" | "purge"} and the members of List, Show, Usage or Purge in
journal/operations.py. The answer is what that operation answers with, as plain values: dataclasses become maps.

{"what": "retry", "id": ID} tries a turn again that failed or was cancelled: ACCEPTED or ERROR answers (dispatch.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from loopforge.runtime.journal.operations import List, Operation, Purge, Show, Usage
from loopforge.workers.packing import from_plain, to_plain

RETRY = "retry"
MAX_LISTED = 1000
"""Turns in one answer, or groups of usage: the loop makes a frame of so many turns in 12 ms, and no turn goes on
meanwhile."""
QUERIES: dict[str, type[Operation[Any]]] = {"turns": List, "turn": Show, "usage": Usage, "purge": Purge, RETRY: Show}


def operation_of(header: dict[str, Any]) -> Operation[Any]:
    """Raises Malformed, ValueError for a question nobody knows."""
    members = dict(header)
    what = str(members.pop("what", ""))
    if what not in QUERIES:
        raise ValueError(f"{what[:40]!r} is none of {', '.join(QUERIES)}")
    if what == RETRY:
        members["with_body"] = True
    operation = from_plain(QUERIES[what], members)
    if isinstance(operation, List | Usage):
        return replace(operation, limit=min(max(operation.limit, 1), MAX_LISTED))
    return operation


def answer_of(result: object) -> Any:
    """Plain values."""
    return to_plain(result)

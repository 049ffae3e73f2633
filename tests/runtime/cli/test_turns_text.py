"""Turns of the journal as text, made of the journal's own values; and what `turns tail` notices."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from loopforge.drivers.errors import Stalled
from loopforge.drivers.turn import Message, Reply, Text, Thinking, Usage
from loopforge.runtime.cli.tail import Watch, event_line
from loopforge.runtime.cli.turns_text import describe, list_lines, outcome_of, turn_json
from loopforge.runtime.journal.operations import Attempt, Ending, LostAttempt, Park, StoredTurn
from loopforge.runtime.queries import answer_of
from loopforge.workers.frame_types import pack
from loopforge.workers.messages import pack_message, pack_reply

NOW = time.mktime((2026, 11, 22, 18, 0, 0, 0, 0, -1))  # local time, as the output
SENT = Attempt(number=2, provider="cloud", model="big", since=NOW - 30)
LOST = LostAttempt(
    attempt=Attempt(number=1, provider="ollama", model="small", since=NOW - 60),
    error="WorkerLost",
    ambiguous=True,
    ended_at=NOW - 35,
    input=7,
    output=3,
)


def stored(turn_id: str = "t1", **members: Any) -> dict[str, Any]:
    """As the service answers."""
    turn: dict[str, Any] = {
        "id": turn_id,
        "body_hash": b"\x01",
        "kind": "coding",
        "session": "s1",
        "lane": "normal",
        "provider": "",
        "model": "",
        "features": ("tools",),
        "size": 250,
        "detached": False,
        "resend_safe": True,
        "accepted_at": NOW - 65,
        "deadline": NOW + 1735,
        "state": "accepted",
    }
    plain: dict[str, Any] = answer_of(StoredTurn(**(turn | members)))
    return plain


def ended(state: Any, header: dict[str, Any], body: bytes = b"", **members: Any) -> dict[str, Any]:
    ending = Ending(state=state, attempt=2, seq=9, header=pack(header), body=body, ended_at=NOW - 5)
    return stored(state=state, ending=ending, attempt=SENT, **members)


REPLY = Reply(
    message=Message(role="assistant", content=(Thinking(text="hm"), Text(text="Hello "), Text(text="there"))),
    finish="length",
    usage=Usage(input=100, cache_read=60, output=20, reasoning=11),
    warnings=("of the driver",),
)
DONE = ended(
    "done", {"attempts": 2, "provider": "cloud", "warnings": ["of the route"]}, pack_reply(REPLY), lost=(LOST,)
)
PARTIAL = pack_message(Message(role="assistant", content=(Text(text="so far"),)))
FAILED = ended("failed", {"fields": Stalled("cloud").to_fields()}, PARTIAL)
PARKED = stored(state="parked", park=Park(provider="cloud", until=NOW + 600, why="quota\x1b[2J"), attempt=SENT)


def test_all_about_a_done_turn() -> None:
    assert describe(DONE, NOW, 0) == [
        "turn      t1",
        "state     done",
        "kind      coding, normal lane, session s1",
        "asks for  tools, about 250 tokens of input",
        "accepted  2026-11-22 17:58:55, 1 min 5 s ago",
        "deadline  2026-11-22 18:28:55, 30 min 0 s after it was accepted",
        "ended     2026-11-22 17:59:55, after 1 min 0 s",
        "reply     finish length, 11 characters; --text prints it",
        "usage     100 input (60 cached), 20 output (11 reasoning)",
        "warning   of the driver",
        "warning   of the route",
        "",
        "TRY  SENT TO       AT        TOOK  RESULT",
        "  1  ollama/small  17:59:00  25 s  WorkerLost, may have been billed (7 tokens in, 3 out)",
        "  2  cloud/big     17:59:30  25 s  done",
        "A try that may have been billed is one whose worker or service died under it.",
    ]
    assert outcome_of(DONE)["text"] == "Hello there"


def test_of_a_try_that_was_lost_with_the_service_nobody_knows_how_long_it_took() -> None:
    turn = ended("done", {}, pack_reply(REPLY), lost=(replace(LOST, ended_at=None),))
    lines = describe(turn, NOW, 0)
    assert lines[-4:] == [
        "  1  ollama/small  17:59:00     -  WorkerLost, may have been billed (7 tokens in, 3 out)",
        "  2  cloud/big     17:59:30  25 s  done",
        "A try that may have been billed is one whose worker or service died under it.",
        "TOOK is - where the service died under it: nobody saw its end.",
    ]
    assert turn_json(turn, whole=True)["lost"][0]["ended_at"] is None


def test_a_failed_turn_says_why_and_what_had_come() -> None:
    lines = describe(FAILED, NOW, 0)
    assert next(line for line in lines if line.startswith("error ")).startswith("error     Stalled: cloud: ")
    assert "partial   6 characters had come; --text prints them" in lines
    told = turn_json(FAILED, whole=True)
    assert (told["error"]["class"], told["text"], told["ended_at"]) == ("Stalled", "so far", NOW - 5)


def test_a_parked_turn_says_until_when_and_for_what() -> None:
    assert "state     parked until 18:10:00 (in 10 min 0 s) for cloud: quota␛[2J" in describe(PARKED, NOW, 0)
    assert list_lines([PARKED], NOW, 0)[1].split("  ")[-2:] == ["cloud (parked)", "s1"]


def test_an_outcome_that_cannot_be_read_is_left_out() -> None:
    broken = DONE | {"ending": DONE["ending"] | {"header": b"\xc1", "body": b"no"}}
    assert outcome_of(broken) == {"reply": {"timings": {}, "warnings": []}, "text": ""}
    assert describe(broken, NOW, 0)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_lines_fit_and_ids_stay_whole(width: int) -> None:
    turns = [stored("t0123456789abcdef", session="s" * 60), DONE, PARKED]
    lines = [*list_lines(turns, NOW, width), *(line for turn in turns for line in describe(turn, NOW, width))]
    assert max(map(len, lines)) <= width
    assert sum("t0123456789abcdef" in line for line in lines) == 2


# -- tail ------------------------------------------------------------------------------------------------------------


class FakeJournal:
    """Answers List and Show about `turns`, as far as a watch asks."""

    def __init__(self) -> None:
        self.turns: dict[str, dict[str, Any]] = {}

    def ask(self, header: dict[str, Any]) -> dict[str, Any]:
        if header["what"] == "turn":
            return {"turn": self.turns.get(header["id"])}
        assert header["kind"] == "coding"
        states, since = header.get("states"), header.get("since", 0)
        newest_first: Sequence[dict[str, Any]] = sorted(self.turns.values(), key=lambda turn: -turn["accepted_at"])
        return {
            "turns": [
                turn
                for turn in newest_first
                if turn["accepted_at"] >= since and (states is None or turn["state"] in states)
            ]
        }

    def put(self, turn_id: str, state: Any = "accepted", *, at: float, ended_at: float | None = None) -> None:
        ending = None
        if ended_at is not None:
            ending = Ending(state=state, attempt=1, seq=1, header=b"", body=b"", ended_at=ended_at)
        self.turns[turn_id] = stored(turn_id, state=state, accepted_at=at, ending=ending)


def test_a_watch_tells_of_each_turn_once_as_it_comes_and_once_as_it_ends() -> None:
    journal = FakeJournal()
    watch = Watch(journal.ask, {"kind": "coding"}, begun_at=NOW)

    def look() -> list[tuple[str, str]]:
        return [(seen.event, seen.turn["id"]) for seen in watch.look()]

    journal.put("ended before", "done", at=NOW - 9, ended_at=NOW - 1)
    journal.put("parked", "parked", at=NOW - 5000)
    journal.put("runs", "running", at=NOW - 2)
    assert look() == [("parked", "parked"), ("running", "runs")]
    journal.put("new", at=NOW + 1)
    journal.put("quick", "done", at=NOW + 2, ended_at=NOW + 2.5)
    journal.put("runs", "cancelled", at=NOW - 2, ended_at=NOW + 1.5)
    assert look() == [("accepted", "new"), ("cancelled", "runs"), ("accepted", "quick"), ("done", "quick")]
    assert look() == []
    journal.put("late", at=NOW + 100)
    assert look() == [("accepted", "late")]
    journal.put("parked", "failed", at=NOW - 5000, ended_at=NOW + 101)
    journal.put("new", "done", at=NOW + 1, ended_at=NOW + 101.5)
    assert look() == [("failed", "parked"), ("done", "new")]
    journal.put("parked", at=NOW + 102)  # tried again
    del journal.turns["late"]
    assert look() == [("accepted", "parked")]
    assert look() == []


def test_a_line_of_tail_says_how_a_turn_went() -> None:
    journal = FakeJournal()
    journal.turns["t1"] = FAILED
    watch = Watch(journal.ask, {"kind": "coding"}, begun_at=NOW - 70)
    assert watch.look() == []
    accepted, failed = watch.look()
    assert event_line(accepted, NOW, 0) == "17:58:55  accepted   t1  coding  session s1"
    line = event_line(failed, NOW, 0)
    assert line.startswith("17:59:55  failed     t1  coding  cloud/big, after 1 min 0 s, 2 tries, Stalled: cloud: ")
    assert len(event_line(failed, NOW, 60)) == 60

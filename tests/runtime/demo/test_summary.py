import json
from typing import Any

import pytest

from loopforge.runtime.demo.cast import TARGETS, phases
from loopforge.runtime.demo.play import Clock, Scene
from loopforge.runtime.demo.summary import ok, opening, phase, planning, ratio, to_lines, to_plain, view
from loopforge.runtime.rehearsal.figures import Ledger
from loopforge.runtime.rehearsal.play import Incident

CLOCK = Clock(warm_up=100.0, idle=101.0, load=105.0, ending=112.0)


def scene(*, idle_s: float = 0.004, load_s: float = 0.005, lost: int = 0, **members: Any) -> Scene:
    """Planning turns of these latencies in both phases, and one turn of each other kind."""
    ledger = Ledger()
    for number in range(10):
        ledger.post("planning", "local", 100.0, measured=False).end("done", 100.9)
        ledger.post("planning", "local", 101.0 + number / 10).end("done", 101.0 + number / 10 + idle_s)
        ledger.post("planning", "local", 105.0 + number / 10).end("done", 105.0 + number / 10 + load_s)
    ledger.post("coding", "slow-cloud", 106.0).end("done", 108.0)
    ledger.post("review", "stuck-cloud", 106.0).end("failed", 108.5, error="ProviderUnavailable", message="no event")
    resent = ledger.post("summary", "crash-cloud", 106.0)
    resent.attempts = 2
    resent.end("done", 107.0)
    for _ in range(lost):
        ledger.post("summary", "crash-cloud", 106.0)
    names = set(TARGETS.values())
    worker = {"state": "ready", "pid": 7, "deaths": 0, "last_death": "", "rss_bytes": 1, "cpu_s": 0.1}
    defaults: dict[str, Any] = {
        "plan": phases(15),
        "clock": CLOCK,
        "entries": ledger.entries,
        "incidents": [
            Incident(at=99.0, provider="local", what="worker 7 is ready"),
            Incident(at=108.5, provider="crash-cloud", what="SIGKILL to worker 8, 3 turns in flight"),
        ],
        "status": {"providers": [worker | {"name": name} for name in sorted(names)]},
        "now": 114.0,
    }
    return Scene(**(defaults | members))


def text(moment: Scene, width: int = 80) -> str:
    return "\n".join(to_lines(moment, "loopforge", width))


def test_planning_is_compared_between_the_phases_and_the_warm_up_counts_for_neither() -> None:
    idle, load = planning(scene())
    assert idle is not None
    assert load is not None
    assert (idle.count, load.count) == (10, 10)
    assert idle.p99_s == pytest.approx(0.004)
    assert load.p99_s == pytest.approx(0.005)
    assert ratio(scene()) == pytest.approx(1.25)


def test_there_is_no_ratio_before_the_load() -> None:
    assert ratio(scene(clock=Clock(warm_up=100.0, idle=101.0))) is None
    assert planning(scene(clock=Clock()))[0] is None


def test_the_document_is_json_and_has_every_figure() -> None:
    plain = json.loads(json.dumps(to_plain(scene()), allow_nan=False))
    assert (plain["ok"], plain["lost"], plain["turns"]["posted"]) == (True, 0, 33)
    assert {kind: (part["provider"], part["done"], part["failed"]) for kind, part in plain["kinds"].items()} == {
        "planning": ("local", 30, 0),
        "coding": ("slow-cloud", 1, 0),
        "review": ("stuck-cloud", 0, 1),
        "summary": ("crash-cloud", 1, 0),
    }
    assert plain["planning"]["p99_ratio"] == pytest.approx(1.25)
    assert plain["errors"] == {"ProviderUnavailable": "no event"}
    assert plain["incidents"] == [
        {"at_s": 8.5, "provider": "crash-cloud", "what": "SIGKILL to worker 8, 3 turns in flight"}
    ]


def test_the_summary_tells_the_fate_of_the_stuck_and_of_the_resent_turns() -> None:
    said = text(scene())
    assert "33 turns posted: 32 done, 1 failed, 0 lost." in said
    assert "1 review turn failed with ProviderUnavailable, told after 2.50 s" in said
    assert "1 summary turn sent again to the new worker" in said


@pytest.mark.parametrize(
    ("moment", "said"),
    [
        (scene(), "Planning kept its speed (p99 x 1.25) while one cloud hung"),
        (scene(load_s=0.04), "Planning's p99 grew to 10.0 times while one cloud hung"),
        (scene(lost=2), "2 turns never got an outcome: that is a bug."),
        (scene(interrupted=True), "Interrupted: these are the figures so far."),
        (scene(late=("local",)), "The worker of local was not ready in time"),
        (scene(clock=Clock(warm_up=100.0)), "Too short to compare"),
    ],
)
def test_it_claims_only_what_the_figures_show(moment: Scene, said: str) -> None:
    assert said in text(moment, 200)


def test_a_lost_turn_is_no_success_and_neither_is_nothing_at_all() -> None:
    assert ok(scene())
    assert not ok(scene(lost=1))
    assert not ok(scene(entries=[]))


def test_an_ollama_that_answers_is_offered_as_the_next_step() -> None:
    assert "loopforge ask hello" in text(scene(has_ollama=True))
    assert "ollama" not in text(scene()).lower()
    assert "loopforge init" in text(scene())


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("moment", [scene(), scene(load_s=9.0), scene(lost=3), scene(interrupted=True)])
def test_no_line_is_longer_than_the_terminal_is_wide(moment: Scene, width: int) -> None:
    assert max(map(len, to_lines(moment, "loopforge", width))) <= width


@pytest.mark.parametrize(
    ("clock", "said"),
    [
        (Clock(), "warming up"),
        (Clock(warm_up=1.0), "warming up"),
        (Clock(warm_up=1.0, idle=2.0), "planning alone"),
        (Clock(warm_up=1.0, idle=2.0, load=3.0), "all kinds"),
        (Clock(warm_up=1.0, idle=2.0, load=3.0, ending=4.0), "last turns"),
    ],
)
def test_the_screen_says_which_phase_it_is(clock: Clock, said: str) -> None:
    assert phase(scene(clock=clock)) == said
    assert view(scene(clock=clock)).clock.endswith(said)


def test_the_screen_has_its_rows_before_there_is_anything_to_tell() -> None:
    assert [(row.kind, row.provider) for row in opening().rows] == list(TARGETS.items())
    assert view(scene(entries=[])).lines == ()


def test_the_screen_has_a_row_for_every_kind_and_only_news_of_the_run() -> None:
    shown = view(scene())
    assert [row.kind for row in shown.rows] == list(TARGETS)
    assert shown.lines == ("planning p99   alone 4.00 ms   with the clouds 5.00 ms",)
    assert shown.notes == ("  8.5 s  crash-cloud: SIGKILL to worker 8, 3 turns in flight",)

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopforge.runtime.rehearsal.figures import Ledger, Spread
from loopforge.runtime.rehearsal.play import Incident
from loopforge.runtime.rehearsal.screen import CLOCK_WIDTH, KIND_WIDTH, NOTES, Lines, draw, open_screen
from loopforge.runtime.rehearsal.view import Row, View, notes, rows

spreads = st.none() | st.builds(
    Spread, count=st.integers(1, 9), p50_s=st.floats(0, 999), p99_s=st.floats(0, 999), max_s=st.floats(0, 999)
)
any_row = st.builds(
    Row,
    kind=st.sampled_from(["planning", "coding", "summary"]),
    provider=st.text("abcdefgh-", min_size=1, max_size=40),
    behaviour=st.text("abcdefgh ", max_size=20),
    worker=st.sampled_from(["ready", "starting", "stopped", "down"]),
    pid=st.none() | st.integers(1, 4_194_304),
    deaths=st.integers(0, 99),
    open=st.integers(0, 99_999),
    done=st.integers(0, 99_999),
    failed=st.integers(0, 99_999),
    latency=spreads,
)
any_view = st.builds(
    View,
    title=st.just("LoopForge rehearsal"),
    intro=st.text("abc ", max_size=150),
    clock=st.text("0123456789. s", max_size=60),
    rows=st.lists(any_row, max_size=6).map(tuple),
    lines=st.lists(st.text("abc ", max_size=150), max_size=2).map(tuple),
    notes=st.lists(st.text("abc ", max_size=150), max_size=20).map(tuple),
)


def row(kind: str = "planning", **members: Any) -> Row:
    defaults: dict[str, Any] = {
        "provider": "ollama", "behaviour": "healthy", "worker": "ready", "pid": 4711, "deaths": 0, "open": 1,
        "done": 2, "failed": 0, "latency": Spread(count=2, p50_s=0.003, p99_s=0.004, max_s=0.004),
    }  # fmt: skip
    return Row(kind=kind, **(defaults | members))


def text(view: View, width: int) -> list[str]:
    return ["".join(piece for piece, _ in line).rstrip() for line in draw(view, width)]


@given(any_view, st.integers(20, 200))
def test_no_line_is_longer_than_the_terminal_is_wide(view: View, width: int) -> None:
    assert all(sum(len(piece) for piece, _ in line) <= width for line in draw(view, width))


def test_eighty_columns_hold_what_matters_and_wide_ones_everything() -> None:
    view = View(title="T", clock="1 s", rows=(row(), row("review", provider="stuck-cloud")))
    assert text(view, 80)[2:] == [
        "TASK KIND  PROVIDER     WORKER   PID  DIED  OPEN  DONE  FAILED      P99",
        "planning   ollama       ready   4711     0     1     2       0  4.00 ms",
        "review     stuck-cloud  ready   4711     0     1     2       0  4.00 ms",
    ]
    assert text(view, 120)[2] == (
        "TASK KIND  PROVIDER     BEHAVIOUR  WORKER   PID  DIED  OPEN  DONE  FAILED      P50      P99"
    )


def test_what_went_wrong_stands_out() -> None:
    styles = dict(draw(View(title="T", clock="", rows=(row(worker="down", failed=3, deaths=2, done=9),)), 80)[3])
    said = {piece.strip(): style for piece, style in styles.items()}
    assert (said["down"], said["3"], said["2"]) == ("bold red", "red", "yellow")


def test_only_the_latest_notes_are_kept_in_sight() -> None:
    view = View(title="T", clock="", rows=(), notes=tuple(f"note {number}" for number in range(NOTES + 3)))
    assert [line for line in text(view, 80) if line.startswith("note")] == [f"note {n}" for n in range(3, NOTES + 3)]


def test_a_pipe_gets_one_line_a_second_and_each_note_once() -> None:
    out, now = io.StringIO(), [0.0]
    lines = Lines(out, lambda: now[0])
    for tick in range(9):  # two seconds, four times a second
        now[0] = tick / 4
        said = ("  1.0 s  ollama: it died",) if tick >= 3 else ()
        lines.show(View(title="T", clock=f"{now[0]:.1f} s", rows=(row(open=tick), row("coding")), notes=said))
    printed = out.getvalue().splitlines()
    assert printed == [
        "T; turns open/done/failed:",
        " " * CLOCK_WIDTH + "planning      coding",
        f"{'0.0 s':<{CLOCK_WIDTH}}0/2/0         1/2/0",
        "  1.0 s  ollama: it died",
        f"{'1.0 s':<{CLOCK_WIDTH}}4/2/0         1/2/0",
        f"{'2.0 s':<{CLOCK_WIDTH}}8/2/0         1/2/0",
    ]


def test_the_lines_of_four_kinds_fit_eighty_columns() -> None:
    assert CLOCK_WIDTH + 4 * KIND_WIDTH <= 81  # the last column's gap is not printed
    out = io.StringIO()
    kinds = tuple(row(kind * 4, open=999, done=99_999, failed=999) for kind in ("plan", "code", "view", "summ"))
    Lines(out, lambda: 0.0).show(View(title="T", clock="100.0 s  planning alone", rows=kinds))
    assert max(map(len, out.getvalue().splitlines())) <= 80


def test_something_that_is_no_terminal_gets_no_escape_sequences() -> None:
    out = io.StringIO()
    with open_screen(out, lambda: 0.0) as show:
        show(View(title="T", clock="0 s", rows=(row(failed=3),)))
    assert out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_a_row_joins_what_the_ledger_and_the_status_say() -> None:
    ledger = Ledger()
    ledger.post("planning", "ollama", 0.0).end("done", 0.5)
    ledger.post("planning", "ollama", 0.0)
    ledger.post("coding", "cloud", 0.0).end("failed", 1.0, error="Stalled")
    status = {"providers": [{"name": "ollama", "state": "ready", "pid": 7, "deaths": 1}]}
    planning, coding = rows({"planning": "ollama", "coding": "cloud"}, {"ollama": "slow"}, ledger.entries, status)
    assert (planning.behaviour, planning.worker, planning.pid, planning.deaths) == ("slow", "ready", 7, 1)
    assert (planning.open, planning.done, planning.failed) == (1, 1, 0)
    assert (coding.worker, coding.pid, coding.open, coding.failed, coding.latency) == ("stopped", None, 0, 1, None)


@pytest.mark.parametrize(("began_at", "said"), [(10.0, ("  2.5 s  c: died",)), (13.0, ())])
def test_what_happened_before_the_run_is_no_news(began_at: float, said: tuple[str, ...]) -> None:
    assert notes([Incident(at=12.5, provider="c", what="died")], began_at) == said

"""bench/workload.py: the same file and seed give the same arrivals, and a slip in the file is an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.workload import FOLDER, Workload, build_turn, read_workload

TEXT = """
seed = 3
[providers.local]
profile = { first_token_s = 0.5 }
settings = { max_concurrency = 4 }
[routes]
planning = "local"
[loads.planning]
kind = "planning"
per_second = 20
start_s = 1.0
prompt_chars = [200, 800]
[loads.wave]
kind = "coding"
count = 50
within_s = 2.0
answer_tokens = [3, 7]
sessions = 5
[loads.burst]
kind = "coding"
count = 9
provider = "local"
stream = false
"""


def written(folder: Path, text: str = TEXT) -> Path:
    path = folder / "w.toml"
    path.write_text(text)
    return path


@pytest.fixture
def workload(tmp_path: Path) -> Workload:
    return read_workload(written(tmp_path))


def test_one_file_and_seed_give_the_same_arrivals_in_order(workload: Workload) -> None:
    first = workload.arrivals(["planning", "wave", "burst"], 5)
    assert first == workload.arrivals(["burst", "wave", "planning"], 5)
    assert [arrival.at_s for arrival in first] == sorted(arrival.at_s for arrival in first)
    assert first != workload.arrivals(["planning", "wave", "burst"], 5, seed=1)


def test_no_load_moves_another_ones_arrivals(workload: Workload) -> None:
    alone = workload.arrivals(["planning"], 5)
    assert [arrival for arrival in workload.arrivals(["planning", "wave"], 5) if arrival.name == "planning"] == alone


def test_a_rate_puts_one_turn_at_a_random_place_in_each_of_its_intervals(workload: Workload) -> None:
    times = [arrival.at_s for arrival in workload.arrivals(["planning"], 5)]
    assert [int((at_s - 1.0) * 20) for at_s in times] == list(range(80))
    assert len({round((at_s * 20) % 1, 6) for at_s in times}) > 70


def test_a_count_is_spread_over_its_time_or_comes_at_one_moment(workload: Workload) -> None:
    wave = workload.arrivals(["wave"], 5)
    assert len(wave) == 50
    assert all(number * 0.04 <= arrival.at_s <= (number + 1) * 0.04 for number, arrival in enumerate(wave))
    assert len(workload.arrivals(["wave"], 1)) == 25
    assert [arrival.at_s for arrival in workload.arrivals(["burst"], 5)] == [0.0] * 9


def test_a_turn_has_the_size_session_and_target_of_its_arrival(workload: Workload) -> None:
    for arrival in workload.arrivals(["planning", "wave", "burst"], 5):
        turn = build_turn(arrival)
        assert turn.kind == arrival.load.kind
        assert len(turn.messages[-1].text) == arrival.prompt_chars
        assert (turn.provider, turn.stream) == (("local", False) if arrival.name == "burst" else ("", True))
        assert turn.max_output_tokens == (arrival.answer_tokens or None)
    assert {arrival.session for arrival in workload.arrivals(["wave"], 5)} == {f"wave-{number}" for number in range(5)}
    assert {arrival.answer_tokens for arrival in workload.arrivals(["wave"], 5)} == {3, 4, 5, 6, 7}


@pytest.mark.parametrize(
    ("slip", "named"),
    [
        (TEXT.replace("per_second", "per_secnd"), "per_secnd"),
        (TEXT.replace("max_concurrency = 4 }", "max_concurrency = 4 }\nprofil = {}"), "profil"),
        (TEXT.replace("count = 9", ""), r"loads\.burst.*either per_second or count"),
        (TEXT.replace('provider = "local"', 'provider = "locl"'), r"'locl'"),
        (TEXT.replace('planning = "local"', 'planning = "locl"'), r"planning names the provider 'locl'"),
    ],
)
def test_a_slip_in_the_file_is_named(tmp_path: Path, slip: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        read_workload(written(tmp_path, slip))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_every_workload_of_the_project_can_be_read_and_has_turns(path: Path) -> None:
    workload = read_workload(path.stem)
    for name in workload.loads:
        assert workload.arrivals([name], 60)

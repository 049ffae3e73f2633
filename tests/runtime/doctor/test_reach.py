"""Whether a provider is reached, and what it means for the turns that go there."""

from __future__ import annotations

import pytest

from loopforge.runtime.doctor.dial import NoContact, Progress
from loopforge.runtime.doctor.reach import reach, timed_out
from tests.fakes.dial import FakeDial, answer
from tests.runtime.doctor.asking import CLOUD, target, told

REFUSED = NoContact("connection", "api.acme.test:443 refuses the connection", "check base_url and the network")


@pytest.mark.parametrize("status", [200, 301, 401, 404, 405, 500])
async def test_any_answer_shows_that_the_way_is_free(status: int) -> None:
    dial = FakeDial({CLOUD: answer(status)})
    reached = await reach(target(), CLOUD, dial, Progress())
    assert told(list(reached.findings)) == [("ok", "api.acme.test answers in 20 ms")]
    assert dial.asked == [("HEAD", CLOUD)]  # no turn: nothing that could be billed


@pytest.mark.parametrize("status", [502, 503, 529])
async def test_a_gateway_whose_servers_are_away_is_a_warning(status: int) -> None:
    reached = await reach(target(), CLOUD, FakeDial({CLOUD: answer(status)}), Progress())
    assert [(found.status, found.subject) for found in reached.findings] == [("warn", "acme")]


@pytest.mark.parametrize(("first", "status"), [(True, "error"), (False, "warn")])
async def test_where_turns_begin_it_is_an_error_not_to_be_reached(first: bool, status: str) -> None:
    reached = await reach(target(first=first), CLOUD, FakeDial({CLOUD: REFUSED}), Progress())
    (found,) = reached.findings
    assert (found.status, found.what) == (status, REFUSED.what)
    assert found.next_step == "check base_url of [providers.acme] and the network"
    assert reached.contact is None


@pytest.mark.parametrize(
    ("stage", "step"),
    [("name look-up", "DNS"), ("connection", "firewall"), ("TLS", "proxy"), ("answer", "--timeout-ms")],
)
def test_a_time_out_names_the_step_that_did_not_end(stage: str, step: str) -> None:
    found = timed_out(target(), Progress(stage=stage, place="h:443"), 0.3)  # type: ignore[arg-type]  # one of them
    assert found.what == f"h:443: no end of the {stage} within 0.3 s"
    assert step in found.next_step


async def test_the_servers_clock_is_read_where_it_is_not_our_own() -> None:
    date = "Sun, 09 Sep 2001 01:46:30 GMT"  # ten seconds before the fake's time
    signing = target(kind="bedrock")
    reached = await reach(signing, CLOUD, FakeDial({CLOUD: answer(date=date)}), Progress())
    assert reached.reading is not None
    assert (round(reached.reading.ahead_s), reached.reading.signs) == (10, True)
    near = "http://127.0.0.1:8000/v1"
    reached = await reach(target(base_url=near), near, FakeDial({near: answer(date=date)}), Progress())
    assert reached.reading is None

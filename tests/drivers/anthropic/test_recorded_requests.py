"""What the driver writes for the turn behind each recorded request is what a client sent, and the vendor took."""

from __future__ import annotations

import json

import pytest

from loopforge.drivers.errors import TurnRefused
from tests.drivers.anthropic.asking import KIND, driver_for
from tests.drivers.anthropic.recorded_turns import NotNeutralError, same_meaning, turn_of
from tests.drivers.exchanges import Exchange, recordings
from tests.recorded import MISSING

TAKEN = [exchange for exchange in recordings(KIND) if exchange.request and exchange.status == 200]


def _named(reason: str, *ids: str) -> dict[str, str]:
    return {f"a-anthropic-{number}": reason for number in ids}


NOT_NEUTRAL = {
    **_named(
        "a file that was uploaded before",
        "57ae9eece5ee", "88cb0fccd6a9", "fcedc02a3279", "07c788c0b806", "c56c5891c078", "2042882e2825", "b519ad98ead8",
        "6d9398a8ba66", "0fe18e78a623", "c6b041e11e5c", "642cb0574208",
    ),
    **_named("tools that come and go within the conversation", "aed3146e613a", "36d2013b6478"),
    **_named("a tool result that is a list of tools", "331fc5f9ad31", "9ae90d4cea5c"),
    **_named("a document whose citations are asked for", "4cfd2dc6c2f0"),
}  # fmt: skip
REFUSED = _named("its result answers no call: ids were replaced by hand", "28f821c0a4dd", "ba000196ee7d")

each_request = pytest.mark.parametrize(
    "exchange",
    TAKEN or [pytest.param(None, marks=pytest.mark.skip(reason=MISSING))],
    ids=lambda exchange: exchange.id if exchange else "none",
)


@each_request
def test_the_request_for_a_recorded_turn_is_the_recorded_one(exchange: Exchange) -> None:
    if exchange.id in NOT_NEUTRAL:
        with pytest.raises(NotNeutralError):
            turn_of(exchange)
        return
    turn, driver = turn_of(exchange), driver_for(exchange.vendor)
    if exchange.id in REFUSED:
        with pytest.raises(TurnRefused):
            driver.build_request(turn)
        return
    assert exchange.request is not None
    written = same_meaning(json.loads(driver.build_request(turn).body))
    recorded = same_meaning(dict(exchange.request))
    assert written == recorded
    assert driver.notices(turn) == ()


@pytest.mark.skipif(not TAKEN, reason=MISSING)
def test_every_exception_is_a_recorded_request() -> None:
    ids = {exchange.id for exchange in TAKEN}
    assert len(ids) == 251
    assert ids >= {*NOT_NEUTRAL, *REFUSED}

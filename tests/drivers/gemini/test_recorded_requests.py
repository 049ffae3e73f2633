"""What the driver writes for the turn behind each recorded request is what a client sent, and the service took."""

from __future__ import annotations

import json

import pytest

from loopforge.drivers.errors import TurnRefused
from tests.drivers.exchanges import Exchange, recordings
from tests.drivers.gemini.asking import KIND, driver_for
from tests.drivers.gemini.recorded_turns import NotNeutralError, same_meaning, turn_of
from tests.recorded import MISSING

TAKEN = [exchange for exchange in recordings(KIND) if exchange.request and exchange.status == 200]


def _named(reason: str, *ids: str) -> dict[str, str]:
    return {f"g-google-{number}": reason for number in ids}


NOT_NEUTRAL = {
    **_named("a sound by its URL", "vertex-b6574d52c0dc", "vertex-3cc7fb8408dc"),
    **_named("a video", "613fc075fcbe", "27b218959aec", "9c674d07bc0f", "59499567c6c2"),
    **_named(
        "a text as data: the driver sends it as text", "54f5cc21ab5b", "10744de5cea1", "9ad67287a16c", "9c508198529f"
    ),
    **_named("a response under another name than its call's", "3e7587262d05"),
}
REFUSED = _named("its only message is empty", "4bc960f4dcb0")
DIFFERENT = {
    **_named("an empty first message: the driver puts words there", "96cc9aacaa94", "44c7184c1cb5"),
    **_named("a document by URL inside a response: the driver puts it behind", "vertex-4299aff1ee1f"),
}

each_request = pytest.mark.parametrize(
    "exchange",
    TAKEN or [pytest.param(None, marks=pytest.mark.skip(reason=MISSING))],
    ids=lambda exchange: exchange.id if exchange else "none",
)


@each_request
def test_the_request_for_a_recorded_turn_is_the_recorded_one(exchange: Exchange) -> None:
    assert exchange.request is not None
    if exchange.id in NOT_NEUTRAL:
        with pytest.raises(NotNeutralError):
            turn_of(exchange.request)
        return
    turn, driver = turn_of(exchange.request), driver_for()
    if exchange.id in REFUSED:
        with pytest.raises(TurnRefused):
            driver.build_request(turn)
        return
    written = same_meaning(json.loads(driver.build_request(turn).body))
    recorded = same_meaning(exchange.request)
    assert (written == recorded) == (exchange.id not in DIFFERENT), (written, recorded)


@pytest.mark.skipif(not TAKEN, reason=MISSING)
def test_every_exception_is_a_recorded_request() -> None:
    assert {exchange.id for exchange in TAKEN} >= NOT_NEUTRAL.keys() | REFUSED.keys() | DIFFERENT.keys()

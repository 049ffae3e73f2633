"""Where a request goes, in what headers, and with what a person put into the settings."""

from __future__ import annotations

import pytest

from loopforge.drivers.anthropic import open_driver
from loopforge.drivers.errors import TurnRefused
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import (
    Tool,
    Turn,
    assistant,
    system,
    tool_result,
    user,
)
from tests.drivers.anthropic.asking import CALL, HI, LOOK, ask, body_of, driver_for


def test_raw_fields_of_a_person_win() -> None:
    turn = ask(HI, thinking="high", provider_options={"anthropic": {"thinking": {"display": "summarized"}, "top_k": 5}})
    body = body_of(turn, extra_body={"top_k": 3, "metadata": {"user_id": "u"}, "max_tokens": 7})
    assert body["thinking"] == {"type": "adaptive", "display": "summarized"}
    assert (body["top_k"], body["metadata"], body["max_tokens"]) == (5, {"user_id": "u"}, 7)
    assert body_of(ask(HI, provider_options={"gemini": {"top_k": 5}})).get("top_k") is None
    without = ask(HI, thinking="high", provider_options={"anthropic": {"thinking": None, "output_config": None}})
    assert body_of(without).keys() == {"model", "max_tokens", "messages", "stream"}


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("", "https://api.anthropic.com/v1/messages"),
        ("https://api.anthropic.com", "https://api.anthropic.com/v1/messages"),
        ("https://api.anthropic.com/", "https://api.anthropic.com/v1/messages"),
        ("https://api.anthropic.com/v1", "https://api.anthropic.com/v1/messages"),
        ("https://api.minimax.io/anthropic", "https://api.minimax.io/anthropic/v1/messages"),
        ("https://a.example/x/v1/messages/?beta=true", "https://a.example/x/v1/messages?beta=true"),
        ("https://a.example/x?beta=true", "https://a.example/x/v1/messages?beta=true"),
    ],
)
def test_the_path_is_put_behind_the_base(base_url: str, url: str) -> None:
    settings = ProviderSettings(name="acme", kind="anthropic", base_url=base_url)
    assert open_driver(settings).build_request(ask(HI)).url == url


def test_headers_name_the_version_and_what_is_accepted_and_hold_no_key() -> None:
    request = driver_for(headers={"X-Trace": "1"}).build_request(ask(HI))
    assert request.headers == {
        "content-type": "application/json",
        "accept": "text/event-stream",
        "anthropic-version": "2023-06-01",
        "x-trace": "1",
    }
    assert driver_for().build_request(ask(HI, stream=False)).headers["accept"] == "application/json"


def test_an_unknown_vendor_is_treated_as_a_generic_gateway_and_named() -> None:
    driver = open_driver(ProviderSettings(name="acme", kind="anthropic", vendor="acme"))
    assert driver.profile.name == "generic"
    assert "vendor 'acme' is not known" in driver.notices(ask(HI))[0]


@pytest.mark.parametrize(
    "turn",
    [
        ask(HI, provider_options={"anthropic": {"x": float("nan")}}),
        ask(HI, tools=(Tool(name="t", parameters={"type": "object", "properties": {"x": {"a", "b"}}}),)),
        ask(HI, temperature=float("inf"), provider_options={"anthropic": {"x": {1: object()}}}),
    ],
)
def test_what_is_no_json_is_refused(turn: Turn) -> None:
    with pytest.raises(TurnRefused, match="cannot be written as JSON"):
        driver_for().build_request(turn)


def test_letters_of_all_kinds_are_sent_as_they_are() -> None:
    assert "é😀".encode() in driver_for().build_request(ask(user("é😀"))).body
    assert b"?" in driver_for().build_request(ask(user("\ud83d"))).body


def test_prefixes_are_the_same_bytes_as_a_conversation_grows() -> None:
    messages = [system("Be brief."), user("a"), assistant("b", CALL), tool_result(CALL, "c"), user("d")]
    bodies = [driver_for().build_request(ask(*messages[:end], tools=(LOOK,))).body for end in (2, 4)]
    prefix = bodies[0][: bodies[0].index(b'"role":"user","content":"a"') + 27]
    assert bodies[1].startswith(prefix)

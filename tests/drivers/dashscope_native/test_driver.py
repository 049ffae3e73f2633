"""Where a turn is sent and with which headers: two paths, by model; what the settings add."""

from __future__ import annotations

import pytest

from loopforge.drivers.dashscope_native import open_driver
from loopforge.drivers.errors import TurnRefused
from loopforge.drivers.registry import ProviderSettings, has_driver
from loopforge.drivers.turn import Audio, Image, Message, Text, ToolCall, ToolResult, assistant, user
from tests.drivers.dashscope_native.asking import BASE_URL, MODEL, ask, body_of, driver_for, notices_of, parameters_of

TEXT = "/services/aigc/text-generation/generation"
MULTIMODAL = "/services/aigc/multimodal-generation/generation"
PICTURE = Image(url="https://example.com/a.png")


def url_of(model: str = MODEL, base_url: str = BASE_URL, *content: str | Image | Audio) -> str:
    return driver_for(base_url).build_request(ask(user(*(content or ("hello",))), model=model)).url


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("qwen-plus", TEXT),
        ("qwen-plus-2025-07-28", TEXT),
        ("qwen3-max", TEXT),
        ("qwen3.6-max-preview", TEXT),
        ("qwen3.7-max", TEXT),
        ("qwen3.7-max-2026-05-20", TEXT),
        ("qwen3-coder-plus", TEXT),
        ("deepseek-v4-pro", TEXT),
        ("some-model", TEXT),
        ("qwen3-vl-plus", MULTIMODAL),
        ("qwen2.5-vl-72b-instruct", MULTIMODAL),
        ("QVQ-Max", MULTIMODAL),
        ("qwen3.5-plus", MULTIMODAL),
        ("qwen3.6-flash", MULTIMODAL),
        ("qwen3.7-plus", MULTIMODAL),
        ("qwen3.8-max", MULTIMODAL),
        ("qwen3-asr-flash", MULTIMODAL),
        ("kimi-k2.5", MULTIMODAL),
        ("kimi/kimi-k2.6", MULTIMODAL),
        ("qwen3.5-omni-plus", MULTIMODAL),
    ],
)
def test_a_model_is_asked_on_its_own_path(model: str, path: str) -> None:
    assert url_of(model) == BASE_URL + path


def test_a_model_that_is_not_known_is_asked_where_media_are_taken_when_the_turn_holds_some() -> None:
    assert url_of("some-model", BASE_URL, "look", PICTURE) == BASE_URL + MULTIMODAL
    call = ToolCall(id="1", name="shot")
    result = Message(role="tool", content=(ToolResult(call_id="1", content=(PICTURE,)),))
    turn = ask(user("shoot"), assistant(call), result, model="some-model")
    assert driver_for().build_request(turn).url == BASE_URL + MULTIMODAL
    drawn = ask(user("draw"), assistant(PICTURE), user("again"), model="some-model")
    assert driver_for().build_request(drawn).url == BASE_URL + TEXT


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("https://dashscope.aliyuncs.com/api/v1/", "https://dashscope.aliyuncs.com/api/v1" + TEXT),
        ("https://dashscope.aliyuncs.com", "https://dashscope.aliyuncs.com/api/v1" + TEXT),
        ("http://127.0.0.1:8000/acme/v1", "http://127.0.0.1:8000/acme/v1" + TEXT),
        ("https://ws.eu-central-1.maas.aliyuncs.com/api/v1?a=b", f"https://ws.eu-central-1.maas.aliyuncs.com/api/v1{TEXT}?a=b"),
    ],
)  # fmt: skip
def test_the_path_is_put_behind_the_base_url(base_url: str, url: str) -> None:
    assert url_of(MODEL, base_url) == url


def test_a_base_url_that_names_a_path_decides_on_it_and_on_the_form_of_content() -> None:
    base_url = f"{BASE_URL}{MULTIMODAL}/"
    assert url_of(MODEL, base_url) == BASE_URL + MULTIMODAL
    assert body_of(ask(user("hi")), base_url=base_url)["input"]["messages"][0]["content"] == [{"text": "hi"}]
    assert url_of("qwen3.5-plus", BASE_URL + TEXT) == BASE_URL + TEXT


@pytest.mark.parametrize(
    ("root", "kind"), [("/compatible-mode/v1", "openai_compatible"), ("/apps/anthropic", "anthropic")]
)
def test_the_base_url_of_another_wire_is_refused_with_the_kind_that_speaks_it(root: str, kind: str) -> None:
    turn = ask(user("hello"))
    with pytest.raises(TurnRefused) as caught:
        driver_for(f"https://dashscope.aliyuncs.com{root}").build_request(turn)
    assert kind in caught.value.action
    assert notices_of(turn, base_url=f"https://dashscope.aliyuncs.com{root}") == ""


def test_a_stream_is_asked_for_by_a_header_and_never_by_a_field() -> None:
    streamed = driver_for().build_request(ask(user("hello")))
    assert (streamed.headers["accept"], streamed.headers["x-dashscope-sse"]) == ("text/event-stream", "enable")
    whole = driver_for().build_request(ask(user("hello"), stream=False))
    assert whole.headers["accept"] == "application/json"
    assert "x-dashscope-sse" not in whole.headers
    assert parameters_of(ask(user("hello"))) == {"result_format": "message", "incremental_output": True}
    assert parameters_of(ask(user("hello"), stream=False)) == {"result_format": "message"}


@pytest.mark.parametrize("model", ["qwen3.5-omni-plus", "qwq-plus", "qvq-max", "qwen3-235b-a22b-thinking-2507"])
def test_models_that_answer_in_streams_only_are_asked_for_one(model: str) -> None:
    request = driver_for().build_request(ask(user("hello"), model=model, stream=False))
    assert request.headers["x-dashscope-sse"] == "enable"


def test_open_models_are_asked_for_a_stream_while_they_think() -> None:
    for thinking, streams in ((None, True), ("high", True), ("off", False)):
        turn = ask(user("hello"), model="qwen3-8b", stream=False, thinking=thinking)
        assert ("x-dashscope-sse" in driver_for().build_request(turn).headers) == streams


def test_uploaded_files_are_looked_up_when_the_turn_holds_one() -> None:
    header = "x-dashscope-ossresourceresolve"
    turn = ask(user("look", Image(url="oss://bucket/a.png")), model="qwen3-vl-plus")
    assert driver_for().build_request(turn).headers[header] == "enable"
    assert header not in driver_for().build_request(ask(user("look", PICTURE), model="qwen3-vl-plus")).headers


def test_headers_of_the_settings_win() -> None:
    driver = driver_for(headers={"X-DashScope-WorkSpace": "ws-1", "Accept": "*/*"})
    headers = driver.build_request(ask(user("hello"))).headers
    assert (headers["x-dashscope-workspace"], headers["accept"]) == ("ws-1", "*/*")
    assert "authorization" not in headers


@pytest.mark.parametrize(("vendor", "noted"), [("", False), ("qwen", False), ("generic", False), ("glm", True)])
def test_a_vendor_of_another_wire_is_named(vendor: str, noted: bool) -> None:
    assert ("vendor 'glm'" in notices_of(ask(user("hello")), vendor=vendor)) == noted


def test_the_registry_knows_the_kind() -> None:
    assert has_driver("dashscope_native")
    assert open_driver(ProviderSettings(name="qwen", kind="dashscope_native", base_url=BASE_URL)).provider == "qwen"


def test_a_turn_that_is_no_json_is_refused() -> None:
    turn = ask(user("hello"), temperature=float("nan"))
    with pytest.raises(TurnRefused, match="JSON"):
        driver_for().build_request(turn)
    surrogate = driver_for().build_request(ask(Message(role="user", content=(Text(text="\ud83d"),))))
    assert b"?" in surrogate.body

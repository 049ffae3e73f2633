"""What a turn becomes on this wire, what of it is left out and said, and what is refused."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest

from loopforge.drivers.errors import TurnRefused
from loopforge.drivers.turn import (
    Audio,
    Document,
    Image,
    JsonSchema,
    Message,
    NamedTool,
    Opaque,
    OpaquePart,
    Part,
    Refusal,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
    assistant,
    system,
    tool_result,
    user,
)
from loopforge.drivers.zhipu_native.profiles import find_profile
from tests.drivers.zhipu_native.asking import MODEL, VISION, Json, ask, body_of, driver_for, notices_of, opaque

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
LOOK = Tool(name="look", description="See.", parameters=CITY)
POINT = Tool(name="point", parameters=CITY)
CALL = ToolCall(id="call_1", name="look", arguments='{"city": "Bern"}', parsed={"city": "Bern"})
HELLO = user("hello")
PICTURE = Image(data=b"\x89PNG", media_type="image/png")


def messages_of(*messages: Message, **members: Any) -> list[Json]:
    found: list[Json] = body_of(ask(*messages, **members))["messages"]
    return found


def refused(turn: Turn) -> str:
    with pytest.raises(TurnRefused) as caught:
        driver_for().build_request(turn)
    assert caught.value.action
    assert driver_for().notices(turn) == ()
    return str(caught.value)


# -- the request ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("https://open.bigmodel.cn/api/paas/v4", "https://open.bigmodel.cn/api/paas/v4/chat/completions"),
        ("https://api.z.ai/api/coding/paas/v4//", "https://api.z.ai/api/coding/paas/v4/chat/completions"),
        ("https://gw.test/v4/chat/completions", "https://gw.test/v4/chat/completions"),
        ("https://gw.test/v4?tenant=a", "https://gw.test/v4/chat/completions?tenant=a"),
    ],
)
def test_the_path_stands_behind_the_base_url(base_url: str, url: str) -> None:
    assert driver_for(base_url).build_request(ask(HELLO)).url == url


def test_a_plain_turn_says_nothing_that_was_not_asked_for() -> None:
    assert body_of(ask(HELLO)) == {
        "model": MODEL,
        "messages": [{"role": "user", "content": "hello"}],
        "stream": True,
    }
    assert notices_of(ask(HELLO)) == ""


@pytest.mark.parametrize(("stream", "accept"), [(True, "text/event-stream"), (False, "application/json")])
def test_headers_name_the_form_and_ask_for_english_errors(stream: bool, accept: str) -> None:
    request = driver_for(headers={"X-Own": "1"}).build_request(ask(HELLO, stream=stream))
    assert request.headers == {
        "content-type": "application/json",
        "accept": accept,
        "accept-language": "en-US,en",
        "x-own": "1",
    }


def test_the_persons_own_fields_win_and_are_this_kinds_alone() -> None:
    turn = ask(
        HELLO,
        temperature=0.5,
        provider_options={"zhipu_native": {"request_id": "r-1", "top_p": None}, "openai_compatible": {"user": "x"}},
        top_p=0.5,
    )
    body = body_of(turn, extra_body={"temperature": 0.7, "watermark_enabled": False})
    assert (body["temperature"], body["watermark_enabled"], body["request_id"]) == (0.7, False, "r-1")
    assert "top_p" not in body
    assert "user" not in body


@pytest.mark.parametrize(("vendor", "named"), [("", False), ("glm", False), ("acme", True)])
def test_an_unknown_vendor_is_named(vendor: str, named: bool) -> None:
    assert ("'acme' is not known" in notices_of(ask(HELLO), vendor=vendor)) == named


def test_a_turn_that_cannot_be_json_is_refused() -> None:
    assert "cannot be written as JSON" in refused(ask(HELLO, provider_options={"zhipu_native": {"meta": {1, 2}}}))
    assert "malformed" in refused(ask(HELLO, output=JsonSchema(schema={"type": {1, 2}})))


# -- messages ---------------------------------------------------------------------------------------------------------


def test_system_messages_stand_in_front_as_one() -> None:
    turn = ask(system("a"), system("b"), HELLO)
    assert body_of(turn)["messages"][0] == {"role": "system", "content": "a\n\nb"}
    assert notices_of(turn) == ""
    later = ask(HELLO, system("b"), user("c"))
    assert [message["role"] for message in body_of(later)["messages"]] == ["system", "user", "user"]
    assert "later ones were moved" in notices_of(later)


@pytest.mark.parametrize("messages", [(), (system("a"),), (system("a"), assistant("b"))])
def test_a_turn_that_asks_nothing_is_refused(messages: tuple[Message, ...]) -> None:
    refused(ask(*messages))


def test_calls_and_results_are_written_as_the_wire_has_them() -> None:
    asked = assistant("let me see", CALL)
    result = tool_result(CALL, "sunny")
    assert messages_of(HELLO, asked, result)[1:] == [
        {
            "role": "assistant",
            "content": "let me see",
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"city": "Bern"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    assert messages_of(HELLO, assistant(CALL), result)[1]["content"] == ""


@pytest.mark.parametrize(
    ("text", "is_error", "sent"),
    [("no", True, "Error: no"), ("error 5", True, "error 5"), ("a", False, "a"), ("", False, "")],
)
def test_a_result_that_is_an_error_says_so(text: str, is_error: bool, sent: str) -> None:
    assert messages_of(HELLO, assistant(CALL), tool_result(CALL, text, is_error=is_error))[2]["content"] == sent


@pytest.mark.parametrize("call_id", ["call_-7807251775253113230", "toolu_01", "gemini/1 x", "é", "", "x" * 200])
def test_ids_are_mapped_to_what_the_wire_takes_on_both_sides(call_id: str) -> None:
    call = replace(CALL, id=call_id)
    _, asked, answered = messages_of(HELLO, assistant(call), tool_result(call, "a"))
    sent = asked["tool_calls"][0]["id"]
    assert answered["tool_call_id"] == sent
    assert 1 <= len(sent) <= 64
    assert (sent == call_id) == (call_id in {"call_-7807251775253113230", "toolu_01"})


@pytest.mark.parametrize(
    ("call", "sent"),
    [
        (replace(CALL, arguments="", parsed=None), "{}"),
        (replace(CALL, arguments='{"a": ', parsed=None, invalid=True), '{"invalid_json":"{\\"a\\": "}'),
        (replace(CALL, arguments="free", parsed=None, custom=True), '{"input":"free"}'),
    ],
)
def test_arguments_are_always_the_json_of_an_object(call: ToolCall, sent: str) -> None:
    assert (
        messages_of(HELLO, assistant(call), tool_result(call, "a"))[1]["tool_calls"][0]["function"]["arguments"] == sent
    )


def test_calls_without_results_and_results_without_calls_are_refused() -> None:
    assert "has no result" in refused(ask(HELLO, assistant(CALL)))
    assert "answers no call" in refused(ask(HELLO, tool_result(CALL, "a")))


def test_a_refusal_goes_back_as_text_and_an_empty_answer_not_at_all() -> None:
    assert messages_of(HELLO, assistant(Refusal(text="no")), user("why"))[1] == {"role": "assistant", "content": "no"}
    assert len(messages_of(HELLO, assistant(""), user("why"))) == 2


# -- media ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "sent"),
    [
        (PICTURE, {"type": "image_url", "image_url": {"url": base64.b64encode(b"\x89PNG").decode()}}),
        (
            Image(url="https://example.com/a.png"),
            {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        ),
        (
            Document(url="https://example.com/a.pdf", media_type="application/pdf"),
            {"type": "file_url", "file_url": {"url": "https://example.com/a.pdf"}},
        ),
    ],
)
def test_media_of_a_vision_model_are_parts(part: Part, sent: Json) -> None:
    (message,) = messages_of(user("what is this?", part), model=VISION)
    assert message["content"] == [{"type": "text", "text": "what is this?"}, sent]


@pytest.mark.parametrize(
    ("part", "sent"),
    [
        (Document(data=b"hello", media_type="text/plain", name="a.txt"), "[a.txt]\nhello"),
        (Document(data=b"{}", media_type="application/json"), "{}"),
        (Audio(data=b"x", media_type="audio/wav", transcript="said"), "said"),
    ],
)
def test_what_is_text_underneath_is_sent_as_text(part: Part, sent: str) -> None:
    (message,) = messages_of(user("a ", part))
    assert message["content"] == f"a {sent}"


@pytest.mark.parametrize(
    ("part", "model"),
    [
        (PICTURE, MODEL),
        (Document(url="https://example.com/a.pdf", media_type="application/pdf"), MODEL),
        (Document(data=b"%PDF", media_type="application/pdf"), VISION),
        (Audio(data=b"RIFF", media_type="audio/wav"), VISION),
        (Image(), VISION),
    ],
)
def test_media_that_the_turn_is_about_are_refused_and_older_ones_left_out(part: Part, model: str) -> None:
    assert "takes no" in refused(ask(user("what?", part), model=model))
    later = ask(user("what?", part), assistant("a"), user("go on"), model=model)
    assert "left out]" in body_of(later)["messages"][0]["content"]
    assert "was left out" in notices_of(later)


def test_a_document_and_an_image_do_not_go_together() -> None:
    both = user(PICTURE, Document(url="https://example.com/a.pdf", media_type="application/pdf"))
    assert "beside an image" in refused(ask(both, model=VISION))
    later = ask(both, assistant("a"), user("go on"), model=VISION)
    assert [part["type"] for part in body_of(later)["messages"][0]["content"]] == ["image_url", "text"]
    assert "beside an image" in notices_of(later)


def test_an_images_detail_is_named_and_not_sent() -> None:
    turn = ask(user(replace(PICTURE, detail="low")), model=VISION)
    assert "detail" not in str(body_of(turn))
    assert "detail" in notices_of(turn)


def test_images_of_a_result_follow_the_last_result_or_are_left_out() -> None:
    result = Message(role="tool", content=(ToolResult(call_id="call_1", content=(PICTURE,)),))
    turn = ask(HELLO, assistant(CALL), result, user("well?"), model=VISION)
    *_, answered, shown = body_of(turn)["messages"]
    assert answered == {"role": "tool", "tool_call_id": "call_1", "content": "(in the next message)"}
    assert [part["type"] for part in shown["content"]] == ["text", "image_url", "text"]
    assert shown["content"][0]["text"] == "Result of look:"
    blind = replace(turn, model=MODEL)
    assert body_of(blind)["messages"][2]["content"] == "[image left out]"
    assert "was left out" in notices_of(blind)


@pytest.mark.parametrize("after", [(), (assistant("nice"), user("and now?"))])
def test_images_of_a_result_come_before_whatever_follows(after: tuple[Message, ...]) -> None:
    result = Message(role="tool", content=(ToolResult(call_id="call_1", content=(Text(text="see"), PICTURE)),))
    sent = messages_of(HELLO, assistant(CALL), result, *after, model=VISION)
    roles = ["user", "assistant", "tool", "user", *(message.role for message in after)]
    assert [message["role"] for message in sent] == roles
    assert sent[2]["content"] == "see"
    assert [part["type"] for part in sent[3]["content"]] == ["text", "image_url"]


def test_an_image_of_a_result_beside_a_document_asked_about_lets_the_document_go() -> None:
    result = Message(role="tool", content=(ToolResult(call_id="call_1", content=(PICTURE,)),))
    paper = user("and this?", Document(url="https://example.com/a.pdf", media_type="application/pdf"))
    turn = ask(HELLO, assistant(CALL), result, paper, model=VISION)
    assert "file_url" not in str(body_of(turn))
    assert "beside an image" in notices_of(turn)


# -- earlier reasoning ------------------------------------------------------------------------------------------------


def thought(text: str, **changes: Any) -> Thinking:
    return Thinking(text=text, opaque=opaque(**{"field": "reasoning_content", **changes}))


def test_reasoning_goes_back_inside_a_tool_loop_byte_for_byte() -> None:
    loop = (assistant(thought("\n hm "), CALL), tool_result(CALL, "a"))
    assert messages_of(HELLO, *loop)[1]["reasoning_content"] == "\n hm "
    assert "reasoning_content" not in messages_of(HELLO, *loop, assistant("b"), user("c"))[1]
    assert notices_of(ask(HELLO, *loop, assistant("b"), user("c"))) == ""


@pytest.mark.parametrize("place", ["extra_body", "provider_options"])
def test_all_reasoning_goes_back_where_the_person_wants_it_kept(place: str) -> None:
    turn = ask(HELLO, assistant(thought("hm"), "a"), user("b"))
    keep = {"thinking": {"clear_thinking": False}}
    if place == "extra_body":
        body = body_of(turn, extra_body=keep)
    else:
        body = body_of(replace(turn, provider_options={"zhipu_native": keep}, thinking="high"))
    assert body["messages"][1]["reasoning_content"] == "hm"
    assert body["thinking"]["clear_thinking"] is False


def test_what_is_said_last_about_keeping_counts() -> None:
    turn = ask(HELLO, assistant(thought("hm"), "a"), user("b"))
    clear = replace(turn, provider_options={"zhipu_native": {"thinking": {"clear_thinking": True}}})
    body = body_of(clear, extra_body={"thinking": {"clear_thinking": False}})
    assert "reasoning_content" not in body["messages"][1]


def test_reasoning_in_tags_goes_back_in_tags() -> None:
    loop = (assistant(thought("hm", field="think"), "so", CALL), tool_result(CALL, "a"))
    message = messages_of(HELLO, *loop)[1]
    assert message["content"] == "<think>hm</think>\nso"
    assert "reasoning_content" not in message


@pytest.mark.parametrize(
    "origin",
    [
        None,
        opaque(model="glm-4.6", field="reasoning_content"),
        opaque(provider="another", field="reasoning_content"),
        Opaque(provider="recorded", model=MODEL, data={"vendor": "glm", "field": "reasoning_content"}),
    ],
)
def test_reasoning_of_another_origin_is_left_out_and_named(origin: Opaque | None) -> None:
    turn = ask(HELLO, assistant(Thinking(text="secret", opaque=origin), CALL), tool_result(CALL, "a"))
    assert "secret" not in str(body_of(turn))
    assert "earlier reasoning" in notices_of(turn)


def test_opaque_data_of_another_origin_is_named_and_of_this_one_not_missed() -> None:
    theirs = Opaque(provider="another", model="m", data={"signature": "x"})
    for part in (OpaquePart(opaque=theirs), Text(text="a", opaque=theirs), replace(CALL, opaque=theirs)):
        after = [tool_result(CALL, "a")] if isinstance(part, ToolCall) else []
        assert "another provider or model" in notices_of(ask(HELLO, assistant("b", part), *after, user("c")))
    assert notices_of(ask(HELLO, assistant("b", OpaquePart(opaque=opaque(web_search=[]))), user("c"))) == ""


def test_cache_marks_are_named_and_not_sent() -> None:
    marked = Text(text="a", cache="5m")
    result = Message(role="tool", content=(ToolResult(call_id="call_1", cache="5m"),))
    for messages in (
        (Message(role="system", content=(marked,)), HELLO),
        (user(marked),),
        (HELLO, assistant(marked), user("b")),
        (HELLO, assistant(CALL), result),
    ):
        assert "cache marks" in notices_of(ask(*messages))
    assert "cache marks on tools" in notices_of(ask(HELLO, tools=(replace(LOOK, cache="5m"),)))


# -- thinking ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "thinking", "sent", "notice"),
    [
        ("glm-4.7", None, {}, ""),
        ("glm-4.7", "off", {"thinking": {"type": "disabled"}}, ""),
        ("glm-4.7", 0, {"thinking": {"type": "disabled"}}, ""),
        ("glm-4.7", "high", {"thinking": {"type": "enabled"}}, "takes no thinking effort"),
        ("glm-4.7", 4000, {"thinking": {"type": "enabled"}}, "takes no thinking effort"),
        ("glm-5.2", "off", {"thinking": {"type": "disabled"}}, ""),
        ("glm-5.2", "medium", {"thinking": {"type": "enabled"}, "reasoning_effort": "medium"}, ""),
        ("glm-5.2", 100, {"thinking": {"type": "enabled"}, "reasoning_effort": "low"}, "no thinking budget"),
        ("glm-5.3", "off", {"reasoning_effort": "low"}, "cannot stop thinking"),
        ("glm-5.3", "low", {"reasoning_effort": "low"}, ""),
        ("glm-5.3-flash", "medium", {"reasoning_effort": "high"}, "no thinking effort 'medium'"),
        ("glm-5.3", 10**6, {"reasoning_effort": "high"}, "no thinking budget"),
        ("glm-z1-air", "off", {}, "cannot be told to stop"),
        ("glm-z1-air", "low", {}, "takes no thinking effort"),
        ("glm-4-plus", "off", {}, ""),
        ("glm-4-plus", "high", {}, "does not think"),
        ("some-model", "low", {"thinking": {"type": "enabled"}}, "takes no thinking effort"),
    ],
)
def test_thinking_is_asked_for_as_the_family_takes_it(model: str, thinking: Any, sent: Json, notice: str) -> None:
    turn = ask(HELLO, model=model, thinking=thinking)
    body = body_of(turn)
    assert {name: body[name] for name in ("thinking", "reasoning_effort") if name in body} == sent
    assert notice in notices_of(turn)
    assert bool(notices_of(turn)) == bool(notice)


@pytest.mark.parametrize(
    ("model", "family", "images", "pieces"),
    [
        ("glm-5.3", "glm-5.3", True, True),
        ("GLM-5.3-FlashX", "glm-5.3", True, True),
        ("glm-5.2", "glm-5.2", False, True),
        ("glm-5.1", "glm-5", False, True),
        ("glm-5", "glm-5", False, True),
        ("glm-5-turbo", "glm-5", False, True),
        ("glm-5v-turbo", "glm-v", True, True),
        ("zhipu/glm-4.7-flashx", "glm-4.6", False, True),
        ("glm-4.6v-flash", "glm-v", True, True),
        ("glm-4.5-air", "glm-4.5", False, False),
        ("glm-4.5v", "glm-4.5v", True, False),
        ("glm-4.1v-thinking-flash", "glm-4.1v-thinking", True, False),
        ("glm-z1-airx", "glm-z1", False, False),
        ("glm-4", "glm-4", False, False),
        ("glm-4-long", "glm-4", False, False),
        ("glm-4-32b-0414-128k", "glm-4", False, False),
        ("glm-4v-plus", "glm-4v", True, False),
        ("glm-6", "unknown", True, False),
    ],
)
def test_every_model_has_its_family(model: str, family: str, images: bool, pieces: bool) -> None:
    profile = find_profile(model)
    assert (profile.family, profile.images, profile.tool_stream) == (family, images, pieces)


# -- sampling ---------------------------------------------------------------------------------------------------------


def test_sampling_has_this_wires_names() -> None:
    turn = ask(HELLO, max_output_tokens=5, temperature=0.7, top_p=0.9, stop=("x",), seed=7)
    body = body_of(turn)
    assert {name: body[name] for name in body.keys() - {"model", "messages", "stream"}} == {
        "max_tokens": 5,
        "temperature": 0.7,
        "top_p": 0.9,
        "stop": ["x"],
        "seed": 7,
    }
    assert notices_of(turn) == ""


@pytest.mark.parametrize(
    ("members", "name", "sent"),
    [
        ({"temperature": 1.9}, "temperature", 1.0),
        ({"temperature": -1}, "temperature", 0.0),
        ({"temperature": 0.123}, "temperature", 0.12),
        ({"top_p": 0.0}, "top_p", 0.01),
        ({"max_output_tokens": 10**6}, "max_tokens", 131_072),
        ({"stop": ("a", "b")}, "stop", ["a"]),
    ],
)
def test_what_is_out_of_range_is_brought_in_and_named(members: Json, name: str, sent: Any) -> None:
    turn = ask(HELLO, **members)
    assert body_of(turn)[name] == sent
    assert notices_of(turn)


@pytest.mark.parametrize(("stop", "model"), [((), MODEL), (("",), MODEL), (("a",), "glm-4v-plus")])
def test_stop_strings_that_say_nothing_or_are_not_taken_are_not_sent(stop: tuple[str, ...], model: str) -> None:
    turn = ask(HELLO, stop=stop, model=model)
    assert "stop" not in body_of(turn)
    assert bool(notices_of(turn)) == (model != MODEL)


@pytest.mark.parametrize("temperature", [float("nan"), float("inf")])
def test_numbers_that_json_lacks_are_refused_or_brought_in(temperature: float) -> None:
    turn = ask(HELLO, temperature=temperature)
    if temperature == float("inf"):
        assert body_of(turn)["temperature"] == 1.0
    else:
        refused(turn)


# -- tools ------------------------------------------------------------------------------------------------------------


def test_tools_are_functions() -> None:
    body = body_of(ask(HELLO, tools=(LOOK, Tool(name="bare", parameters={}))))
    assert body["tools"] == [
        {"type": "function", "function": {"name": "look", "description": "See.", "parameters": CITY}},
        {"type": "function", "function": {"name": "bare", "parameters": {"type": "object", "properties": {}}}},
    ]
    assert "tool_choice" not in body


@pytest.mark.parametrize(
    ("model", "stream", "asked"), [("glm-4.7", True, True), ("glm-4.7", False, False), ("glm-4.5", True, False)]
)
def test_arguments_are_asked_for_in_pieces_where_they_can_be(model: str, stream: bool, asked: bool) -> None:
    assert body_of(ask(HELLO, tools=(LOOK,), model=model, stream=stream)).get("tool_stream", False) is asked


@pytest.mark.parametrize(
    ("choice", "tools", "sent", "notice"),
    [
        ("auto", (LOOK, POINT), None, ""),
        (NamedTool(name="point"), (LOOK, POINT), "point", "does not promise"),
        ("required", (LOOK,), "look", "does not promise"),
        ("required", (LOOK, POINT), None, "may answer without one"),
    ],
)
def test_tool_choice_is_sent_as_far_as_it_is_known_to_work(
    choice: Any, tools: tuple[Tool, ...], sent: str | None, notice: str
) -> None:
    turn = ask(HELLO, tools=tools, tool_choice=choice)
    expected = sent and {"type": "function", "function": {"name": sent}}
    assert body_of(turn).get("tool_choice") == expected
    assert notice in notices_of(turn)


def test_tools_that_may_not_be_called_are_not_offered() -> None:
    turn = ask(HELLO, tools=(LOOK,), tool_choice="none")
    assert not body_of(turn).keys() & {"tools", "tool_choice", "tool_stream"}
    assert notices_of(turn) == ""


@pytest.mark.parametrize(
    "members",
    [
        {"tool_choice": "required"},
        {"tool_choice": NamedTool(name="look")},
        {"tools": (LOOK,), "tool_choice": NamedTool(name="other")},
        {"tools": (LOOK, LOOK)},
        {"tools": (Tool(name="9 lives!"),)},
        {"tools": tuple(Tool(name=f"tool_{number}") for number in range(129))},
    ],
)
def test_tools_that_cannot_be_offered_are_refused(members: Json) -> None:
    refused(ask(HELLO, **members))


@pytest.mark.parametrize(
    ("members", "notice"),
    [
        ({"tools": (replace(LOOK, strict=True),)}, "strict was not sent"),
        ({"tools": (LOOK,), "parallel_tool_calls": False}, "one tool call at a time"),
        (
            {"tools": (replace(LOOK, parameters={"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}),)},
            "$defs/a",
        ),
    ],
)
def test_what_tools_ask_for_and_do_not_get_is_named(members: Json, notice: str) -> None:
    assert notice in notices_of(ask(HELLO, **members))


def test_definitions_are_written_out() -> None:
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {"type": "string"}}}
    tool = body_of(ask(HELLO, tools=(replace(LOOK, parameters=schema),)))["tools"][0]
    assert tool["function"]["parameters"] == {"type": "object", "properties": {"a": {"type": "string"}}}


def test_the_providers_own_tools_come_beside_functions() -> None:
    search = {"type": "web_search", "web_search": {"enable": True, "search_engine": "search_std"}}
    turn = ask(HELLO, tools=(LOOK,), provider_options={"zhipu_native": {"tools": [search]}})
    assert [tool["type"] for tool in body_of(turn)["tools"]] == ["function", "web_search"]
    assert body_of(replace(turn, tools=()))["tools"] == [search]


# -- JSON answers -----------------------------------------------------------------------------------------------------


def test_a_schema_stands_in_the_prompt() -> None:
    turn = ask(system("Be kind."), HELLO, output=JsonSchema(schema=CITY, description="A city."))
    body = body_of(turn)
    assert body["response_format"] == {"type": "json_object"}
    said = body["messages"][0]["content"]
    assert said.startswith("Be kind.\n\nA city.\nAnswer with one JSON object")
    assert said.endswith('{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}')
    assert "not enforced" in notices_of(turn)


@pytest.mark.parametrize(
    ("messages", "added"),
    [
        ((HELLO,), True),
        ((user("as json please"),), False),
        ((user("as Json", PICTURE),), False),
        ((system(""), HELLO), True),
    ],
)
def test_the_word_json_is_in_the_prompt_of_a_json_answer(messages: tuple[Message, ...], added: bool) -> None:
    turn = ask(*messages, output="json", model=VISION)
    body = body_of(turn)
    assert body["response_format"] == {"type": "json_object"}
    assert ("Answer with one JSON object" in str(body["messages"][0]["content"])) == added
    assert bool(notices_of(turn)) == added

"""The conversation in the form of either path, and what of it does not go along."""

from __future__ import annotations

import base64

import pytest

from loopforge.drivers.errors import TurnRefused
from loopforge.drivers.turn import (
    Audio,
    CacheMark,
    Document,
    Image,
    Message,
    Opaque,
    OpaquePart,
    Refusal,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    assistant,
    system,
    tool_result,
    user,
)
from tests.drivers.dashscope_native.asking import (
    KIND,
    MODEL,
    VISION,
    Json,
    ask,
    driver_for,
    messages_of,
    notices_of,
    opaque,
)

PNG = b"\x89PNG\r\n"
PICTURE = Image(data=PNG, media_type="image/png")
CALL = ToolCall(id="call_1", name="look", arguments='{"at": "Rome"}', parsed={"at": "Rome"})


def data_url(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def roles(messages: list[Json]) -> list[str]:
    return [message["role"] for message in messages]


# -- the two forms ----------------------------------------------------------------------------------------------------


def test_content_is_a_string_on_the_path_for_text() -> None:
    turn = ask(system("Be brief."), user("look at ", "this"), assistant(CALL), tool_result(CALL, "sunny"))
    call = {"id": "call_1", "type": "function", "index": 0, "function": {"name": "look", "arguments": '{"at": "Rome"}'}}
    assert messages_of(turn) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "look at this"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]


def test_content_is_a_list_of_parts_with_one_key_each_on_the_other() -> None:
    turn = ask(
        system("Be brief."), user(PICTURE, "what?"), assistant("well", CALL), tool_result(CALL, "sunny"), model=VISION
    )
    messages = messages_of(turn)
    assert messages[0] == {"role": "system", "content": [{"text": "Be brief."}]}
    assert messages[1]["content"] == [{"image": data_url(PNG, "image/png")}, {"text": "what?"}]
    assert messages[2]["content"] == [{"text": "well"}]
    assert messages[3]["content"] == [{"text": "sunny"}]
    bare = ask(user("hi"), assistant(CALL), tool_result(CALL, "sunny"), model=VISION)
    assert messages_of(bare)[1]["content"] == []


def test_calls_are_numbered_and_keep_the_order_of_their_message() -> None:
    other = ToolCall(id="call_2", name="look")
    turn = ask(user("hi"), assistant(CALL, other), tool_result(other, "b"), tool_result(CALL, "a"))
    assert [call["index"] for call in messages_of(turn)[1]["tool_calls"]] == [0, 1]
    assert [message["content"] for message in messages_of(turn)[2:]] == ["b", "a"]


# -- system -----------------------------------------------------------------------------------------------------------


def test_there_is_one_system_message_and_it_comes_first() -> None:
    turn = ask(system("a"), system("b"), user("hi"), assistant("yes"), system("c"), user("go"))
    assert messages_of(turn)[0] == {"role": "system", "content": "a\n\nb\n\nc"}
    assert roles(messages_of(turn)) == ["system", "user", "assistant", "user"]
    assert "later ones were moved" in notices_of(turn)
    assert messages_of(ask(system("a"), system("b"), user("hi"), model=VISION))[0]["content"] == [
        {"text": "a"},
        {"text": "\n\nb"},
    ]


def test_what_is_no_text_is_left_out_of_a_system_message_with_a_word() -> None:
    turn = ask(Message(role="system", content=(Text(text="a"), PICTURE)), user("hi"), model=VISION)
    assert messages_of(turn)[0]["content"] == [{"text": "a"}]
    assert "not text were left out" in notices_of(turn)


def test_a_model_without_a_system_message_reads_it_before_the_first_user_message() -> None:
    turn = ask(system("To German."), user("tree"), model="qwen-mt-plus")
    assert messages_of(turn) == [{"role": "user", "content": "To German.\n\ntree"}]
    assert "takes no system message" in notices_of(turn)


# -- media ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "url"),
    [
        (PICTURE, data_url(PNG, "image/png")),
        (Image(data=b"\xff\xd8\xff"), data_url(b"\xff\xd8\xff", "image/jpeg")),
        (Image(data=b"RIFF....WEBP"), data_url(b"RIFF....WEBP", "image/webp")),
        (Image(data=b"GIF89a"), data_url(b"GIF89a", "image/gif")),
        (Image(data=PNG), data_url(PNG, "image/png")),
        (Image(url="https://example.com/a.png"), "https://example.com/a.png"),
        (Image(url="oss://bucket/a.png"), "oss://bucket/a.png"),
    ],
)
def test_images_go_as_urls_of_any_kind(image: Image, url: str) -> None:
    assert messages_of(ask(user(image), model=VISION))[0]["content"] == [{"image": url}]


def test_the_detail_of_an_image_is_named_and_not_sent() -> None:
    assert "image detail" in notices_of(ask(user(Image(data=PNG, detail="high")), model=VISION))
    assert notices_of(ask(user(Image(data=PNG, detail="auto")), model=VISION)) == ""


def test_sound_goes_to_models_that_hear_and_as_its_transcript_to_others() -> None:
    sound = Audio(data=b"RIFF", media_type="audio/wav", transcript="hello")
    heard = messages_of(ask(user(sound, "what?"), model="qwen-audio-turbo"))
    assert heard[0]["content"] == [{"audio": data_url(b"RIFF", "audio/wav")}, {"text": "what?"}]
    assert messages_of(ask(user(sound)))[0]["content"] == "hello"
    assert "transcript was sent" in notices_of(ask(user(sound)))


def test_documents_of_text_are_read_in_and_those_by_url_go_to_the_model_that_reads_them() -> None:
    text = Document(data=b"a,b", media_type="text/csv", name="a.csv")
    assert messages_of(ask(user("sum: ", text)))[0]["content"] == "sum: [a.csv]\na,b"
    urls = [Document(url=f"https://example.com/{name}.pdf") for name in "ab"]
    assert messages_of(ask(user("sum", *urls), model="qwen-doc-turbo"))[0]["content"] == [
        {"type": "text", "text": "sum"},
        {
            "type": "doc_url",
            "doc_url": ["https://example.com/a.pdf", "https://example.com/b.pdf"],
            "file_parsing_strategy": "auto",
        },
    ]


@pytest.mark.parametrize(
    ("part", "model"),
    [
        (PICTURE, MODEL),
        (PICTURE, "qwen-audio-turbo"),
        (Image(url="ftp://example.com/a"), VISION),
        (Image(url="http://["), VISION),
        (Audio(data=b"RIFF"), VISION),
        (Document(data=b"%PDF", media_type="application/pdf"), "qwen-doc-turbo"),
        (Document(url="https://example.com/a.pdf"), MODEL),
    ],
)
def test_media_that_the_turn_is_about_is_refused_and_of_the_history_left_out(
    part: Image | Audio | Document, model: str
) -> None:
    with pytest.raises(TurnRefused) as caught:
        driver_for().build_request(ask(user("what?", part), model=model))
    assert "leave it out" in caught.value.action
    later = ask(user("what?", part), assistant("that"), user("why?"), model=model)
    assert "left out]" in str(messages_of(later)[0]["content"])
    assert "was left out" in notices_of(later)


# -- tools ------------------------------------------------------------------------------------------------------------


def test_an_image_of_a_tool_follows_its_results_as_a_user_message() -> None:
    other = ToolCall(id="call_2", name="look")
    results = [
        Message(role="tool", content=(ToolResult(call_id="call_1", name="look", content=(PICTURE,)),)),
        tool_result(other, "b"),
    ]
    messages = messages_of(ask(user("hi"), assistant(CALL, other), *results, model=VISION))
    assert roles(messages) == ["user", "assistant", "tool", "tool", "user"]
    assert messages[2]["content"] == [{"text": "(in the next message)"}]
    assert messages[4]["content"] == [{"text": "Result of look:"}, {"image": data_url(PNG, "image/png")}]
    followed = messages_of(ask(user("hi"), assistant(CALL, other), *results, user("so?"), model=VISION))
    assert followed[4]["content"][-1] == {"text": "so?"}
    answered = messages_of(ask(user("hi"), assistant(CALL, other), *results, assistant("a"), user("b"), model=VISION))
    assert roles(answered)[4:] == ["user", "assistant", "user"]


def test_an_image_of_a_tool_is_left_out_where_none_is_taken() -> None:
    result = Message(role="tool", content=(ToolResult(call_id="call_1", content=(Text(text="a"), PICTURE)),))
    turn = ask(user("hi"), assistant(CALL), result)
    assert messages_of(turn)[2]["content"] == "a[image left out]"
    assert "one of a tool" in notices_of(turn)


@pytest.mark.parametrize(("text", "sent"), [("no such city", "Error: no such city"), ("error 5", "error 5")])
def test_a_failed_result_says_so(text: str, sent: str) -> None:
    turn = ask(user("hi"), assistant(CALL), tool_result(CALL, text, is_error=True))
    assert messages_of(turn)[2]["content"] == sent


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        ("", "{}"),
        ("{}", "{}"),
        ('{"a": 1}', '{"a": 1}'),
        ('{"a', '{"invalid_json":"{\\"a"}'),
        ("[1]", '{"invalid_json":"[1]"}'),
    ],
)
def test_arguments_go_as_the_text_of_an_object_whatever_they_were(arguments: str, sent: str) -> None:
    call = ToolCall(id="1", name="look", arguments=arguments, invalid=True)
    turn = ask(user("hi"), assistant(call), tool_result(call, "a"))
    assert messages_of(turn)[1]["tool_calls"][0]["function"]["arguments"] == sent


def test_calls_of_other_wires_are_renamed_as_this_one_takes_them_and_their_results_with_them() -> None:
    call = ToolCall(id="toolu/1 é", name="my tool!", opaque=Opaque(provider="x", model="y", data={"signature": "s"}))
    turn = ask(user("hi"), assistant(call), tool_result(call, "a"))
    sent, result = messages_of(turn)[1]["tool_calls"][0], messages_of(turn)[2]
    assert sent["function"]["name"] == "my_tool_"
    assert sent["id"] == result["tool_call_id"] != "toolu/1 é"
    assert len(sent["id"]) == 24
    assert "'my_tool_'" in notices_of(turn)
    assert "signatures of another" in notices_of(turn)


def test_a_custom_call_goes_as_a_function_call() -> None:
    call = ToolCall(id="1", name="sql", arguments="select 1", custom=True)
    turn = ask(user("hi"), assistant(call), tool_result(call, "1"))
    assert messages_of(turn)[1]["tool_calls"][0]["function"]["arguments"] == '{"input":"select 1"}'
    assert "custom" in notices_of(turn)


# -- what was said before ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "options", "echoed"),
    [
        (MODEL, {}, False),
        (MODEL, {"preserve_thinking": True}, True),
        ("glm-5.1", {"clear_thinking": False}, True),
        ("qwen3.8-max", {}, True),
        ("qwen3.8-max", {"preserve_thinking": False}, False),
    ],
)
def test_reasoning_goes_back_where_it_is_read(model: str, options: Json, echoed: bool) -> None:
    thought = Thinking(text="hm", opaque=opaque(model=model))
    provider_options = {KIND: {"parameters": options}}
    turn = ask(user("hi"), assistant(thought, "yes"), user("go"), model=model, provider_options=provider_options)
    assert (messages_of(turn)[1].get("reasoning_content") == "hm") == echoed
    assert notices_of(turn) == ""
    assert ("reasoning_content" in messages_of(turn, extra_body={"parameters": options})[1]) == echoed


@pytest.mark.parametrize(
    "origin",
    [
        None,
        opaque(model="another"),
        opaque(provider="another"),
        Opaque(provider="recorded", model=MODEL, data={"field": "x"}),
    ],
)
def test_reasoning_of_another_origin_is_dropped_with_a_word(origin: Opaque | None) -> None:
    options = {KIND: {"parameters": {"preserve_thinking": True}}}
    thought = Thinking(text="hm", opaque=origin)
    turn = ask(user("hi"), assistant(thought, "yes"), user("go"), provider_options=options)
    assert "hm" not in str(messages_of(turn))
    assert "earlier reasoning" in notices_of(turn)


def test_what_the_providers_own_tools_did_is_not_sent_and_named_when_it_is_anothers() -> None:
    mine = OpaquePart(opaque=opaque(search_info={"search_results": [1]}))
    other = OpaquePart(opaque=opaque(model="another"))
    assert notices_of(ask(user("hi"), assistant("yes", mine), user("go"))) == ""
    assert "opaque parts" in notices_of(ask(user("hi"), assistant("yes", other), user("go")))


def test_an_assistant_message_with_nothing_to_say_is_not_sent() -> None:
    turn = ask(user("hi"), assistant(Thinking(text="hm", opaque=opaque())), user("go"))
    assert roles(messages_of(turn)) == ["user", "user"]


def test_a_refusal_goes_as_text_and_a_picture_that_was_drawn_is_named() -> None:
    turn = ask(user("hi"), assistant(Refusal(text="No."), PICTURE), user("go"))
    assert messages_of(turn)[1]["content"] == "No."
    assert "image part of an assistant message" in notices_of(turn)


def test_an_assistant_message_at_the_end_is_a_beginning_to_go_on_from() -> None:
    assert messages_of(ask(user("hi"), assistant("Once")))[-1] == {
        "role": "assistant",
        "content": "Once",
        "partial": True,
    }
    assert "partial" not in messages_of(ask(user("hi"), assistant("Once"), user("go")))[1]


@pytest.mark.parametrize("messages", [(), (system("a"),), (user(""),), (assistant("a"),), (user(""), assistant("a"))])
def test_a_turn_without_a_word_of_the_user_is_refused(messages: tuple[Message, ...]) -> None:
    with pytest.raises(TurnRefused):
        driver_for().build_request(ask(*messages))


def test_a_call_without_a_result_is_refused() -> None:
    with pytest.raises(TurnRefused, match="no result"):
        driver_for().build_request(ask(user("hi"), assistant(CALL), user("go")))


# -- cache marks ------------------------------------------------------------------------------------------------------


def test_cache_marks_go_on_parts_where_the_model_takes_them() -> None:
    turn = ask(
        Message(role="system", content=(Text(text="rules", cache="5m"),)),
        Message(role="user", content=(Text(text="a", cache="1h"), Image(data=PNG, cache="5m"))),
        model=VISION,
    )
    mark = {"cache_control": {"type": "ephemeral"}}
    first, second = messages_of(turn)
    assert first["content"] == [{"text": "rules", **mark}]
    assert second["content"] == [{"text": "a", **mark}, {"image": data_url(PNG, "image/png"), **mark}]
    assert notices_of(turn) == "cache marks last 5 minutes on this wire"


def test_no_more_than_four_marks_are_sent() -> None:
    turn = ask(Message(role="user", content=tuple(Text(text=str(n), cache="5m") for n in range(6))), model=VISION)
    assert sum("cache_control" in part for part in messages_of(turn)[0]["content"]) == 4
    assert "4 cache marks" in notices_of(turn)


@pytest.mark.parametrize(("model", "cache"), [(MODEL, "5m"), ("qwen-vl-max", "1h")])
def test_cache_marks_are_named_where_none_are_taken(model: str, cache: CacheMark) -> None:
    turn = ask(Message(role="user", content=(Text(text="a", cache=cache),)), model=model)
    assert "cache_control" not in str(messages_of(turn))
    assert "cache marks were not sent" in notices_of(turn)

"""The conversation on the wire: order, parts, tool results, and earlier reasoning on its way back."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from loopforge.drivers.errors import TurnRefused
from loopforge.drivers.turn import (
    Audio,
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
    Turn,
    assistant,
    system,
    tool_result,
    user,
)
from tests.drivers.exchanges import PROVIDER
from tests.drivers.openai_compatible.bodies import call, chunk, opaque, read_body, sse, text
from tests.drivers.openai_compatible.recorded import driver_for
from tests.drivers.openai_compatible.request_rules import problems

MODEL = "recorded-model"
CALL = ToolCall(id="call_1", name="look", arguments='{"at": 1}', parsed={"at": 1})
PNG = Image(data=b"\x89PNG", media_type="image/png")
PDF = Document(data=b"%PDF", media_type="application/pdf", name="a.pdf")


def conversation(*messages: Message, model: str = MODEL, **members: Any) -> Turn:
    return replace(Turn(kind="coding", messages=messages, provider=PROVIDER, model=model), **members)


def wire(vendor: str, *messages: Message, model: str = MODEL, **members: Any) -> list[dict[str, Any]]:
    body = json.loads(driver_for(vendor).build_request(conversation(*messages, model=model, **members)).body)
    assert problems(body, vendor) == []
    found: list[dict[str, Any]] = body["messages"]
    return found


def notices(vendor: str, *messages: Message, model: str = MODEL) -> str:
    return "\n".join(driver_for(vendor).notices(conversation(*messages, model=model)))


# -- roles and order --------------------------------------------------------------------------------------------------


def test_system_messages_are_one_at_the_start() -> None:
    messages = (system("Be kind."), system("Be brief."), user("Hi"))
    for vendor in ("ollama", "openai", "mistral"):
        expected = [{"role": "system", "content": "Be kind.\n\nBe brief."}, {"role": "user", "content": "Hi"}]
        assert wire(vendor, *messages) == expected
        assert notices(vendor, *messages) == ""


def test_a_later_system_message_stays_where_the_vendor_takes_it_and_else_moves() -> None:
    messages = (user("Hi"), assistant("Hello"), system("Be brief."), user("Why?"))
    assert [message["role"] for message in wire("openai", *messages)] == ["user", "assistant", "system", "user"]
    assert wire("ollama", *messages)[0] == {"role": "system", "content": "Be brief."}
    assert "were moved there" in notices("ollama", *messages)


def test_openais_reasoning_models_call_it_developer_and_one_takes_neither() -> None:
    messages = (system("Be kind."), user("Hi"))
    assert wire("openai", *messages, model="gpt-5.1")[0]["role"] == "developer"
    assert wire("openai", *messages, model="gpt-4o")[0]["role"] == "system"
    assert wire("openai", *messages, model="o1-mini")[0] == {"role": "user", "content": "Be kind."}
    assert "no system message" in notices("openai", *messages, model="o1-mini")


def test_a_tool_loop_on_the_wire() -> None:
    second = ToolCall(id="call_2", name="point", arguments="")
    messages = (
        user("Look"),
        assistant("I look.", CALL, second),
        tool_result(CALL, "a tree"),
        tool_result(second, "no finger", is_error=True),
        assistant(CALL),
        tool_result(CALL, ""),
    )
    looked = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
    assert wire("openai", *messages) == [
        {"role": "user", "content": "Look"},
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [
                looked,
                {"id": "call_2", "type": "function", "function": {"name": "point", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "a tree"},
        {"role": "tool", "tool_call_id": "call_2", "content": "Error: no finger"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": ""},
    ]
    assert wire("vllm", *messages)[4]["content"] == ""
    assert wire("mistral", *messages)[2]["name"] == "look"
    assert notices("openai", *messages) == ""


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ((), "no messages"),
        ((assistant(""), assistant(Thinking(text="hm"))), "all empty"),
        ((user("a"), assistant(CALL)), "has no result"),
        ((user("a"), assistant(CALL), user("b")), "has no result"),
        ((user("a"), assistant(CALL), assistant("b"), tool_result(CALL, "x")), "has no result"),
        ((user("a"), tool_result(CALL, "x")), "answers no call"),
        ((user("a"), assistant(CALL), tool_result(CALL, "x"), tool_result(CALL, "y")), "answers no call"),
        ((user("a"), assistant(CALL), user("b"), tool_result(CALL, "x")), "has no result"),
        ((user("a"), assistant(CALL, CALL), tool_result(CALL, "x")), "two tool calls"),
    ],
)
def test_a_conversation_that_no_vendor_takes_is_refused(messages: tuple[Message, ...], says: str) -> None:
    with pytest.raises(TurnRefused, match=says):
        driver_for("generic").build_request(conversation(*messages))


def test_results_of_one_message_may_stand_together_and_before_the_persons_words() -> None:
    second = replace(CALL, id="call_2")
    results = tuple(ToolResult(call_id=call_id, content=(Text(text=call_id),)) for call_id in ("call_2", "call_1"))
    together = Message(role="user", content=(*results, Text(text="and?")))
    roles = [
        (message["role"], message["content"])
        for message in wire("openai", user("a"), assistant(CALL, second), together)
    ]
    assert roles[2:] == [("tool", "call_2"), ("tool", "call_1"), ("user", "and?")]


def test_mistral_gets_an_assistant_message_between_a_result_and_the_person() -> None:
    messages = (user("a"), assistant(CALL), tool_result(CALL, "x"), user("b"))
    assert [message["role"] for message in wire("mistral", *messages)] == [
        "user", "assistant", "tool", "assistant", "user",
    ]  # fmt: skip
    assert "was put between" in notices("mistral", *messages)
    assert notices("openai", *messages) == ""


@pytest.mark.parametrize("call_id", ["call_1", "toolu_01AbC", "x" * 200, "", "ä", "a\nb", "abcdefgh_", "\ud83d"])
def test_foreign_call_ids_are_mapped_and_stay_together(call_id: str) -> None:
    foreign = replace(CALL, id=call_id)
    for vendor in ("mistral", "openai", "generic"):
        sent = wire(vendor, user("a"), assistant(foreign), tool_result(foreign, "x"))
        assert sent[1]["tool_calls"][0]["id"] == sent[2]["tool_call_id"]
    own = replace(CALL, id="aBc123XyZ")
    assert wire("mistral", user("a"), assistant(own), tool_result(own, "x"))[2]["tool_call_id"] == "aBc123XyZ"


def test_mapped_ids_differ_where_the_ids_do() -> None:
    calls = [replace(CALL, id=f"toolu_{number}") for number in range(50)]
    sent = wire("mistral", user("a"), assistant(*calls), *(tool_result(item, "x") for item in calls))
    assert len({item["id"] for item in sent[1]["tool_calls"]}) == 50


def test_arguments_go_back_as_an_object_whatever_the_model_had_written() -> None:
    broken = replace(CALL, arguments='{"at": ', parsed=None, invalid=True)
    sent = wire("openai", user("a"), assistant(broken), tool_result(broken, "invalid arguments", is_error=True))
    assert json.loads(sent[1]["tool_calls"][0]["function"]["arguments"]) == {"invalid_json": '{"at": '}
    assert "invalid_json" in notices("openai", user("a"), assistant(broken), tool_result(broken, "x"))
    made_by_hand = ToolCall(id="c", name="look", parsed={"at": 2})
    sent = wire("openai", user("a"), assistant(made_by_hand), tool_result(made_by_hand, "x"))
    assert sent[1]["tool_calls"][0]["function"]["arguments"] == '{"at":2}'


def test_custom_calls_go_back_as_they_came_or_as_a_function_call() -> None:
    custom = ToolCall(id="c", name="patch", arguments="*** x", custom=True)
    messages = (user("a"), assistant(custom), tool_result(custom, "done"))
    assert wire("openai", *messages)[1]["tool_calls"] == [
        {"id": "c", "type": "custom", "custom": {"name": "patch", "input": "*** x"}}
    ]
    (sent,) = wire("ollama", *messages)[1]["tool_calls"]
    assert sent["function"] == {"name": "patch", "arguments": '{"input":"*** x"}'}
    assert "knows no custom tool calls" in notices("ollama", *messages)


def test_an_assistant_message_with_nothing_to_send_is_left_out() -> None:
    empty = Message(role="assistant", content=(Thinking(text="hm"),))
    assert wire("openai", user("a"), empty, assistant(""), user("b")) == [
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b"},
    ]


def test_a_refusal_goes_back_in_its_field_or_as_text() -> None:
    messages = (user("a"), assistant(Refusal(text="No.")), user("b"))
    assert wire("openai", *messages)[1] == {"role": "assistant", "content": None, "refusal": "No."}
    assert wire("ollama", *messages)[1] == {"role": "assistant", "content": "No."}


# -- parts ------------------------------------------------------------------------------------------------------------


def test_plain_text_is_a_string_however_many_parts_it_has() -> None:
    assert wire("openai", user("a", "b"))[0]["content"] == "ab"
    assert wire("openai", user("", "x"))[0]["content"] == "x"
    assert wire("openai", Message(role="user"))[0]["content"] == ""


def test_images_files_and_sound_are_parts() -> None:
    sound = Audio(data=b"RIFF", media_type="audio/wav")
    speech = Audio(data=b"ID3", media_type="audio/mpeg")
    shown = Image(url="https://example.com/a.png", detail="low")
    assert wire("openai", user("What?", PNG, shown, PDF, sound, speech))[0]["content"] == [
        {"type": "text", "text": "What?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="}},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        {"type": "input_audio", "input_audio": {"data": "SUQz", "format": "mp3"}},
    ]


def test_documents_of_text_go_as_text_to_everyone() -> None:
    notes = Document(data="Änderung".encode(), media_type="text/markdown", name="notes.md")
    assert wire("deepseek", user("Read: ", notes))[0]["content"] == "Read: [notes.md]\nÄnderung"
    assert notices("deepseek", user(notes)) == ""


@pytest.mark.parametrize(
    ("vendor", "part", "says"),
    [
        ("deepseek", PNG, "deepseek takes no images"),
        ("ollama", PDF, "ollama takes no documents"),
        ("openai", Document(url="https://example.com/a.pdf"), "takes no document URLs"),
        ("deepseek", Audio(data=b"x", media_type="audio/wav"), "takes no audios"),
    ],
)
def test_media_that_is_asked_about_is_refused_and_older_media_named_and_left_out(
    vendor: str, part: Any, says: str
) -> None:
    with pytest.raises(TurnRefused, match=says):
        driver_for(vendor).build_request(conversation(user("What is this?", part)))
    assert driver_for(vendor).notices(conversation(user(part))) == ()
    later = (user("What is this?", part), assistant("A tree."), user("Sure?"))
    assert wire(vendor, *later)[0]["content"] == f"What is this?[{part.type} left out]"
    assert says in notices(vendor, *later)


def test_sound_with_a_transcript_is_never_lost() -> None:
    heard = Audio(data=b"x", media_type="audio/wav", transcript="Hello")
    assert wire("deepseek", user(heard))[0]["content"] == "Hello"
    assert "transcript was sent" in notices("deepseek", user(heard))


def test_an_image_in_a_tool_result_follows_as_the_persons_message() -> None:
    seen = ToolResult(call_id="call_1", name="look", content=(Text(text="here"), PNG))
    second = replace(CALL, id="call_2")
    messages = (user("a"), assistant(CALL, second), Message(role="tool", content=(seen,)), tool_result(second, "b"))
    sent = wire("openai", *messages)
    assert sent[2:] == [
        {"role": "tool", "tool_call_id": "call_1", "content": "here"},
        {"role": "tool", "tool_call_id": "call_2", "content": "b"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Result of look:"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}},
            ],
        },
    ]
    only = Message(role="tool", content=(replace(seen, content=(PNG,)),))
    assert wire("openai", user("a"), assistant(CALL), only, assistant("b"), user("c"))[2:5] == [
        {"role": "tool", "tool_call_id": "call_1", "content": "(in the next message)"},
        sent[4],
        {"role": "assistant", "content": "b"},
    ]
    assert wire("deepseek", user("a"), assistant(CALL), only)[2]["content"] == "[image left out]"
    assert "takes no images" in notices("deepseek", user("a"), assistant(CALL), only)


def test_cache_marks_go_to_vendors_that_take_them_and_are_told_elsewhere() -> None:
    messages = (
        Message(role="system", content=(Text(text="Long.", cache="5m"),)),
        user(Text(text="a", cache="1h"), "b"),
    )
    assert wire("openrouter", *messages) == [
        {
            "role": "system",
            "content": [{"type": "text", "text": "Long.", "cache_control": {"type": "ephemeral"}}],
        },
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
                {"type": "text", "text": "b"},
            ],
        },
    ]
    assert notices("openrouter", *messages) == ""
    assert wire("openai", *messages)[0]["content"] == "Long."
    assert "cache marks were not sent" in notices("openai", *messages)


def test_parts_without_a_place_are_told() -> None:
    messages = (
        Message(role="system", content=(Text(text="a"), PNG)),
        user("b", Thinking(text="c")),
        assistant("d", PNG),
        user("e"),
    )
    told = notices("openai", *messages)
    for words in ("system message that are not text", "a thinking part of a user", "an image part of an assistant"):
        assert words.replace("an image", "a image") in told


# -- earlier reasoning ------------------------------------------------------------------------------------------------


def answered(vendor: str, *chunks: dict[str, Any]) -> Message:
    """The message that the reader makes of these chunks."""
    reply = read_body(sse(*chunks), vendor).reply
    assert reply is not None
    return reply.message


LOOKS = call(index=0, id="call_1", function={"name": "look", "arguments": '{"at": 1}'})
ITEMS = [{"type": "reasoning.text", "text": "hm", "index": 0, "signature": "s"}]


@pytest.mark.parametrize(
    ("vendor", "came", "sent_in_loop", "sent_later"),
    [
        ("kimi", {"reasoning_content": "hm"}, {"reasoning_content": "hm"}, {}),
        ("glm", {"reasoning_content": "hm"}, {"reasoning_content": "hm"}, {}),
        ("llamacpp", {"reasoning_content": "hm"}, {"reasoning_content": "hm"}, {}),
        ("ollama", {"reasoning": "hm"}, {"reasoning": "hm"}, {}),
        ("generic", {"reasoning": "hm"}, {"reasoning": "hm"}, {}),
        ("deepseek", {"reasoning_content": "hm"}, {"reasoning_content": "hm"}, {"reasoning_content": "hm"}),
        ("deepseek", {}, {"reasoning_content": ""}, {"reasoning_content": ""}),
        ("openrouter", {"reasoning": "hm", "reasoning_details": ITEMS}, {"reasoning_details": ITEMS},
         {"reasoning_details": ITEMS}),
        ("openrouter", {"reasoning": "hm"}, {"reasoning": "hm"}, {"reasoning": "hm"}),
        ("minimax", {"reasoning_content": "hm", "reasoning_details": ITEMS}, {"reasoning_details": ITEMS},
         {"reasoning_details": ITEMS}),
        ("minimax", {"content": "<think>hm</think>"}, {"content": "<think>hm</think>\n\n"},
         {"content": "<think>hm</think>\n\n"}),
        ("mistral", {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]},
         {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}, {}),
        ("openai", {"reasoning_content": "hm"}, {}, {}),
        ("groq", {"reasoning": "hm"}, {}, {}),
        ("xai", {"reasoning_content": "hm"}, {}, {}),
    ],
)  # fmt: skip
def test_reasoning_goes_back_to_its_origin_as_the_vendor_wants_it(
    vendor: str, came: dict[str, Any], sent_in_loop: dict[str, Any], sent_later: dict[str, Any]
) -> None:
    message = answered(vendor, *([chunk(came)] if came else []), LOOKS, chunk({}, "tool_calls"))
    result = tool_result(CALL, "a tree")

    def reasoning_of(sent: list[dict[str, Any]]) -> dict[str, Any]:
        own = {name: value for name, value in sent[1].items() if name not in ("role", "tool_calls")}
        if own["content"] in (None, ""):
            own.pop("content")
        return own

    asked = conversation(user("a"), message, result)
    assert reasoning_of(wire(vendor, user("a"), message, result)) == sent_in_loop
    assert reasoning_of(wire(vendor, user("a"), message, result, assistant("b"), user("c"))) == sent_later
    assert driver_for(vendor).notices(asked) == ()


def test_glm_is_told_to_read_the_reasoning_that_is_sent() -> None:
    message = answered("glm", chunk({"reasoning_content": "hm"}), LOOKS, chunk({}, "tool_calls"))
    messages = (user("a"), message, tool_result(CALL, "x"))
    body = json.loads(driver_for("glm").build_request(conversation(*messages, thinking="high")).body)
    assert body["thinking"] == {"type": "enabled", "clear_thinking": False}


@pytest.mark.parametrize("vendor", ["kimi", "openrouter", "minimax", "deepseek", "mistral", "generic"])
@pytest.mark.parametrize(
    "stranger",
    [
        {"provider": "another"},
        {"model": "another"},
        {"data": {"vendor": "another", "field": "reasoning_content", "reasoning_details": ITEMS}},
        {"data": {}},
    ],
)
def test_reasoning_of_another_origin_never_leaves(vendor: str, stranger: dict[str, Any]) -> None:
    own = opaque(vendor, field="reasoning_content", reasoning_details=ITEMS, extra_content={"secret": 1})
    foreign = replace(own, **stranger)
    message = assistant(
        Thinking(text="hm secret", opaque=foreign), replace(CALL, opaque=foreign), OpaquePart(opaque=foreign)
    )
    messages = (user("a"), message, tool_result(CALL, "x"))
    sent = json.dumps(wire(vendor, *messages))
    assert "secret" not in sent
    assert "reasoning.text" not in sent
    told = notices(vendor, *messages)
    assert "earlier reasoning that is not of this provider and model was not sent" in told
    assert "opaque parts of another provider or model were not sent" in told


def test_reasoning_that_nobody_marked_is_told_and_not_sent() -> None:
    messages = (user("a"), assistant(Thinking(text="hm"), "b"), user("c"))
    assert wire("kimi", *messages)[1] == {"role": "assistant", "content": "b"}
    assert "earlier reasoning" in notices("kimi", *messages)


def test_googles_signatures_go_back_on_their_call_and_message() -> None:
    extra = {"google": {"thought_signature": "abc"}}
    fragment = {"index": 0, "id": "call_1", "extra_content": extra, "function": {"name": "look", "arguments": "{}"}}
    message = answered("generic", chunk({"tool_calls": [fragment]}), chunk({"extra_content": extra}, "tool_calls"))
    sent = wire("generic", user("a"), message, tool_result(CALL, "x"), assistant("b"), user("c"))
    assert sent[1]["tool_calls"][0]["extra_content"] == extra
    assert sent[1]["extra_content"] == extra


def test_annotations_go_back_to_the_vendor_that_reuses_them() -> None:
    notes = [{"type": "file", "file": {"hash": "x"}}]
    for vendor, expected in (("openrouter", notes), ("openai", None)):
        message = answered(vendor, text("b"), chunk({"annotations": notes}, "stop"))
        assert OpaquePart(opaque=opaque(vendor, annotations=notes)) in message.content
        assert wire(vendor, user("a"), message, user("c"))[1].get("annotations") == expected


def test_opaque_data_of_another_wire_is_nobodys_here() -> None:
    other = Opaque(provider=PROVIDER, model=MODEL, data={"signature": "x"})
    messages = (user("a"), assistant(Thinking(text="", opaque=other), "b"), user("c"))
    assert wire("generic", *messages)[1] == {"role": "assistant", "content": "b"}

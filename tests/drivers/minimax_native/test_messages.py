"""The conversation on this wire: system texts, media, calls and their results, and earlier thinking on its way back."""

from __future__ import annotations

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
    Part,
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
from tests.drivers.minimax_native.asking import (
    CALL,
    HI,
    M1,
    M2,
    M3,
    TEXT_01,
    ask,
    body_of,
    driver_for,
    frame,
    message,
    noted,
    opaque,
    read_body,
    sse,
    text,
    thought,
    written,
)

PNG = Image(data=b"\x89PNG", media_type="image/png")
URL = Image(url="https://example.com/a.png")


def sent(*messages: Message, model: str = M2) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = written(messages=messages, model=model)["messages"]
    return found


def notices(*messages: Message, model: str = M2) -> str:
    return noted(messages=messages, model=model)


# -- system and user --------------------------------------------------------------------------------------------------


def test_all_system_texts_stand_in_one_message_at_the_start() -> None:
    turn = (system("a"), system("b"), HI, assistant("Hello"), system("c"), user("And?"))
    assert sent(*turn) == [
        {"role": "system", "content": "a\n\nb\n\nc"},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "And?"},
    ]
    assert "later ones were joined to it" in notices(*turn)
    assert notices(system("a"), system("b"), HI) == ""
    assert sent(system(""), HI) == [{"role": "user", "content": "Hi"}]


def test_parts_of_a_system_message_that_are_not_text_are_named() -> None:
    assert "were left out" in notices(Message(role="system", content=(Text(text="a", cache="5m"), PNG)), HI)
    assert "cache marks" in notices(Message(role="system", content=(Text(text="a", cache="5m"),)), HI)


def test_texts_of_a_message_are_joined_with_nothing_between_them() -> None:
    assert sent(user("a", "b"))[0]["content"] == "ab"
    assert sent(Message(role="user"))[0]["content"] == ""


@pytest.mark.parametrize("model", [M3, TEXT_01])
def test_images_go_where_a_model_sees(model: str) -> None:
    content = sent(user(PNG, URL, "what?"), model=model)[0]["content"]
    assert content == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "text", "text": "what?"},
    ]
    assert "detail" in notices(user(Image(url="https://example.com/a.png", detail="high")), model=model)


PDF = Document(data=b"%PDF", media_type="application/pdf")
SOUND = Audio(data=b"RIFF", media_type="audio/wav")


@pytest.mark.parametrize("part", [PNG, URL, PDF, SOUND], ids=lambda part: part.type)
def test_media_that_is_not_taken_is_refused_when_asked_about_and_left_out_of_the_history(part: Part) -> None:
    with pytest.raises(TurnRefused, match=f"takes no {part.type}s here"):
        body_of(ask(user(part, "what?")))
    earlier = (user(part, "what?"), assistant("A cat."), user("Sure?"))
    assert sent(*earlier)[0]["content"] == f"[{part.type} left out]what?"
    assert "was left out" in notices(*earlier)
    given = (
        HI,
        assistant(CALL),
        Message(role="tool", content=(ToolResult(call_id=CALL.id, content=_of_result(part)),)),
    )
    if _of_result(part):
        assert sent(*given)[-1]["content"] == f"[{part.type} left out]"


def _of_result(part: Part) -> tuple[Image | Document, ...]:
    return (part,) if isinstance(part, Image | Document) else ()


def test_documents_of_text_and_transcripts_are_text() -> None:
    page = Document(data=b"a\xff", media_type="text/plain", name="a.txt")
    assert sent(user(page))[0]["content"] == "[a.txt]\na\N{REPLACEMENT CHARACTER}"
    assert sent(user(Document(data=b"{}", media_type="application/json")))[0]["content"] == "{}"
    heard = user(Audio(data=b"x", transcript="hello"))
    assert sent(heard)[0]["content"] == "hello"
    assert "its transcript was sent" in notices(heard)


@pytest.mark.parametrize("messages", [(), (assistant(),), (Message(role="tool"),)])
def test_a_turn_without_anything_to_say_is_refused(messages: tuple[Message, ...]) -> None:
    with pytest.raises(TurnRefused) as caught:
        body_of(ask(*messages))
    assert "add at least one user message" in caught.value.action


# -- calls and results ------------------------------------------------------------------------------------------------


def test_calls_and_their_results_go_as_functions_with_text() -> None:
    second = ToolCall(id="call_2", name="look", arguments='{"at": 2}', parsed={"at": 2})
    turn = (HI, assistant("So:", CALL, second), tool_result(second, "b"), tool_result(CALL, "a", is_error=True))
    assert sent(*turn)[1:] == [
        {
            "role": "assistant",
            "content": "So:",
            "tool_calls": [
                {"id": CALL.id, "type": "function", "function": {"name": "look", "arguments": "{}"}},
                {"id": "call_2", "type": "function", "function": {"name": "look", "arguments": '{"at": 2}'}},
            ],
        },
        {"role": "tool", "tool_call_id": "call_2", "content": "b"},
        {"role": "tool", "tool_call_id": CALL.id, "content": "Error: a"},
    ]
    assert sent(HI, assistant(CALL), tool_result(CALL, "Error: x", is_error=True))[1]["content"] == ""
    assert sent(HI, assistant(CALL), tool_result(CALL, "Error: x", is_error=True))[2]["content"] == "Error: x"


@pytest.mark.parametrize(
    ("call", "arguments", "notice"),
    [
        (ToolCall(id="a", name="look", arguments="", parsed={}), "{}", ""),
        (ToolCall(id="a", name="look", arguments="{", invalid=True), '{"invalid_json":"{"}', "invalid arguments"),
        (ToolCall(id="a", name="look", arguments="x", custom=True), '{"input":"x"}', "custom"),
        (ToolCall(id="a", name="look", parsed={"at": 1}), '{"at":1}', ""),
    ],
)
def test_arguments_are_always_a_json_object(call: ToolCall, arguments: str, notice: str) -> None:
    turn = (HI, assistant(call), tool_result(call, "ok"))
    assert sent(*turn)[1]["tool_calls"][0]["function"]["arguments"] == arguments
    found = notices(*turn)
    assert notice in found
    assert bool(found) == bool(notice)


def test_ids_and_names_of_other_wires_become_ones_of_this() -> None:
    odd = ToolCall(id="functions.look:0", name="mcp.look at", parsed={})
    wire = sent(HI, assistant(odd), tool_result(odd, "a"), user("more"), assistant(odd), tool_result(odd, "b"))
    ids = [wire[number]["tool_calls"][0]["id"] for number in (1, 4)]
    assert [wire[number]["tool_call_id"] for number in (2, 5)] == ids
    assert len(set(ids)) == 2  # numbered anew in each answer
    assert all(len(call_id) == 24 for call_id in ids)
    assert wire[1]["tool_calls"][0]["function"]["name"] == "mcp_look_at"
    assert "was called 'mcp_look_at'" in notices(HI, assistant(odd), tool_result(odd, "a"))


def test_images_of_a_result_follow_in_a_users_message() -> None:
    second = ToolCall(id="call_2", name="point", parsed={})
    results = Message(role="tool", content=(ToolResult(call_id=CALL.id, content=(PNG,)),))
    wire = sent(HI, assistant(CALL, second), results, tool_result(second, "ok"), user("And?"), model=M3)
    assert [item["role"] for item in wire] == ["user", "assistant", "tool", "tool", "user"]
    assert wire[2]["content"] == "(in the next message)"
    assert [part["type"] for part in wire[4]["content"]] == ["text", "image_url", "text"]
    assert wire[4]["content"][0]["text"] == "Result of look:"
    last = sent(HI, assistant(CALL), results, model=M3)
    assert [part["type"] for part in last[-1]["content"]] == ["text", "image_url"]
    between = sent(HI, assistant(CALL), results, assistant("I see."), user("And?"), model=M3)
    assert [item["role"] for item in between] == ["user", "assistant", "tool", "user", "assistant", "user"]


@pytest.mark.parametrize(
    "messages",
    [
        (HI, assistant(CALL)),
        (HI, assistant(CALL), user("well?")),
        (HI, tool_result(CALL, "a")),
        (HI, assistant(CALL, CALL), tool_result(CALL, "a")),
    ],
)
def test_calls_and_results_that_do_not_match_are_refused(messages: tuple[Message, ...]) -> None:
    with pytest.raises(TurnRefused):
        body_of(ask(*messages))


# -- the assistant's own words ----------------------------------------------------------------------------------------


def test_refusals_are_text_and_what_else_is_in_a_message_is_named() -> None:
    assert sent(HI, assistant("a", Refusal(text="b")), user("c"))[1]["content"] == "ab"
    assert sent(HI, assistant(), user("c"))[1]["role"] == "user"
    assert "image part of an assistant message" in notices(HI, assistant("a", PNG), user("c"))
    assert "thinking part of a user message" in notices(user("a", Thinking(text="hm")))


@pytest.mark.parametrize("model", [M2, M3])
@pytest.mark.parametrize(
    ("data", "content", "details"),
    [
        ({"form": "tags", "gap": "\n\n"}, "<think>\nhm</think>\n\nyes", None),
        ({"form": "tags", "gap": ""}, "<think>\nhm</think>yes", None),
        ({"form": "details", "items": [{"text": "\nhm", "id": "r1"}]}, "yes", [{"text": "\nhm", "id": "r1"}]),
        ({"form": "text"}, "yes", [{"text": "\nhm"}]),
    ],
)
def test_thinking_goes_back_in_the_form_it_came_in(model: str, data: Any, content: str, details: Any) -> None:
    said = assistant(Thinking(text="\nhm", opaque=opaque(model=model, **data)), "yes")
    wire = sent(HI, said, user("And?"), model=model)[1]
    assert (wire["content"], wire.get("reasoning_details")) == (content, details)
    assert "reasoning_content" not in wire
    assert notices(HI, said, user("And?"), model=model) == ""


@pytest.mark.parametrize(
    "origin",
    [
        None,
        opaque(form="text", provider="another"),
        opaque(form="text", model="MiniMax-M2"),
        Opaque(provider="recorded", model=M2, data={"wire": "gemini", "form": "text"}),
    ],
)
def test_thinking_of_another_origin_is_left_out_and_named(origin: Opaque | None) -> None:
    said = assistant(Thinking(text="secret", opaque=origin), "yes")
    assert sent(HI, said, user("And?"))[1] == {"role": "assistant", "content": "yes"}
    assert "not of this provider and model" in notices(HI, said, user("And?"))


def test_what_its_own_api_does_not_read_again_is_left_out_without_a_word() -> None:
    said = assistant(Thinking(text="hm", opaque=opaque(model=M1, form="text")), "yes")
    assert sent(HI, said, user("And?"), model=M1)[1] == {"role": "assistant", "content": "yes"}
    assert notices(HI, said, user("And?"), model=M1) == ""
    searched = assistant("yes", OpaquePart(opaque=opaque(search=[{"role": "tool"}])))
    assert sent(HI, searched, user("And?"))[1] == {"role": "assistant", "content": "yes"}
    assert notices(HI, searched, user("And?")) == ""


def test_opaque_parts_and_signatures_of_another_origin_are_named() -> None:
    foreign = Opaque(provider="another", model="m", data={"signature": "s"})
    call = ToolCall(id="a", name="look", parsed={}, opaque=foreign)
    said = assistant("yes", OpaquePart(opaque=foreign), call)
    found = notices(HI, said, tool_result(call, "ok"))
    assert "opaque parts of another" in found
    assert "signatures on tool calls" in found


@pytest.mark.parametrize(
    "body",
    [
        sse(thought("I think"), thought(" so."), text("yes", "stop")),
        sse(text("<think>\nI think so.\n</think>\n\nyes", "stop")),
        sse(*map(text, ("<thi", "nk>\nI think so.\n</th", "ink>\n", "\nyes")), frame(finish="stop")),
        sse(
            message("yes", reasoning_content="I think so.</think>", reasoning_details=[{"text": "I think so.</think>"}])
        ),
    ],
)
def test_what_was_read_goes_back_as_it_came(body: bytes) -> None:
    """From the bytes of an answer to the bytes of the next question."""
    reply = read_body(body).reply
    assert reply is not None
    turn = ask(HI, reply.message, user("And?"))
    wire = body_of(turn)["messages"][1]
    came = body.decode()
    if "reasoning_details" in came:
        whole = "".join(item["text"] for item in wire["reasoning_details"])
        assert whole.startswith("I think so.")
        assert ("</think>" in whole) == ("</think>" in came)
        assert wire["content"] == "yes"
    else:
        assert wire["content"] == "<think>\nI think so.\n</think>\n\nyes"
    assert driver_for().notices(turn) == ()

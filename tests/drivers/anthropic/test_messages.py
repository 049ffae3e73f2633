"""The conversation on the wire: order, blocks, tool results, and what goes back as it came."""

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
    Refusal,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    assistant,
    system,
    tool_result,
    user,
)
from tests.drivers.anthropic.asking import MODEL, ask, body_of, driver_for, notices_of, opaque
from tests.drivers.anthropic.bodies import block, call, read_body, said, signed, thought
from tests.drivers.anthropic.request_rules import problems
from tests.drivers.exchanges import PROVIDER

TOOLS = (Tool(name="look"), Tool(name="point"))
CALL = ToolCall(id="call_1", name="look", arguments='{"at": 1}', parsed={"at": 1})
PNG = Image(data=b"\x89PNG", media_type="image/png")
PDF = Document(data=b"%PDF", media_type="application/pdf", name="a.pdf")
LATE = "claude-opus-4-8"


def wire(*messages: Message, model: str = MODEL, vendor: str = "anthropic") -> list[dict[str, Any]]:
    body = body_of(ask(*messages, model=model, tools=TOOLS), vendor)
    assert problems(body, vendor) == []
    found: list[dict[str, Any]] = body["messages"]
    return found


def notices(*messages: Message, model: str = MODEL, vendor: str = "anthropic") -> str:
    return notices_of(ask(*messages, model=model, tools=TOOLS), vendor)


def refusal(*messages: Message, model: str = MODEL, vendor: str = "anthropic") -> str:
    with pytest.raises(TurnRefused) as caught:
        driver_for(vendor).build_request(ask(*messages, model=model, tools=TOOLS))
    assert notices(*messages, model=model, vendor=vendor) == ""
    return str(caught.value)


# -- roles and order --------------------------------------------------------------------------------------------------


def test_system_messages_are_no_messages() -> None:
    body = body_of(ask(system("Be kind."), system("Be brief."), user("Hi")))
    assert body["system"] == "Be kind.\n\nBe brief."
    assert body["messages"] == [{"role": "user", "content": "Hi"}]
    assert "system" not in body_of(ask(system(" "), user("Hi")))


def test_equal_roles_in_a_row_are_one_message() -> None:
    messages = (user("a"), user("b", "c"), assistant("d"), assistant("e"), user("f"))
    parts = [[{"type": "text", "text": word} for word in words] for words in ("abc", "de")]
    assert wire(*messages) == [
        {"role": "user", "content": parts[0]},
        {"role": "assistant", "content": parts[1]},
        {"role": "user", "content": "f"},
    ]
    assert notices(*messages) == ""


def test_a_later_system_message_is_the_users_text_where_there_is_no_place_for_it() -> None:
    messages = (user("Hi"), assistant("Hello"), system("Be brief."), user("Why?"))
    joined = [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Why?"}]
    for model in (MODEL, LATE):  # behind an assistant's message none takes it
        assert wire(*messages, model=model)[2] == {"role": "user", "content": joined}
        assert "sent as the user's text" in notices(*messages, model=model)


def test_a_later_system_message_stays_one_where_the_model_takes_it() -> None:
    messages = (user("Hi"), system("In Spanish."), system("Briefly."), assistant("Hola"), user("Why?"), system("Now."))
    assert [message["role"] for message in wire(*messages, model=LATE)] == [
        "user", "system", "assistant", "user", "system",
    ]  # fmt: skip
    assert notices(*messages, model=LATE) == ""
    assert [message["role"] for message in wire(*messages)] == ["user", "assistant", "user"]
    between = (user("Hi"), system("In Spanish."), user("Why?"))
    assert [message["role"] for message in wire(*between, model=LATE)] == ["user"]


def test_the_first_message_is_the_users() -> None:
    messages = (assistant("Welcome."), user("Hi"))
    assert wire(*messages)[0] == {"role": "user", "content": "Begin."}
    assert "one was put before" in notices(*messages)


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ((), "no user message"),
        ((system("Be brief."),), "no user message"),
        ((assistant("Hi"),), "no user message"),
        ((user("  "),), "last message of the turn is empty"),
        ((user("Hi"), assistant("Hello"), user("\n")), "last message of the turn is empty"),
        ((user("Hi"), assistant(CALL)), "'call_1' of tool 'look' has no result"),
        ((user("Hi"), assistant(CALL), user("?")), "has no result"),
        ((user("Hi"), tool_result(CALL, "x")), "answers no call"),
        ((user("Hi"), assistant(CALL, CALL), tool_result(CALL, "x")), "two tool calls have the id"),
    ],
)
def test_a_conversation_that_asks_nothing_or_is_out_of_order_is_refused(messages: Any, says: str) -> None:
    assert says in refusal(*messages)


def test_blank_text_is_left_out() -> None:
    messages = (user("Hi", "", " \n"), assistant("", " "), user("there"))
    assert wire(*messages) == [
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "there"}]}
    ]


def test_the_start_of_an_answer_is_sent_where_the_model_continues_one() -> None:
    messages = (user("Hi"), assistant("The answer is ( \n"))
    assert wire(*messages, model="claude-sonnet-4-0")[-1] == {"role": "assistant", "content": "The answer is ("}
    assert "white space at the end" in notices(*messages, model="claude-sonnet-4-0")
    assert wire(*messages, vendor="generic", model="m")[-1]["role"] == "assistant"
    assert "does not continue an assistant message" in refusal(*messages)


# -- tool calls and results -------------------------------------------------------------------------------------------


def test_a_tool_loop_on_the_wire() -> None:
    second = ToolCall(id="call_2", name="point", arguments="")
    messages = (
        user("Look"),
        assistant("I look.", CALL, second),
        tool_result(CALL, "a tree"),
        tool_result(second, "no finger", is_error=True),
        user("And?"),
        assistant(CALL),
        tool_result(CALL, ""),
    )
    assert wire(*messages) == [
        {"role": "user", "content": "Look"},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "call_1", "name": "look", "input": {"at": 1}},
                {"type": "tool_use", "id": "call_2", "name": "point", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "call_1", "content": "a tree"},
                {"type": "tool_result", "tool_use_id": "call_2", "content": "no finger", "is_error": True},
                {"type": "text", "text": "And?"},
            ],
        },
        {"role": "assistant", "content": [wire(*messages)[3]["content"][0]]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": wire(*messages)[3]["content"][0]["id"]}]},
    ]
    assert notices(*messages) == ""


def test_results_come_first_in_a_message_that_holds_more() -> None:
    result = ToolResult(call_id="call_1", content=(Text(text="a"), Text(text="b")))
    message = Message(role="user", content=(Text(text="See:"), result))
    assert wire(user("Look"), assistant(CALL), message)[-1]["content"] == [
        {
            "type": "tool_result",
            "tool_use_id": "call_1",
            "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
        },
        {"type": "text", "text": "See:"},
    ]


def test_ids_of_other_vendors_are_mapped_alike_in_call_and_result() -> None:
    messages = []
    for number, call_id in enumerate(["functions.look:0", "functions.look:1", "é", "x" * 300, "ok_1"]):
        made = ToolCall(id=call_id, name="look", parsed={})
        messages += [user(str(number)), assistant(made), tool_result(made, "x")]
    sent = wire(*messages)
    calls = [part["id"] for message in sent if message["role"] == "assistant" for part in message["content"]]
    results = [
        part["tool_use_id"]
        for message in sent
        if isinstance(message["content"], list)
        for part in message["content"]
        if part["type"] == "tool_result"
    ]
    assert calls == results
    assert len(set(calls)) == 5
    assert calls[-1] == "ok_1"
    assert all(len(made) == 24 for made in calls[:-1])


def test_a_call_id_that_comes_again_gets_another_one_that_stays_the_same() -> None:
    rounds = [(assistant(CALL), tool_result(CALL, str(number))) for number in range(3)]
    messages = [user("Look"), *(message for pair in rounds for message in pair)]
    ids = [message["content"][0]["id"] for message in wire(*messages) if message["role"] == "assistant"]
    assert ids[0] == "call_1"
    assert len(set(ids)) == 3
    shorter = [message["content"][0]["id"] for message in wire(*messages[:5]) if message["role"] == "assistant"]
    assert shorter == ids[:2]


def test_a_tools_name_of_another_vendor_is_written_as_this_wire_takes_names() -> None:
    odd = ToolCall(id="a", name="files.read/all", parsed={})
    messages = (user("Look"), assistant(odd), tool_result(odd, "x"))
    assert wire(*messages)[1]["content"][0]["name"] == "files_read_all"
    assert "'files.read/all' of an earlier call was called 'files_read_all'" in notices(*messages)


def test_calls_that_are_no_json_or_no_function_are_sent_as_something_that_is() -> None:
    broken = ToolCall(id="a", name="look", arguments='{"at": ', invalid=True)
    custom = ToolCall(id="b", name="look", arguments="free text", custom=True)
    messages = (user("Look"), assistant(broken, custom), tool_result(broken, "x"), tool_result(custom, "y"))
    assert [part["input"] for part in wire(*messages)[1]["content"]] == [
        {"invalid_json": '{"at": '}, {"input": "free text"},
    ]  # fmt: skip
    assert "invalid arguments" in notices(*messages)


# -- images and documents ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "source"),
    [
        (PNG, {"type": "base64", "media_type": "image/png", "data": "iVBORw=="}),
        (Image(data=b"\xff\xd8x"), {"type": "base64", "media_type": "image/jpeg", "data": "/9h4"}),
        (Image(data=b"GIF89a"), {"type": "base64", "media_type": "image/gif", "data": "R0lGODlh"}),
        (
            Image(data=b"RIFF....WEBP"),
            {"type": "base64", "media_type": "image/webp", "data": "UklGRi4uLi5XRUJQ"},
        ),
        (Image(data=b"x", media_type="image/JPG"), {"type": "base64", "media_type": "image/jpeg", "data": "eA=="}),
        (Image(url="https://a.example/b.png"), {"type": "url", "url": "https://a.example/b.png"}),
        (PDF, {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="}),
        (Document(data=b"%PDF-1"), {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0x"}),
        (Document(url="https://a.example/b.pdf"), {"type": "url", "url": "https://a.example/b.pdf"}),
        (
            Document(data=b"a,b", media_type="text/csv; charset=utf-8"),
            {"type": "text", "media_type": "text/plain", "data": "a,b"},
        ),
        (
            Document(data=b"{}", media_type="application/json"),
            {"type": "text", "media_type": "text/plain", "data": "{}"},
        ),
    ],
)
def test_media_is_sent_as_a_source(part: Any, source: dict[str, Any]) -> None:
    (sent,) = wire(user(part))[0]["content"]
    assert sent["source"] == source
    assert sent.get("title", "") == getattr(part, "name", "")


@pytest.mark.parametrize(
    ("part", "vendor", "says"),
    [
        (Image(data=b"BM", media_type="image/bmp"), "anthropic", "image of type image/bmp"),
        (Image(data=b"??"), "anthropic", "image of type unknown"),
        (Image(), "anthropic", "no image here"),
        (Document(data=b"%PDF", media_type="application/zip"), "anthropic", "document of type application/zip"),
        (Document(), "anthropic", "document of type unknown"),
        (Audio(data=b"x"), "anthropic", "no sound here"),
        (PNG, "deepseek", "no image here"),
        (PDF, "generic", "no document here"),
        (PNG, "minimax", "no image here"),
    ],
)
def test_media_that_is_not_taken_is_refused_when_asked_about_and_else_named(part: Any, vendor: str, says: str) -> None:
    assert says in refusal(user(part), vendor=vendor, model="m")
    messages = (user("See", part), assistant("Yes"), user("And now?"))
    kind = type(part).__name__.lower().replace("audio", "sound")
    assert wire(*messages, vendor=vendor)[0]["content"][1] == {"type": "text", "text": f"[{kind} left out]"}
    assert says in notices(*messages, vendor=vendor)


def test_a_text_document_is_text_where_there_are_no_documents() -> None:
    notes = Document(data=b"words", media_type="text/markdown", name="notes.md")
    assert wire(user(notes), vendor="generic")[0]["content"] == "[notes.md]\nwords"
    blank = Document(data=b" ", media_type="text/plain")
    assert wire(user("See", blank))[0]["content"][1]["text"] == "[document]\n "


def test_sound_goes_as_its_transcript_and_detail_is_not_known() -> None:
    messages = (user(Audio(data=b"x", transcript="Hello"), Image(url="https://a.example/b", detail="high")),)
    assert wire(*messages)[0]["content"][0] == {"type": "text", "text": "Hello"}
    assert "transcript" in notices(*messages)
    assert "no image detail" in notices(*messages)


def test_results_may_hold_media() -> None:
    result = ToolResult(call_id="call_1", content=(Text(text="See"), PNG, PDF))
    messages = (user("Look"), assistant(CALL), Message(role="tool", content=(result,)))
    kinds = [part["type"] for part in wire(*messages)[-1]["content"][0]["content"]]
    assert kinds == ["text", "image", "document"]
    kinds = [part["type"] for part in wire(*messages, vendor="deepseek", model="m")[-1]["content"][0]["content"]]
    assert kinds == ["text", "text", "text"]
    assert "no image here: one of a tool" in notices(*messages, vendor="deepseek", model="m")


def test_parts_that_no_message_holds_are_named() -> None:
    messages = (user("Hi", Refusal(text="no")), assistant("x", PNG), Message(role="system", content=(PNG,)), user("y"))
    said_of = notices(*messages)
    assert "the refusal part of a user message" in said_of
    assert "the image part of an assistant message" in said_of
    assert "parts of a system message" in said_of
    assert "parts of a system message" in notices(Message(role="system", content=(PNG,)), user("y"))
    assert [message["role"] for message in wire(*messages)] == ["user", "assistant", "user"]


def test_a_refusal_is_the_assistants_text() -> None:
    assert wire(user("Hi"), assistant(Refusal(text="I will not.")), user("Why?"))[1]["content"] == "I will not."


# -- what goes back as it came ----------------------------------------------------------------------------------------

REDACTED = {"type": "redacted_thinking", "data": "xyz"}
SEARCH = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}}
FOUND = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}
CITATION = {"type": "char_location", "cited_text": "x"}


def test_an_answer_goes_back_block_for_block() -> None:
    thinking = {"type": "thinking", "thinking": "", "signature": ""}
    hidden = block(1, thinking, signed("def"))
    cited = block(5, {"type": "text", "text": ""}, {"type": "text_delta", "text": "So"},
                  {"type": "citations_delta", "citation": CITATION})  # fmt: skip
    events = [
        block(0, thinking, thought("hm"), signed("abc")), hidden, block(2, REDACTED), block(3, SEARCH), block(4, FOUND),
        cited, call(6, '{"a": 1}', caller={"type": "direct"}),
    ]  # fmt: skip
    turn = ask(user("Hi"))
    reply = read_body(said(*events, reason="tool_use"), turn=turn).reply
    assert reply is not None
    (made,) = reply.tool_calls
    body = body_of(ask(user("Hi"), reply.message, tool_result(made, "x"), tools=TOOLS))
    assert body["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "abc"},
        {"type": "thinking", "thinking": "", "signature": "def"},
        REDACTED,
        SEARCH,
        FOUND,
        {"type": "text", "text": "So", "citations": [CITATION]},
        {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"a": 1}, "caller": {"type": "direct"}},
    ]
    assert notices_of(ask(user("Hi"), reply.message, tool_result(made, "x"), tools=TOOLS)) == ""


THOUGHT = Thinking(text="hm", opaque=opaque({"signature": "abc"}))


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"model": "claude-opus-4-6"},
        {"provider": "other"},
        {"vendor": "minimax"},
    ],
)
def test_nothing_opaque_goes_to_anybody_else(elsewhere: dict[str, str]) -> None:
    def kept(members: dict[str, Any]) -> Opaque:
        return opaque(members, **elsewhere)

    made = ToolCall(id="a", name="look", parsed={}, opaque=kept({"caller": {"type": "direct"}}))
    answer = assistant(
        Thinking(text="hm", opaque=kept({"signature": "abc"})),
        OpaquePart(opaque=kept(REDACTED)),
        Text(text="So", opaque=kept({"citations": [CITATION]})),
        made,
    )
    messages = (user("Hi"), answer, tool_result(made, "x"))
    assert wire(*messages)[1]["content"] == [
        {"type": "text", "text": "So"},
        {"type": "tool_use", "id": "a", "name": "look", "input": {}},
    ]
    for what in ("earlier thinking", "opaque parts", "citations"):
        assert f"{what} of another provider or model were not sent" in notices(*messages) or (
            f"{what} that is not of this provider and model was not sent" in notices(*messages)
        )


def test_data_of_another_kind_of_the_same_name_is_nobodys() -> None:
    strange = Opaque(provider=PROVIDER, model=MODEL, data={"vendor": "anthropic", "field": "reasoning_content"})
    messages = (user("Hi"), assistant(Thinking(text="hm", opaque=strange), "So"), user("Why?"))
    assert wire(*messages)[1]["content"] == "So"
    assert "earlier thinking" in notices(*messages)


def test_thinking_without_a_signature_goes_back_to_gateways_alone() -> None:
    bare = Thinking(text="hm", opaque=opaque({"signature": ""}, vendor="glm"))
    assert wire(user("Hi"), assistant(bare, "So"), user("Why?"), vendor="glm")[1]["content"][0] == {
        "type": "thinking", "thinking": "hm", "signature": "",
    }  # fmt: skip
    unsigned = Thinking(text="hm", opaque=opaque({}))
    messages = (user("Hi"), assistant(unsigned, "So"), user("Why?"))
    assert wire(*messages)[1]["content"] == "So"
    assert "without a signature" in notices(*messages)


def test_thinking_at_the_very_end_of_a_message_is_not_sent() -> None:
    messages = (user("Hi"), assistant("So", THOUGHT, OpaquePart(opaque=opaque(REDACTED))), user("Why?"))
    assert wire(*messages)[1]["content"] == "So"
    assert "at the very end" in notices(*messages)
    assert [message["role"] for message in wire(user("Hi"), assistant(THOUGHT), user("Why?"))] == ["user"]


def test_a_paused_answer_goes_back_as_the_last_message() -> None:
    answer = assistant("Let me look.", OpaquePart(opaque=opaque(SEARCH)))
    body = body_of(ask(user("Hi"), answer))
    assert body["messages"][-1] == {"role": "assistant", "content": [{"type": "text", "text": "Let me look."}, SEARCH]}


def test_a_container_goes_back_with_the_results_it_waits_for() -> None:
    kept = OpaquePart(opaque=Opaque(provider=PROVIDER, model=MODEL, data={"vendor": "anthropic", "container": "c_1"}))
    messages = (user("Hi"), assistant(CALL, kept), tool_result(CALL, "x"))
    assert body_of(ask(*messages, tools=TOOLS))["container"] == "c_1"
    assert notices(*messages) == ""
    assert "container" not in body_of(ask(*messages, assistant("Done"), user("Next"), tools=TOOLS))
    other = OpaquePart(opaque=Opaque(provider="other", model=MODEL, data={"vendor": "anthropic", "container": "c_1"}))
    assert "container" not in body_of(ask(user("Hi"), assistant(CALL, other), tool_result(CALL, "x"), tools=TOOLS))


def test_text_of_a_text_block_of_text_only_is_a_string_and_else_a_list() -> None:
    marked = Text(text="Hi", cache="5m")
    assert wire(user("Hi"))[0]["content"] == "Hi"
    assert wire(user(marked))[0]["content"] == [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]

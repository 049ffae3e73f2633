"""The conversation as this wire wants it: order, places, ids, what goes back to its origin and what does not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from loopforge.drivers.errors import TurnRefused
from loopforge.drivers.turn import (
    Audio,
    Document,
    Image,
    Message,
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
from tests.drivers.bedrock.asking import (
    CALL,
    CLAUDE,
    HI,
    LLAMA,
    LOOK,
    MISTRAL,
    NOVA,
    QWEN,
    TITAN,
    ask,
    driver_for,
    noted,
    opaque,
    written,
)

PNG = Image(data=b"\x89PNG", media_type="image/png")
PDF = Document(data=b"%PDF", media_type="application/pdf", name="plan.pdf")
PIXELS = {"image": {"format": "png", "source": {"bytes": "iVBORw=="}}}
TOOLS: dict[str, Any] = {"tools": (LOOK,)}


def refused(*messages: Message, model: str = CLAUDE, **members: Any) -> TurnRefused:
    turn = ask(*messages, model=model, **members)
    with pytest.raises(TurnRefused) as caught:
        driver_for().build_request(turn)
    assert driver_for().notices(turn) == ()
    return caught.value


def messages_of(*messages: Message, model: str = CLAUDE, **members: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = written(model, messages=messages, **members)["messages"]
    return found


def result(*content: Any, **members: Any) -> Message:
    return Message(role="tool", content=(ToolResult(call_id="call_1", name="look", content=content, **members),))


def result_of(*content: Any, model: str, **members: Any) -> Any:
    """The blocks of the message that holds the result."""
    return messages_of(HI, assistant(CALL), result(*content, **members), model=model, **TOOLS)[2]["content"]


# -- roles ------------------------------------------------------------------------------------------------------------


def test_system_text_stands_apart_and_the_rest_in_turn() -> None:
    body = written(messages=(system("Be brief."), system("Be kind."), user("a"), user("b"), assistant("c"), user("d")))
    assert body["system"] == [{"text": "Be brief."}, {"text": "Be kind."}]
    assert body["messages"] == [
        {"role": "user", "content": [{"text": "a"}, {"text": "b"}]},
        {"role": "assistant", "content": [{"text": "c"}]},
        {"role": "user", "content": [{"text": "d"}]},
    ]


def test_a_model_without_system_text_hears_it_from_the_user() -> None:
    body = written(TITAN, messages=(system("Be brief."), user("a")))
    assert "system" not in body
    assert body["messages"][0]["content"] == [{"text": "Be brief."}, {"text": "a"}]
    assert "takes no system text" in noted(TITAN, messages=(system("Be brief."), user("a")))


def test_a_later_system_message_is_the_users_text() -> None:
    messages = (user("a"), assistant("b"), system("Now in French."), user("c"))
    assert messages_of(*messages)[2]["content"] == [{"text": "Now in French."}, {"text": "c"}]
    assert "sent as the user's text" in noted(messages=messages)


def test_blank_text_is_not_sent_and_a_turn_of_nothing_else_is_refused() -> None:
    assert messages_of(user("a", " ", ""), assistant("", " \n"), user("b"))[0]["content"] == [
        {"text": "a"},
        {"text": "b"},
    ]
    assert "empty" in str(refused(user(" ")))
    assert "no user message" in str(refused(system("Be brief.")))
    assert "empty" in str(refused(user("a"), assistant("b"), user("")))


def test_an_assistant_may_begin_where_the_model_allows_it() -> None:
    for model in (CLAUDE, QWEN):
        assert messages_of(assistant("a"), user("b"), model=model)[0]["role"] == "assistant"
    begun = messages_of(assistant("a"), user("b"), model=NOVA)
    assert begun[0] == {"role": "user", "content": [{"text": "."}]}
    assert "user message first" in noted(NOVA, messages=(assistant("a"), user("b")))


def test_an_assistant_message_is_continued_where_the_model_does_that() -> None:
    assert messages_of(user("a"), assistant("The answer is "))[-1]["content"] == [{"text": "The answer is"}]
    assert "white space at the end" in noted(messages=(user("a"), assistant("The answer is ")))
    error = refused(user("a"), assistant("b"), model="us.anthropic.claude-opus-4-7-v1:0")
    assert "does not continue" in str(error)


# -- calls and results ------------------------------------------------------------------------------------------------


def test_calls_and_results_stand_in_messages_that_follow_each_other() -> None:
    first, second = CALL, ToolCall(id="call_2", name="look", parsed={"at": 1})
    talk = (
        HI,
        assistant("Let me see.", first, second),
        tool_result(first, "a"),
        tool_result(second, "b", is_error=True),
    )
    found = messages_of(*talk, user("Well?"), **TOOLS)
    assert found[1]["content"] == [
        {"text": "Let me see."},
        {"toolUse": {"toolUseId": "call_1", "name": "look", "input": {}}},
        {"toolUse": {"toolUseId": "call_2", "name": "look", "input": {"at": 1}}},
    ]
    assert found[2]["content"] == [
        {"toolResult": {"toolUseId": "call_1", "content": [{"text": "a"}]}},
        {"toolResult": {"toolUseId": "call_2", "content": [{"text": "b"}], "status": "error"}},
        {"text": "Well?"},
    ]


def test_results_stand_alone_where_the_model_wants_that() -> None:
    talk = (HI, assistant(CALL), tool_result(CALL, "a"), user("Well?"))
    roles = [message["role"] for message in messages_of(*talk, model=LLAMA, stream=False, **TOOLS)]
    assert roles == ["user", "assistant", "user", "assistant", "user"]
    assert "takes tool results alone" in noted(LLAMA, messages=talk, stream=False, **TOOLS)
    late = (HI, assistant(CALL), tool_result(CALL, "a"), system("Be kind."))
    assert messages_of(*late, model=LLAMA, **TOOLS)[-1]["content"] == [{"text": "Be kind."}]


def test_the_results_of_some_models_are_json() -> None:
    def json_of(text: str, **members: Any) -> Any:
        return result_of(Text(text=text), model=MISTRAL, **members)[0]["toolResult"]["content"]

    assert json_of('{"a": 1}') == [{"json": {"a": 1}}]
    assert json_of("plain") == [{"json": {"output": "plain"}}]
    assert json_of("no", is_error=True) == [{"json": {"output": "Error:"}}, {"json": {"output": "no"}}]


def test_an_error_without_a_status_is_told_in_words_once() -> None:
    for text, told in (("no", [{"text": "Error:"}, {"text": "no"}]), ("Error: no", [{"text": "Error: no"}])):
        assert result_of(Text(text=text), model=QWEN, is_error=True)[0]["toolResult"]["content"] == told
    assert result_of(model=CLAUDE, is_error=True)[0]["toolResult"] == {
        "toolUseId": "call_1", "content": [{"text": "."}], "status": "error",
    }  # fmt: skip
    assert result_of(model=CLAUDE)[0]["toolResult"]["content"] == []


def test_media_of_a_result_stands_in_it_beside_it_or_is_named() -> None:
    assert result_of(PNG, model=CLAUDE) == [{"toolResult": {"toolUseId": "call_1", "content": [PIXELS]}}]
    beside = result_of(PNG, model=QWEN)
    assert beside == [{"toolResult": {"toolUseId": "call_1", "content": [{"text": "[image below]"}]}}, PIXELS]
    pixtral = "us.mistral.pixtral-large-2502-v1:0"
    left_out = result_of(PNG, model=pixtral)[0]["toolResult"]["content"]
    assert left_out == [{"json": {"output": "[image left out]"}}]
    assert "takes no image in a tool result" in noted(pixtral, messages=(HI, assistant(CALL), result(PNG)), **TOOLS)


def test_ids_that_the_wire_does_not_take_are_mapped_and_told_apart() -> None:
    odd, again = ToolCall(id="functions.look:0/é", name="look"), ToolCall(id="call_1", name="look")
    talk = [HI]
    for made in (odd, again, again):
        talk += [assistant(made), tool_result(made, "x")]
    found = messages_of(*talk, **TOOLS)
    used = [message["content"][0]["toolUse"]["toolUseId"] for message in found[1::2]]
    assert len(set(used)) == 3
    assert used[1] == "call_1"
    assert used == [message["content"][0]["toolResult"]["toolUseId"] for message in found[2::2]]


def test_names_of_earlier_calls_are_made_fit_and_tools_declared_when_none_are_offered() -> None:
    made = ToolCall(id="call_1", name="files.read", parsed={})
    talk = (HI, assistant(made), tool_result(made, "x"))
    body = written(messages=talk)
    assert [tool["toolSpec"]["name"] for tool in body["toolConfig"]["tools"]] == ["files_read"]
    told = noted(messages=talk)
    assert "was called 'files_read'" in told
    assert "they were declared" in told


def test_a_model_without_tools_reads_of_earlier_calls() -> None:
    made = ToolCall(id="call_1", name="look", arguments='{"at": 1}', parsed={"at": 1})
    talk = (HI, assistant("Let me see.", made), tool_result(made, "nothing"), user("Well?"))
    body = written(TITAN, messages=talk)
    assert "toolConfig" not in body
    texts = [block["text"] for message in body["messages"] for block in message["content"]]
    assert texts == ["Hi", "Let me see.", '[call of look: {"at": 1}]', "[result of look]", "nothing", "Well?"]
    assert "earlier calls and their results were sent as text" in noted(TITAN, messages=talk)


def test_arguments_that_are_no_object_are_sent_back_as_text() -> None:
    bad = ToolCall(id="call_1", name="look", arguments="{", invalid=True)
    free = ToolCall(id="call_2", name="look", arguments="grep x", custom=True)
    found = messages_of(HI, assistant(bad, free), tool_result(bad, "a"), tool_result(free, "b"), **TOOLS)
    given = [block["toolUse"]["input"] for block in found[1]["content"]]
    assert given == [{"invalid_json": "{"}, {"input": "grep x"}]


@pytest.mark.parametrize(
    "talk",
    [
        (HI, tool_result(CALL, "a")),
        (HI, assistant(CALL), user("b")),
        (HI, assistant(CALL)),
        (HI, assistant(CALL, CALL), tool_result(CALL, "a")),
    ],
)
def test_a_conversation_out_of_order_is_refused(talk: tuple[Message, ...]) -> None:
    assert refused(*talk, tools=(LOOK,)).action


# -- what goes back ---------------------------------------------------------------------------------------------------


def test_signed_thinking_goes_back_to_its_origin_alone() -> None:
    thought = Thinking(text="Hm", opaque=opaque({"signature": "s"}))
    hidden = OpaquePart(opaque=opaque({"redacted": "eHg="}))
    talk = (HI, assistant(thought, hidden, "So."), user("Go on."))
    assert messages_of(*talk)[1]["content"] == [
        {"reasoningContent": {"reasoningText": {"text": "Hm", "signature": "s"}}},
        {"reasoningContent": {"redactedContent": "eHg="}},
        {"text": "So."},
    ]
    other = "us.anthropic.claude-opus-4-1-20250805-v1:0"
    assert messages_of(*talk, model=other)[1]["content"] == [{"text": "So."}]
    told = noted(other, messages=talk)
    assert "earlier thinking that is not of this provider and model" in told
    assert "opaque parts of another" in told


def test_thinking_without_a_signature_and_at_the_very_end_stays_here() -> None:
    unsigned = (HI, assistant(Thinking(text="Hm"), "So."), user("Go on."))
    assert messages_of(*unsigned)[1]["content"] == [{"text": "So."}]
    last = (HI, assistant("So.", Thinking(text="Hm", opaque=opaque({"signature": "s"}))), user("Go on."))
    assert messages_of(*last)[1]["content"] == [{"text": "So."}]
    assert "at the very end" in noted(messages=last)


def test_citations_go_back_to_their_origin() -> None:
    cited = Text(text="So it is.", opaque=opaque({"citations": [{"title": "a"}]}))
    talk = (HI, assistant(cited), user("Go on."))
    block = {"citationsContent": {"content": [{"text": "So it is."}], "citations": [{"title": "a"}]}}
    assert messages_of(*talk)[1]["content"] == [block]
    assert messages_of(*talk, model=NOVA)[1]["content"] == [{"text": "So it is."}]
    assert "citations of another" in noted(NOVA, messages=talk)


def test_what_the_service_ran_itself_is_not_sent_back() -> None:
    ran = OpaquePart(opaque=opaque({"block": {"toolUse": {"type": "server_tool_use"}}}))
    talk = (HI, assistant(ran, "So."), user("Go on."))
    assert messages_of(*talk)[1]["content"] == [{"text": "So."}]
    assert "the service refuses it" in noted(messages=talk)


def test_a_refusal_goes_back_as_text_and_other_parts_are_named() -> None:
    talk = (HI, assistant(Refusal(text="No."), PNG), user("Go on."))
    assert messages_of(*talk)[1]["content"] == [{"text": "No."}]
    assert "image part of an assistant message" in noted(messages=talk)


# -- media ------------------------------------------------------------------------------------------------------------


def test_images_and_documents_become_blocks() -> None:
    notes = Document(data=b"a,b", media_type="text/csv; charset=utf-8", name="plan.csv")
    content = messages_of(user("Read.", PNG, PDF, notes))[0]["content"]
    assert content[1] == PIXELS
    assert content[2]["document"] == {"name": "plan", "format": "pdf", "source": {"bytes": "JVBERg=="}}
    assert content[3]["document"] == {"name": "plan 2", "format": "csv", "source": {"bytes": "YSxi"}}


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("", "document"),
        ("report (final) [2].v1.pdf", "report (final) [2] v1"),
        ("a__b  c!.md", "a b c"),
        ("é.pdf", "document"),
        ("x" * 300, "x" * 194),
    ],
)
def test_a_documents_name_is_made_fit(name: str, sent: str) -> None:
    paper = Document(data=b"%PDF", media_type="application/pdf", name=name)
    assert messages_of(user("Read.", paper))[0]["content"][1]["document"]["name"] == sent


def test_text_stands_beside_each_document() -> None:
    assert messages_of(user(PDF))[0]["content"][1] == {"text": "."}


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        (Document(data=b"{}", media_type="application/json"), "txt"),
        (Document(data=b"%PDF"), "pdf"),
        (Document(data=b"x", name="a.docx"), "docx"),
        (Document(data=b"x", media_type="text/x-python"), "txt"),
        (Document(url="s3://bucket/a.xlsx"), "xlsx"),
    ],
)
def test_the_format_of_a_document_is_told_by_type_bytes_or_name(document: Document, kind: str) -> None:
    assert messages_of(user("Read.", document), model=NOVA)[0]["content"][1]["document"]["format"] == kind


@pytest.mark.parametrize("head", [b"\x89PNG", b"\xff\xd8\xff", b"GIF89a", b"RIFF1234WEBP"])
def test_the_format_of_an_image_is_told_by_its_first_bytes(head: bytes) -> None:
    kinds = {b"\x89": "png", b"\xff": "jpeg", b"G": "gif", b"R": "webp"}
    assert messages_of(user("See.", Image(data=head)))[0]["content"][1]["image"]["format"] == kinds[head[:1]]


def test_media_in_s3_is_named_where_the_model_looks_there() -> None:
    there = Image(url="s3://bucket/a.png")
    assert messages_of(user("See.", there), model=NOVA)[0]["content"][1]["image"]["source"] == {
        "s3Location": {"uri": "s3://bucket/a.png"}
    }
    assert "by S3 location" in str(refused(user("See.", there)))


@pytest.mark.parametrize(
    ("part", "model"),
    [
        (Image(url="https://a.example/b.png"), CLAUDE),
        (Image(data=b"??", media_type="image/tiff"), CLAUDE),
        (PNG, TITAN),
        (Document(data=b"x", media_type="application/zip"), CLAUDE),
        (PDF, "mistral.mistral-7b-instruct-v0:2"),
        (Audio(data=b"x", media_type="audio/wav"), NOVA),
    ],
)
def test_media_that_is_not_taken_is_refused_when_asked_about_and_named_when_it_is_history(
    part: Any, model: str
) -> None:
    assert "takes no" in str(refused(user("See.", part), model=model))
    history = (user("See.", part), assistant("Seen."), user("And?"))
    blocks = messages_of(*history, model=model)[0]["content"]
    assert "left out]" in blocks[1]["text"]
    assert "was left out" in noted(model, messages=history)


def test_a_text_document_is_text_for_a_model_without_documents() -> None:
    notes = Document(data=b"words", media_type="text/markdown", name="a.md")
    blocks = messages_of(user("Read.", notes), model="mistral.mistral-7b-instruct-v0:2")[0]["content"]
    assert blocks[1] == {"text": "[a.md]\nwords"}


def test_sound_goes_as_its_transcript() -> None:
    assert messages_of(user(Audio(transcript="hello")))[0]["content"] == [{"text": "hello"}]


# -- cache points -----------------------------------------------------------------------------------------------------

POINT = {"cachePoint": {"type": "default"}}


def test_points_stand_behind_what_asks_for_them() -> None:
    marked = Text(text="a", cache="5m")
    found = Message(role="tool", content=(ToolResult(call_id="call_1", content=(marked,)),))
    messages = (Message(role="system", content=(marked,)), user(marked, "b"), assistant(CALL), found)
    body = written(messages=messages, **TOOLS)
    assert body["system"] == [{"text": "a"}, POINT]
    assert body["messages"][0]["content"] == [{"text": "a"}, POINT, {"text": "b"}]
    assert body["messages"][2]["content"][1] == POINT
    assert noted(messages=messages, **TOOLS) == ""


def test_points_are_sent_where_the_model_takes_them() -> None:
    tools = (LOOK.__class__(name="look", cache="5m"),)
    marked = (user(Text(text="a", cache="1h")),)
    assert written(tools=tools)["toolConfig"]["tools"][1] == POINT
    assert len(written(NOVA, tools=tools)["toolConfig"]["tools"]) == 1
    assert "takes none in tools" in noted(NOVA, tools=tools)
    assert "cachePoint" not in json.dumps(written(QWEN, messages=marked))
    assert "takes none in messages" in noted(QWEN, messages=marked)
    assert written(messages=marked)["messages"][0]["content"][1] == {"cachePoint": {"type": "default", "ttl": "1h"}}
    assert written(NOVA, messages=marked)["messages"][0]["content"][1] == POINT
    assert "1h was sent as 5m" in noted(NOVA, messages=marked)


def test_of_too_many_points_the_telling_ones_are_kept() -> None:
    marked = [user(Text(text=str(number), cache="5m")) for number in range(4)]
    talk = [part for message in marked for part in (message, assistant("ok"))][:-1]
    messages = (Message(role="system", content=(Text(text="s", cache="1h"),)), *talk)
    body = written(messages=messages)
    points = [block for message in body["messages"] for block in message["content"] if "cachePoint" in block]
    assert (len(points), body["system"][1]["cachePoint"]["ttl"]) == (3, "1h")
    assert body["messages"][0]["content"] == [{"text": "0"}]
    assert "1 earlier ones were not sent" in noted(messages=messages)


def test_a_point_behind_a_document_is_put_before_it_or_not_at_all() -> None:
    marked = Document(data=b"%PDF", media_type="application/pdf", cache="5m")
    kinds = [next(iter(block)) for block in messages_of(user("a", PDF, marked))[0]["content"]]
    assert kinds == ["text", "cachePoint", "document", "document"]
    assert "put before it" in noted(messages=(user("a", PDF, marked),))
    assert [next(iter(block)) for block in messages_of(user(marked, "a"))[0]["content"]] == ["document", "text"]

"""What the reader makes of bodies that the recordings lack, written by hand."""

from __future__ import annotations

import base64
import json

import pytest

from loopforge.drivers.errors import DriverError, StreamBroken
from loopforge.drivers.turn import (
    Audio,
    Image,
    JsonSchema,
    OpaquePart,
    Text,
    TextDelta,
    Thinking,
    Tool,
    Usage,
    UsageDelta,
    user,
)
from tests.drivers.exchanges import Outcome
from tests.drivers.gemini.asking import FLASH_2_5, Json, ask, call, chunk, driver_for, opaque, read_body, sse, text

COUNTS = {"promptTokenCount": 5, "candidatesTokenCount": 2, "totalTokenCount": 7}
DONE = chunk(text("."), finish="STOP")


def error_of(body: bytes, *, cut: int = 0) -> tuple[str, str]:
    """Class and text of the error that the body is."""
    error = read_body(body, cut=cut).error
    assert error is not None
    return str(error["class"]), str(error["what"])


def text_of(outcome: Outcome) -> str:
    assert outcome.reply is not None, outcome.error
    return outcome.reply.text


# -- framing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 1, 7])
def test_a_stream_without_sse_is_an_array_that_comes_in_pieces(cut: int) -> None:
    chunks = [chunk(text('a"}{')), chunk(text("\\")), chunk(text("b]"), finish="STOP")]
    body = json.dumps(chunks, indent=2).encode()
    assert text_of(read_body(body, cut=cut)) == 'a"}{\\b]'


def test_the_elements_of_an_array_are_handed_on_as_they_come() -> None:
    reader = driver_for().new_reader(ask(user("hello")), {})
    first = json.dumps([chunk(text("a"))])[:-1].encode()
    assert reader.feed(first)
    assert reader.events == 1


@pytest.mark.parametrize("size", [*range(1, 200, 3), 10_000])
def test_an_array_is_read_alike_whatever_is_whole_in_a_piece_of_it(size: int) -> None:
    spelled = {"Grüße {": "Grüße {", '}"{[': r"}\"{[", "\ufffd": r"\ud83d", "字": "字", "!": "!", "]}": "]}"}
    written = [json.dumps(chunk(text("HERE"))).replace("HERE", spelling) for spelling in spelled.values()]
    body = f"[{', '.join([*written, json.dumps(DONE)])}]".encode()
    no_utf8 = body.replace(b'"!"', b'"\xff"')
    assert text_of(read_body(body, cut=size)) == f"{''.join(spelled)}."
    assert text_of(read_body(no_utf8, cut=size)) == f"{''.join(spelled)}.".replace("!", "\ufffd")
    assert read_body(body, cut=size).events == read_body(no_utf8, cut=size).events == len(spelled) + 1


def test_what_is_nested_too_deeply_ends_an_array_behind_what_came_before_it() -> None:
    reader = driver_for().new_reader(ask(user("Hi")), {})
    deep = b'{"a":' * 200 + b"1" + b"}" * 200
    first = reader.feed(b"[" + json.dumps(chunk(text("a"))).encode() + b"," + deep)
    assert TextDelta("a") in first
    with pytest.raises(StreamBroken, match="no JSON"):
        reader.feed(b"]")


def test_an_array_that_ends_inside_an_element_is_cut() -> None:
    body = json.dumps([chunk(text("a")), chunk(text("b"), finish="STOP")]).encode()
    assert error_of(body[:-30])[0] == "StreamBroken"


def test_a_stream_asked_for_and_answered_by_plain_json_is_read() -> None:
    assert text_of(read_body(json.dumps(chunk(text("a"), finish="STOP"), indent=1).encode())) == "a"


def test_events_of_many_data_lines_are_read() -> None:
    lines = json.dumps(DONE, indent=1).splitlines()
    assert text_of(read_body("".join(f"data: {line}\n" for line in lines).encode())) == "."


def test_comments_are_no_events() -> None:
    assert read_body(sse(": wait\n\n", DONE)).events == 1


@pytest.mark.parametrize("cut", [0, 1, 7])
def test_an_error_without_data_in_front_ends_the_stream(cut: int) -> None:
    bare = json.dumps({"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}, indent=2)
    outcome = read_body(sse(chunk(text("a")), f"{bare}\n"), cut=cut)
    assert outcome.error is not None
    assert (outcome.error["class"], outcome.error["status"]) == ("Overloaded", 503)
    assert outcome.partial is not None
    assert outcome.partial.text == "a"


def test_a_chunk_without_data_in_front_is_read_all_the_same() -> None:
    assert text_of(read_body(sse(chunk(text("a")), f"{json.dumps(chunk(text('b')))}\n", DONE))) == "ab."


@pytest.mark.parametrize("form", ["event", "array"])
def test_an_error_after_text_keeps_the_text(form: str) -> None:
    error: Json = {"error": {"code": 500, "message": "Internal error", "status": "INTERNAL"}}
    chunks = [chunk(text("a"), usage=COUNTS), error]
    outcome = read_body(sse(*chunks) if form == "event" else json.dumps(chunks).encode())
    assert outcome.error is not None
    assert outcome.error["class"] == "ProviderUnavailable"
    assert outcome.partial is not None
    assert outcome.partial.text == "a"
    assert UsageDelta(Usage(input=5, output=2)) in outcome.deltas


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "StreamBroken"),
        (b'data: {"candidates": [\n\n', "StreamBroken"),
        (b"data: [1, 2]\n\n", "WireMismatch"),
        (b"data: 7\n\n", "WireMismatch"),
        (b"<html>Sign in</html>", "WireMismatch"),
        (b'{"candidates": [', "StreamBroken"),
        (b'{"candidates": }', "WireMismatch"),
        (b'{"answer": 42}', "WireMismatch"),
        (b"[1, 2]", "WireMismatch"),
        (b"[", "StreamBroken"),
        (b'[{"candidates": [', "StreamBroken"),
        (sse(chunk(text("a"))), "StreamBroken"),
        (b'{"error": {"message": "no"}}', "ProviderUnavailable"),
        (b'[{"error": {"code": 429, "message": "no", "status": "RESOURCE_EXHAUSTED"}}]', "RateLimited"),
        (b'{"candidates": []}', "GenerationFailed"),
        (b'{"usageMetadata": {"totalTokenCount": 3}}', "GenerationFailed"),
        (sse({"error": {"message": "no"}}), "ProviderUnavailable"),
        (sse(chunk(text("a")), {"error": {"message": "no"}}), "StreamBroken"),
        (sse(chunk(text("a")), {"error": {"message": "no", "status": "UNAVAILABLE"}}), "Overloaded"),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_named(body: bytes, error: str) -> None:
    assert error_of(body)[0] == error
    assert error_of(body, cut=1)[0] == error if body else True


def test_what_comes_cut_behind_the_end_is_not_missed() -> None:
    assert text_of(read_body(sse(DONE) + b'data: {"usageMeta')) == "."


def test_an_event_too_large_to_keep_is_refused() -> None:
    reader = driver_for().new_reader(ask(user("hello")), {})
    reader.feed(b'[{"candidates": [{"content": {"parts": [{"text": "')
    for _ in range(31):
        reader.feed(b"x" * 2**20)
    with pytest.raises(DriverError, match="larger than"):
        reader.feed(b"x" * 2**20)


# -- parts ----------------------------------------------------------------------------------------------------------


def test_a_signed_text_is_never_joined_with_its_neighbours() -> None:
    outcome = read_body(sse(chunk(text("a")), chunk(text("b", thoughtSignature="S")), chunk(text("c"), finish="STOP")))
    assert outcome.reply is not None
    assert outcome.reply.message.content == (
        Text(text="a"),
        Text(text="b", opaque=opaque(signature="S")),
        Text(text="c"),
    )


def test_a_signature_in_a_chunk_of_its_own_stays_a_part_of_its_own() -> None:
    outcome = read_body(sse(chunk(text("a")), chunk(text("", thoughtSignature="S"), finish="STOP")))
    assert outcome.reply is not None
    own = OpaquePart(opaque=opaque(part={"text": "", "thoughtSignature": "S"}))
    assert outcome.reply.message.content == (Text(text="a"), own)


def test_a_signature_alone_is_an_empty_answer() -> None:
    outcome = read_body(sse(chunk(text("", thoughtSignature="S"), finish="STOP")))
    assert outcome.reply is not None
    assert outcome.reply.warnings == ("empty answer",)


def test_nothing_at_all_is_an_empty_answer() -> None:
    outcome = read_body(sse(chunk(text(""), finish="STOP")))
    assert outcome.reply is not None
    assert (outcome.reply.finish, outcome.reply.warnings) == ("stop", ("empty answer",))


def test_thoughts_are_marked_with_where_they_came_from() -> None:
    parts = [text("hm", thought=True), text("m", thought=True), text("a")]
    outcome = read_body(sse(*map(chunk, parts), DONE))
    assert outcome.reply is not None
    assert outcome.reply.message.content == (Thinking(text="hmm", opaque=opaque()), Text(text="a."))


def test_a_signed_thought_keeps_its_signature() -> None:
    outcome = read_body(sse(chunk(text("hm", thought=True, thoughtSignature="S")), DONE))
    assert outcome.reply is not None
    assert outcome.reply.message.content[0] == Thinking(text="hm", opaque=opaque(signature="S"))


def test_media_are_parts_and_no_text() -> None:
    data = base64.b64encode(b"pixels").decode()
    image: Json = {"inlineData": {"mimeType": "image/png", "data": data}, "thoughtSignature": "S"}
    sound: Json = {"inlineData": {"mimeType": "audio/wav", "data": data}}
    draft: Json = {"inlineData": {"mimeType": "image/png", "data": data}, "thought": True}
    outcome = read_body(sse(chunk(draft, image, sound, finish="STOP")))
    assert outcome.reply is not None
    assert outcome.reply.message.content == (
        Image(data=b"pixels", media_type="image/png"),
        OpaquePart(opaque=opaque(on_previous="S")),
        Audio(data=b"pixels", media_type="audio/wav"),
    )
    assert outcome.reply.text == ""
    assert "left out" in outcome.reply.warnings[0]


def test_sources_are_kept_beside_the_text() -> None:
    outcome = read_body(sse(chunk(text("a"), finish="STOP", groundingMetadata={"webSearchQueries": ["q"]})))
    assert outcome.reply is not None
    metadata = {"groundingMetadata": {"webSearchQueries": ["q"]}}
    assert outcome.reply.message.content[1] == OpaquePart(opaque=opaque(metadata=metadata))


def test_parts_of_a_new_kind_are_kept_for_their_origin() -> None:
    outcome = read_body(sse(chunk({"hologram": {"depth": 3}}, finish="STOP")))
    assert outcome.reply is not None
    assert outcome.reply.message.content == (OpaquePart(opaque=opaque(part={"hologram": {"depth": 3}})),)


def test_only_the_first_candidate_counts() -> None:
    both = chunk(text("a"), finish="STOP")
    both["candidates"].append({"index": 1, "content": {"parts": [text("b")]}, "finishReason": "SAFETY"})
    outcome = read_body(json.dumps(both).encode())
    assert outcome.reply is not None
    assert (outcome.reply.text, outcome.reply.finish) == ("a", "stop")


def test_parts_may_follow_a_finish_reason() -> None:
    assert text_of(read_body(sse(chunk(text("a"), finish="STOP"), chunk(text("b")), DONE))) == "ab."


# -- calls ----------------------------------------------------------------------------------------------------------


def test_calls_without_ids_get_their_own_and_say_so() -> None:
    outcome = read_body(sse(chunk(call("look", {"at": 1}, thoughtSignature="S"), call("look"), finish="STOP")))
    assert outcome.reply is not None
    first, second = outcome.reply.tool_calls
    assert first.id != second.id
    assert (first.parsed, second.parsed, second.opaque) == ({"at": 1}, {}, None)
    assert first.opaque == opaque(signature="S")
    assert outcome.reply.finish == "tool_calls"


def test_an_id_that_comes_twice_counts_once() -> None:
    outcome = read_body(sse(chunk(call("look", id="1"), call("look", id="1"), finish="STOP")))
    assert outcome.reply is not None
    first, second = outcome.reply.tool_calls
    assert (first.id, first.opaque) == ("1", opaque(id=True))
    assert second.id != "1"
    assert second.opaque is None


def partial(*pieces: Json, more: bool = True) -> Json:
    return {"functionCall": {"partialArgs": list(pieces), **({"willContinue": True} if more else {})}}


def piece(path: str, value: object, *, more: bool = False) -> Json:
    kind = {bool: "boolValue", str: "stringValue", type(None): "nullValue"}.get(type(value), "numberValue")
    return {"jsonPath": path, kind: value, **({"willContinue": True} if more else {})}


def streamed_call(*parts: Json, end: bool = True) -> bytes:
    opening: Json = {"functionCall": {"name": "look", "willContinue": True}, "thoughtSignature": "S"}
    closing = [chunk({"functionCall": {}})] if end else []
    return sse(chunk(opening), *map(chunk, parts), *closing, chunk(finish="STOP"))


@pytest.mark.parametrize("end", [True, False])
def test_partial_arguments_become_a_whole_call_even_without_their_end_sign(end: bool) -> None:
    body = streamed_call(
        partial(piece("$.city", "Bos", more=True)),
        partial(piece("$.city", "ton")),
        partial(piece("$.at[0].x", 1.5), piece("$.at[1]['the y']", True), piece('$["none"]', None)),
        end=end,
    )
    for cut in (0, 1):
        outcome = read_body(body, cut=cut)
        assert outcome.reply is not None
        (made,) = outcome.reply.tool_calls
        assert made.parsed == {"city": "Boston", "at": [{"x": 1.5}, {"the y": True}], "none": None}
        assert made.opaque == opaque(signature="S")
        assert outcome.reply.finish == "tool_calls"


@pytest.mark.parametrize("path", ["$", "x[", "$.a[7]", "$..a", "$.a[-1]", "$" + "[0]" * 200])
def test_partial_arguments_that_lead_nowhere_make_the_call_invalid(path: str) -> None:
    outcome = read_body(streamed_call(partial(piece(path, "x"))))
    assert outcome.reply is not None
    (made,) = outcome.reply.tool_calls
    assert (made.invalid, made.parsed) == (True, None)


def test_arguments_that_are_no_object_make_the_call_invalid() -> None:
    outcome = read_body(sse(chunk(call("look", [1]), finish="STOP")))
    assert outcome.reply is not None
    assert outcome.reply.tool_calls[0].invalid


def test_the_arguments_of_the_answer_function_are_the_answer() -> None:
    schema = JsonSchema(schema={"type": "object", "properties": {"size": {"type": "integer"}}})
    turn = ask(user("how large?"), model=FLASH_2_5, tools=(Tool(name="look"),), output=schema)
    outcome = read_body(sse(chunk(call("answer", {"size": 3}), finish="STOP")), turn=turn)
    assert outcome.reply is not None
    assert (outcome.reply.text, outcome.reply.finish, outcome.reply.tool_calls) == ('{"size":3}', "stop", ())


# -- how it ends ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "finish"),
    [
        ("STOP", "stop"), ("MAX_TOKENS", "length"), ("SAFETY", "content_filter"), ("RECITATION", "content_filter"),
        ("LANGUAGE", "content_filter"), ("ESCALATION", "content_filter"), ("IMAGE_RECITATION", "content_filter"),
        ("CONTINUATION", "pause"), ("OTHER", "unknown"), ("FINISH_REASON_UNSPECIFIED", "unknown"), ("NEW", "unknown"),
    ],
)  # fmt: skip
def test_a_finish_reason_after_text_has_a_neutral_word(raw: str, finish: str) -> None:
    outcome = read_body(sse(chunk(text("a"), finish=raw)))
    assert outcome.reply is not None
    assert (outcome.reply.finish, outcome.reply.finish_raw, outcome.reply.text) == (finish, raw, "a")


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        ("SAFETY", "ContentFiltered"), ("MODEL_ARMOR", "ContentFiltered"), ("IMAGE_SAFETY", "ContentFiltered"),
        ("LANGUAGE", "ContentFiltered"), ("MALFORMED_FUNCTION_CALL", "GenerationFailed"),
        ("MALFORMED_RESPONSE", "GenerationFailed"), ("UNEXPECTED_TOOL_CALL", "GenerationFailed"),
        ("TOO_MANY_TOOL_CALLS", "GenerationFailed"), ("NO_IMAGE", "GenerationFailed"),
        ("MISSING_THOUGHT_SIGNATURE", "GenerationFailed"), ("PUP_LIMITED_DISABLED", "PermissionDenied"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("whole", [True, False])
def test_a_finish_reason_without_anything_said_is_an_error(raw: str, error: str, whole: bool) -> None:
    answer = chunk(finish=raw, finishMessage="print(look())")
    outcome = read_body(json.dumps(answer).encode() if whole else sse(answer))
    assert outcome.error is not None
    assert (outcome.error["class"], outcome.error["raw"]) == (error, raw)
    assert raw == "PUP_LIMITED_DISABLED" or "print(look())" in outcome.error["what"]


def test_an_unexpected_call_is_failed_and_stays_in_the_partial_answer() -> None:
    outcome = read_body(sse(chunk(text("a"), call("gone"), finish="UNEXPECTED_TOOL_CALL")))
    assert outcome.error is not None
    assert outcome.error["class"] == "GenerationFailed"
    assert outcome.error["started"]
    assert outcome.partial is not None
    assert [made.name for made in outcome.partial.tool_calls] == ["gone"]


@pytest.mark.parametrize("whole", [True, False])
def test_a_blocked_prompt_says_why(whole: bool) -> None:
    answer: Json = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT", "blockReasonMessage": "Not that."}}
    name, what = error_of(json.dumps(answer).encode() if whole else sse(answer))
    assert name == "ContentFiltered"
    assert "Not that" in what
    assert "PROHIBITED_CONTENT" in what


def test_a_block_after_text_keeps_the_text_and_says_why() -> None:
    block: Json = {"promptFeedback": {"blockReason": "SAFETY", "blockReasonMessage": "Not that."}}
    outcome = read_body(sse(chunk(text("a")), block))
    assert outcome.reply is not None
    assert (outcome.reply.text, outcome.reply.finish) == ("a", "content_filter")
    assert "Not that." in outcome.reply.warnings[0]


def test_a_whole_answer_without_a_finish_reason_is_done_and_unknown() -> None:
    outcome = read_body(json.dumps(chunk(text("a"))).encode())
    assert outcome.reply is not None
    assert (outcome.reply.finish, outcome.reply.finish_raw) == ("unknown", "")


# -- usage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "usage"),
    [
        (COUNTS, Usage(input=5, output=2)),
        ({**COUNTS, "thoughtsTokenCount": 3, "totalTokenCount": 10}, Usage(input=5, output=5, reasoning=3)),
        ({**COUNTS, "toolUsePromptTokenCount": 4, "totalTokenCount": 11}, Usage(input=9, output=2)),
        ({**COUNTS, "cachedContentTokenCount": 4}, Usage(input=5, output=2, cache_read=4)),
        ({**COUNTS, "cachedContentTokenCount": 40}, Usage(input=5, output=2, cache_read=5)),
        ({**COUNTS, "totalTokenCount": 9}, Usage(input=5, output=4, reasoning=2)),
        ({"promptTokenCount": 5, "totalTokenCount": 5}, Usage(input=5, output=0)),
        ({"promptTokenCount": 5}, Usage(input=5)),
        ({"totalTokenCount": 5}, Usage()),
        ({"promptTokenCount": 5, "thoughtsTokenCount": 2, "totalTokenCount": 7}, Usage(input=5, output=2, reasoning=2)),
        ({"promptTokenCount": "5", "candidatesTokenCount": -1, "totalTokenCount": 2**70}, Usage()),
    ],
)  # fmt: skip
def test_usage_counts_thoughts_as_output_and_tool_prompts_as_input(counts: Json, usage: Usage) -> None:
    outcome = read_body(sse(chunk(text("a"), usage=counts, finish="STOP")))
    assert outcome.reply is not None
    assert outcome.reply.usage == usage


def test_the_last_usage_counts_and_one_that_counts_nothing_is_none() -> None:
    chunks = [
        chunk(text("a"), usage={"trafficType": "ON_DEMAND"}),
        chunk(text("b"), usage={**COUNTS, "candidatesTokenCount": 1, "totalTokenCount": 6}),
        chunk(finish="STOP", usage=COUNTS),
        {"usageMetadata": {"trafficType": "ON_DEMAND"}},
    ]
    outcome = read_body(sse(*chunks))
    assert [delta for delta in outcome.deltas if isinstance(delta, UsageDelta)] == [
        UsageDelta(Usage(input=5, output=2))
    ]

"""What the reader makes of thinking, text, calls and usage, in every form that this wire has for them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from loopforge.drivers.errors import ProviderUnavailable
from loopforge.drivers.turn import (
    Finished,
    OpaquePart,
    Reply,
    ResponseInfo,
    TextDelta,
    Thinking,
    ToolCall,
    Usage,
    UsageDelta,
)
from tests.drivers.exchanges import Outcome
from tests.drivers.minimax_native.asking import (
    GOOD,
    HI,
    USAGE,
    ZEROS,
    as_json,
    ask,
    call,
    driver_for,
    frame,
    message,
    opaque,
    read_body,
    refusal,
    sse,
    text,
    thought,
    usage_only,
)

Json = dict[str, Any]
DETAIL = {"type": "reasoning.text", "id": "reasoning-text-1", "format": "MiniMax-response-v1", "index": 0}


def reply_to(*frames: Json | str, done: bool = False) -> Reply:
    """The reply that a stream of these frames folds to, whatever the cut."""
    return reply_of(sse(*frames, done=done))


def reply_of(body: bytes) -> Reply:
    whole = read_body(body)
    for cut in (1, 7):
        assert read_body(body, cut=cut).reply == whole.reply
    assert whole.reply is not None, whole.error
    return whole.reply


# -- text and thinking ------------------------------------------------------------------------------------------------


def test_a_stream_of_text_with_what_it_says_of_itself() -> None:
    body = sse(text("hel"), text("lo", "stop"), usage_only())
    outcome = read_body(body, headers={"trace-id": "t-1"})
    assert outcome.deltas[0] == ResponseInfo("MiniMax-M2.5", "t-1", None)
    assert [delta for delta in outcome.deltas if isinstance(delta, TextDelta)] == [TextDelta("hel"), TextDelta("lo")]
    assert outcome.events == 3
    reply = reply_of(body)
    assert (reply.text, reply.finish, reply.finish_raw, reply.request_id) == ("hello", "stop", "stop", "answer-1")
    assert reply.usage == Usage(input=100, output=20, cache_read=64, reasoning=12)


@pytest.mark.parametrize(
    ("pieces", "thinking", "said", "gap"),
    [
        (["<think>\nhm\n</think>\n\nyes"], "\nhm\n", "yes", "\n\n"),
        (["<th", "ink>\nh", "m\n</", "think>", "\n", "\nyes"], "\nhm\n", "yes", "\n\n"),
        (["\n <think>hm</think>yes </think>"], "hm", "yes </think>", ""),
        (["<think>hm"], "hm", "", ""),
        (["<think>hm</thin"], "hm</thin", "", ""),
        (["<think>hm</think>\n\n"], "hm", "", "\n\n"),
    ],
)
def test_tags_at_the_very_start_are_thinking(pieces: list[str], thinking: str, said: str, gap: str) -> None:
    for body in (
        sse(*map(text, pieces), frame(finish="stop"), usage_only()),
        as_json(message("".join(pieces))),
    ):
        reply = reply_of(body)
        assert (reply.message.thinking, reply.text) == (thinking, said)
        part = reply.message.content[0]
        assert isinstance(part, Thinking)
        assert part.opaque == opaque(form="tags", gap=gap)
        assert reply.warnings == (() if said else ("empty answer",))


@pytest.mark.parametrize("said", ["<thinker>", "a <think>b</think>", "< think>", "<think"])
def test_what_is_no_tag_at_the_start_is_text(said: str) -> None:
    assert reply_to(*map(text, said), frame(finish="stop")).text == said
    assert reply_of(as_json(message(said))).text == said


def test_line_feeds_in_front_of_an_answer_are_no_part_of_it() -> None:
    assert reply_to(text("\n"), text("\n hi\n"), frame(finish="stop")).text == " hi\n"
    assert reply_to(thought("hm"), text("\n\nhi"), frame(finish="stop")).text == "hi"


def test_thinking_in_both_of_its_fields_is_read_once_and_kept_as_it_came() -> None:
    whole = message(
        "yes", reasoning_content="I think so.", reasoning_details=[{**DETAIL, "text": "I think so."}], finish="stop"
    )
    for body in (sse(thought("I think"), thought(" so."), text("yes", "stop"), usage_only()), as_json(whole)):
        reply = reply_of(body)
        assert (reply.message.thinking, reply.text) == ("I think so.", "yes")
        part = reply.message.content[0]
        assert isinstance(part, Thinking)
        assert part.opaque == opaque(form="details", items=[{**DETAIL, "text": "I think so."}])


def test_thinking_in_items_alone_is_read_from_them() -> None:
    pieces = [frame({"reasoning_details": [{**DETAIL, "text": said}]}) for said in ("I think", " so.")]
    second = frame({"reasoning_details": [{**DETAIL, "id": "reasoning-text-2", "text": "Yes."}]})
    reply = reply_to(*pieces, second, text("yes", "stop"))
    assert reply.message.thinking == "I think so.Yes."
    part = reply.message.content[0]
    assert isinstance(part, Thinking)
    assert part.opaque is not None
    assert [(item["id"], item["text"]) for item in part.opaque.data["items"]] == [
        ("reasoning-text-1", "I think so."),
        ("reasoning-text-2", "Yes."),
    ]


def test_items_without_a_text_are_kept_for_their_origin() -> None:
    sealed = {"type": "reasoning.encrypted", "data": "c2VhbGVk"}
    reply = reply_to(frame({"reasoning_details": [sealed]}), text("yes", "stop"))
    assert (reply.message.thinking, reply.text) == ("", "yes")
    kept = [part.opaque for part in reply.message.content if isinstance(part, Thinking)]
    assert kept == [opaque(form="details", items=[sealed])]


def test_thinking_in_its_text_field_alone() -> None:
    reply = reply_to(frame({"reasoning_content": "hm"}), text("yes", "stop"))
    part = reply.message.content[0]
    assert part == Thinking(text="hm", opaque=opaque(form="text"))


@pytest.mark.parametrize(
    ("pieces", "thinking"),
    [
        (["hm</think>"], "hm"),
        (["hm\n", "</th", "ink>\n", "\n"], "hm\n"),
        (["a </think> b"], "a </think> b"),
        (["a </", "b <"], "a </b <"),
    ],
)
def test_a_stray_tag_at_the_end_of_the_field_goes(pieces: list[str], thinking: str) -> None:
    reply = reply_to(*map(thought, pieces), text("yes", "stop"))
    assert (reply.message.thinking, reply.text) == (thinking, "yes")
    part = reply.message.content[0]
    assert isinstance(part, Thinking)
    assert part.opaque is not None
    assert part.opaque.data["items"][0]["text"] == "".join(pieces)  # it goes back as it came
    whole = reply_of(as_json(message("yes", reasoning_content="".join(pieces))))
    assert whole.message.thinking == thinking


def test_a_tag_in_the_content_beside_thinking_of_its_own_field_is_text() -> None:
    reply = reply_to(thought("hm"), text("<think>is a tag", "stop"))
    assert (reply.message.thinking, reply.text) == ("hm", "<think>is a tag")


def test_thinking_between_texts_and_calls_stays_in_its_place() -> None:
    reply = reply_to(
        thought("one"),
        text("first"),
        thought("two"),
        call(index=0, id="c1", type="function", function={"name": "look", "arguments": "{}"}),
        frame(finish="tool_calls"),
    )
    assert [part.type for part in reply.message.content] == ["thinking", "text", "thinking", "tool_call"]
    assert [part.text for part in reply.message.content if isinstance(part, Thinking)] == ["one", "two"]


def test_an_answer_of_thinking_alone_is_flagged_as_empty() -> None:
    for body in (sse(thought("hm", "stop"), usage_only()), as_json(message("", reasoning_content="hm"))):
        reply = reply_of(body)
        assert (reply.message.thinking, reply.text, reply.finish) == ("hm", "", "stop")
        assert reply.warnings == ("empty answer",)
    assert reply_of(as_json(message(""))).warnings == ("empty answer",)
    assert reply_to(thought("hm", "length"), usage_only()).warnings == ()


def test_content_in_parts_is_read_and_what_is_not_known_is_named() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "hologram"}, {"type": "text", "text": "b"}, 7]
    reply = reply_to(frame({"content": parts}), frame({"audio_content": "ff00"}), text("", "stop"))
    assert reply.text == "ab"
    assert [warning.split(" of the")[0] for warning in reply.warnings] == [
        "a part of type 'hologram'", "a part of type '7'", "the sound",
    ]  # fmt: skip


def test_notices_about_what_is_not_known_have_a_bound() -> None:
    odd = [frame({"content": [{"type": f"kind {number}"}]}) for number in range(100)]
    assert len(reply_to(*odd, text("x", "stop")).warnings) == 20


# -- calls ------------------------------------------------------------------------------------------------------------


def test_calls_come_in_pieces_by_index() -> None:
    reply = reply_to(
        call(index=0, id="call_function_ab_1", type="function", function={"name": "look", "arguments": '{"at'}),
        call(index=0, type="function", function={"arguments": '": 1'}),
        call(index=0, function={"arguments": "}"}),
        call(index=1, id="call_function_cd_2", type="function", function={"name": "look", "arguments": ""}),
        call("tool_calls", index=1, function={"arguments": '{"at": 2}'}),
        usage_only(),
    )
    assert [(made.id, made.arguments) for made in reply.tool_calls] == [
        ("call_function_ab_1", '{"at": 1}'),
        ("call_function_cd_2", '{"at": 2}'),
    ]
    assert (reply.finish, reply.text) == ("tool_calls", "")


def test_calls_without_an_index_are_told_apart_by_their_place() -> None:
    first = [
        {"id": name, "type": "function", "function": {"name": "look", "arguments": '{"at": '}} for name in ("a", "b")
    ]
    rest = [{"function": {"arguments": f"{number}}}"}} for number in (1, 2)]
    reply = reply_to(frame({"tool_calls": first}), frame({"tool_calls": rest}), frame(finish="tool_calls"))
    assert [(made.id, made.parsed) for made in reply.tool_calls] == [("a", {"at": 1}), ("b", {"at": 2})]


def test_whole_calls_and_the_single_one_of_old() -> None:
    calls = [
        {"id": name, "type": "function", "function": {"name": "look", "arguments": arguments}}
        for name, arguments in (("a", '{"at": 1}'), ("b", {"at": 2}), ("c", None), ("d", "{"))
    ]
    reply = reply_of(as_json(message("", "tool_calls", tool_calls=calls)))
    assert [(made.id, made.parsed, made.invalid) for made in reply.tool_calls] == [
        ("a", {"at": 1}, False),
        ("b", {"at": 2}, False),
        ("c", {}, False),
        ("d", None, True),
    ]
    old = message("", "function_call", function_call={"name": "look", "arguments": "{}"})
    for body in (as_json(old), sse(frame({"function_call": {"name": "look", "arguments": "{}"}}, "stop"))):
        reply = reply_of(body)
        assert [(made.name, made.parsed) for made in reply.tool_calls] == [("look", {})]
        assert reply.tool_calls[0].id.startswith("call_")
        assert reply.finish == "tool_calls"


@pytest.mark.parametrize(
    ("word", "finish"),
    [
        ("stop", "tool_calls"), ("tool_calls", "tool_calls"), ("length", "length"), ("new_word", "tool_calls"),
        ("content_filter", "content_filter"),
    ],
)  # fmt: skip
def test_a_finish_reason_beside_calls(word: str, finish: str) -> None:
    made = call(word, index=0, id="a", type="function", function={"name": "look", "arguments": "{}"})
    reply = reply_to(made, usage_only())
    assert (reply.finish, reply.finish_raw, len(reply.tool_calls)) == (finish, word, 1)


@pytest.mark.parametrize(
    ("word", "finish"),
    [("stop", "stop"), ("length", "length"), ("tool_calls", "stop"), ("new_word", "unknown"), ("STOP", "stop")],
)
def test_a_finish_reason_of_a_text(word: str, finish: str) -> None:
    for body in (sse(text("hi", word), usage_only()), as_json(message("hi", word))):
        reply = reply_of(body)
        assert (reply.finish, reply.finish_raw) == (finish, word)


# -- the vendor's own search ------------------------------------------------------------------------------------------

SEARCH: Json = {"id": "s1", "type": "web_search", "function": {"name": "get_search_result", "arguments": '{"q": "x"}'}}


def test_the_vendors_own_search_is_neither_a_call_nor_text_nor_an_end() -> None:
    pieces = [
        call(index=0, **{**SEARCH, "function": {"name": "get_search_result", "arguments": '{"q"'}}),
        call("tool_calls", index=0, function={"arguments": ': "x"}'}),
        {**frame({"role": "tool", "tool_call_id": "s1", "content": "hits"}, "stop"), "usage": USAGE},
        text("found"),
        text(" it", "stop"),
        usage_only(),
    ]
    reply = reply_to(*pieces)
    assert (reply.text, reply.tool_calls, reply.finish) == ("found it", (), "stop")
    kept = [part for part in reply.message.content if isinstance(part, OpaquePart)]
    assert kept == [
        OpaquePart(opaque=opaque(search=[SEARCH, {"role": "tool", "tool_call_id": "s1", "content": "hits"}]))
    ]


def test_of_several_messages_the_last_of_the_assistant_is_the_answer() -> None:
    notes = [{"text": "it", "url": "https://example.com", "quote": "…"}]
    searched = {"role": "assistant", "content": "", "tool_calls": [SEARCH]}
    hits = {"role": "tool", "tool_call_id": "s1", "content": "hits"}
    found = {"role": "assistant", "content": "found it", "annotations": notes}
    whole = message()
    whole["choices"] = [
        {"index": 0, "finish_reason": "stop", "messages": [{"role": "user", "content": "?"}, searched, hits, found]}
    ]
    for body in (as_json(whole), sse(whole)):
        reply = reply_of(body)
        assert (reply.text, reply.tool_calls, reply.finish) == ("found it", (), "stop")
        kept = [part for part in reply.message.content if isinstance(part, OpaquePart)]
        assert kept == [OpaquePart(opaque=opaque(search=[searched, hits], annotations=notes))]


def test_a_tool_of_the_client_beside_the_vendors_search_is_called() -> None:
    mine = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    reply = reply_of(as_json(message("", "tool_calls", tool_calls=[SEARCH, mine])))
    assert reply.tool_calls == (ToolCall(id="c1", name="look", arguments="{}", parsed={}),)
    assert reply.finish == "tool_calls"


# -- usage ------------------------------------------------------------------------------------------------------------


def usages(outcome: Outcome) -> list[Usage]:
    return [delta.usage for delta in outcome.deltas if isinstance(delta, UsageDelta)]


def test_a_usage_of_zeros_says_nothing_wherever_it_stands() -> None:
    zeros = [{**text("a"), "usage": ZEROS}, {**text("b", "stop"), "usage": {"total_tokens": 0, "prompt_tokens": 0}}]
    assert usages(read_body(sse(*zeros, usage_only(), {**frame(), "usage": ZEROS}))) == [
        Usage(input=100, output=20, cache_read=64, reasoning=12)
    ]
    assert usages(read_body(sse(*zeros))) == []
    assert reply_of(as_json({**message("a"), "usage": ZEROS})).usage == Usage()


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"total_tokens": 94}, Usage()),
        ({"prompt_tokens": 75, "completion_tokens": 19, "total_tokens": 94}, Usage(input=75, output=19)),
        (
            {**USAGE, "prompt_tokens_details": {"cached_tokens": 500}},
            Usage(input=100, output=20, cache_read=100, reasoning=12),
        ),
        (
            {**USAGE, "completion_tokens_details": {"reasoning_tokens": 50}},
            Usage(input=100, output=20, cache_read=64, reasoning=20),
        ),
        (
            {**USAGE, "completion_tokens_details": {"reasoning_tokens": 50}, "total_tokens": 170},
            Usage(input=100, output=70, cache_read=64, reasoning=50),
        ),
        ({"prompt_tokens": 5.0, "completion_tokens": True, "total_tokens": -1}, Usage(input=5)),
        ({"prompt_tokens": 2**60, "completion_tokens": 3, "prompt_tokens_details": 7}, Usage(output=3)),
    ],
)  # fmt: skip
def test_counts_are_read_in_neutral_accounting(counts: Json, expected: Usage) -> None:
    assert reply_to(text("a", "stop"), usage_only(**counts)).usage == expected
    assert reply_of(as_json({**message("a"), "usage": counts})).usage == expected


def test_a_later_report_replaces_an_earlier_one_and_is_not_told_twice() -> None:
    more = {**USAGE, "completion_tokens": 30}
    outcome = read_body(sse(text("a", "stop"), usage_only(), usage_only(), usage_only(**more)))
    assert [usage.output for usage in usages(outcome)] == [20, 30]


# -- odd bodies -------------------------------------------------------------------------------------------------------


def test_older_hosts_stream_lines_of_bare_json() -> None:
    lines = "\n".join(json.dumps(item) for item in (text("hel"), text("lo", "stop"), usage_only())).encode()
    for body in (lines, lines + b"\n", lines + b"\n[DONE]\n"):
        reply = reply_of(body)
        assert (reply.text, reply.usage.output) == ("hello", 20)
    assert read_body(lines).events == 3
    for frames, came in (([text("hel")], "hel"), ([text("hel"), text("lo")], "hello")):
        cut = read_body(b"".join(as_json(item) + b"\n" for item in frames))
        assert (cut.error or {})["class"] == "StreamBroken"
        assert cut.partial is not None
        assert cut.partial.text == came
    failed = read_body(b"\n".join(map(as_json, (text("a"), refusal(1033, "system error")))))
    assert ((failed.error or {})["class"], failed.partial and failed.partial.text) == ("ProviderUnavailable", "a")


def test_keep_alives_and_empty_frames_say_nothing() -> None:
    body = sse(
        ": comment", "event: ping\ndata: {}", "data: null", text("hi", "stop"), {"choices": [], "base_resp": GOOD}
    )
    assert reply_of(body).text == "hi"


def test_other_choices_than_the_first_are_left_out() -> None:
    second = {"index": 1, "delta": {"content": "other"}, "finish_reason": "length"}
    frames = [{**item, "choices": [*item["choices"], second]} for item in (text("hi"), frame(finish="stop"))]
    reply = reply_to(*frames)
    assert (reply.text, reply.finish) == ("hi", "stop")


def test_half_a_surrogate_pair_and_numbers_beyond_64_bits_do_no_harm() -> None:
    huge = thought("hm")
    huge["choices"][0]["delta"]["reasoning_details"][0]["index"] = 2**70
    reply = reply_to(huge, 'data: {"choices": [{"index": 0, "delta": {"content": "a\\ud800b"}}]}', text("", "stop"))
    assert reply.text == "a\N{REPLACEMENT CHARACTER}b"
    assert reply.message.content[0] == Thinking(text="hm", opaque=opaque(form="text"))


def test_items_that_no_request_could_carry_are_not_kept() -> None:
    odd = {**DETAIL, "id": "reasoning-text-2", "score": float("inf")}
    first = frame({"reasoning_content": "hm", "reasoning_details": [{**DETAIL, "text": "hm"}, odd]})
    part = reply_to(first, text("x", "stop")).message.content[0]
    assert part == Thinking(text="hm", opaque=opaque(form="details", items=[{**DETAIL, "text": "hm"}]))


def test_a_failure_is_told_again_and_an_end_only_once() -> None:
    reader = driver_for().new_reader(ask(HI), {})
    assert reader.feed(sse(text("hi"), refusal(1033, "system error")))
    with pytest.raises(ProviderUnavailable):
        reader.feed(b"x")
    with pytest.raises(ProviderUnavailable):
        reader.close()
    reader = driver_for().new_reader(ask(HI), {})
    reader.feed(sse(text("hi", "stop")))
    assert isinstance(reader.close()[-1], Finished)
    assert reader.close() == []
    assert reader.feed(sse(text("more"))) == []

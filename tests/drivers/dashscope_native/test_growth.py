"""Streams in which each frame repeats what came before it, asked for or not; and those that only look like it."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopforge.drivers.turn import TextDelta, Turn, user
from tests.drivers.dashscope_native.asking import KIND, Json, ask, body, fragment, message, read_body, sse

ASKED_FOR = ask(user("hello"), provider_options={KIND: {"parameters": {"incremental_output": False}}})
STOP = body(message("", finish="stop"))


def stream_of(texts: list[str], *, end: str | None = None) -> bytes:
    """Frames with these texts; the last has the finish reason, or one of its own with the text `end`."""
    frames = [body(message(text)) for text in texts]
    if end is None:
        frames[-1] = body(message(texts[-1], finish="stop"))
    else:
        frames.append(body(message(end, finish="stop")))
    return sse(*frames)


def text_of(data: bytes, turn: Turn | None = None) -> str:
    outcome = read_body(data, turn=turn)
    assert outcome.reply is not None, outcome.error
    return outcome.reply.text


@pytest.mark.parametrize(
    ("texts", "whole"),
    [
        (["he", "hello", "hello"], "hello"),
        (["he", "hello"], "hello"),
        (["1", "1,", "1, ", "1, 2", "1, 2, 3,", "1, 2, 3, 4"], "1, 2, 3, 4"),
        (["Once upon a ", "Once upon a time", "Once upon a time there"], "Once upon a time there"),
        ([*accumulate("=" * 9), "========= x"], "========= x"),
        ([*accumulate("=" * 99), "=" * 99], "=" * 99),
    ],
)
def test_a_stream_that_repeats_itself_unasked_is_seen_and_the_last_frame_counts(texts: list[str], whole: str) -> None:
    assert text_of(stream_of(texts)) == whole
    assert text_of(stream_of(texts), ASKED_FOR) == whole


@pytest.mark.parametrize(
    "texts",
    [
        ["he", "llo", ""],
        ["1", "1", ""],
        ["ha", "ha", "ha!", ""],
        ["ha", "haha", ""],
        ["a", "ab", "c", "d", ""],
        ["-", "--", "---", "", "x", ""],
        ["--------", "--------", "|", ""],
        ["Once upon a time", "", "Once upon a time", ""],
        ["\n", "\n\n", "x", ""],
        ["\u54c8"] * 5,
        [*["\u54c8"] * 99, "!", ""],
        ["00000123", "00000123", ""],
    ],
)
def test_pieces_that_begin_alike_by_chance_are_all_kept(texts: list[str]) -> None:
    assert text_of(stream_of(texts)) == "".join(texts)


def test_text_that_cannot_be_by_chance_is_handed_on_as_it_comes() -> None:
    texts = list(accumulate(["Once upon ", "a time ", "there ", "was"]))
    outcome = read_body(stream_of(texts))
    said = [delta.text for delta in outcome.deltas if isinstance(delta, TextDelta)]
    assert said == ["Once upon ", "a time ", "there ", "was"]


def test_thinking_and_calls_that_repeat_themselves_are_read_alike() -> None:
    thoughts = [body(message("", reasoning_content=text)) for text in accumulate(["Let me think ", "about ", "it."])]
    calls = [
        body(message("", reasoning_content="Let me think about it.", tool_calls=[fragment(0, "look", text, "c0")]))
        for text in accumulate(['{"at"', ': "Rome"', "}"])
    ]
    last = body(
        message(
            "",
            reasoning_content="Let me think about it.",
            tool_calls=[fragment(0, "look", '{"at": "Rome"}', "c0"), fragment(1, "point", "{}", "c1")],
            finish="tool_calls",
        )
    )
    for turn in (None, ASKED_FOR):
        outcome = read_body(sse(*thoughts, *calls, last), turn=turn)
        assert outcome.reply is not None
        assert outcome.reply.message.thinking == "Let me think about it."
        assert [(call.id, call.name, call.parsed) for call in outcome.reply.tool_calls] == [
            ("c0", "look", {"at": "Rome"}),
            ("c1", "point", {}),
        ]


def test_arguments_as_objects_are_repeated_like_their_text() -> None:
    call = {"index": 0, "id": "c", "function": {"name": "look", "arguments": {"at": "Rome"}}}
    frames = [body(message("", tool_calls=[call])), body(message("", tool_calls=[call], finish="tool_calls"))]
    outcome = read_body(sse(*frames), turn=ASKED_FOR)
    assert outcome.reply is not None
    assert [call.parsed for call in outcome.reply.tool_calls] == [{"at": "Rome"}]


def test_a_channel_that_falls_silent_in_a_repeating_stream_takes_nothing_back() -> None:
    frames = [body(message("", reasoning_content="hm")), body(message("a")), body(message("ab", finish="stop"))]
    outcome = read_body(sse(*frames), turn=ASKED_FOR)
    assert outcome.reply is not None
    assert (outcome.reply.message.thinking, outcome.reply.text) == ("hm", "ab")


def test_text_that_is_taken_back_for_good_is_a_mismatch_and_for_a_while_is_not() -> None:
    texts = ["Once upon", "Once upon a time", "Twice"]
    outcome = read_body(stream_of(texts), turn=ASKED_FOR)
    assert outcome.error is not None
    assert outcome.error["class"] == "WireMismatch"
    assert "incremental_output" in outcome.error["action"]
    assert text_of(stream_of([*texts, "Once upon a time there"]), ASKED_FOR) == "Once upon a time there"


@pytest.mark.parametrize("turn", [None, ASKED_FOR])
def test_what_was_held_back_is_kept_when_the_stream_fails(turn: Turn | None) -> None:
    frames = [body(message("he")), body(message("hello"))]
    outcome = read_body(sse(*frames, 'event:error\ndata:{"code":"InternalError","message":"?"}\n\n'), turn=turn)
    assert outcome.error is not None
    assert outcome.error["class"] == "ProviderUnavailable"
    assert outcome.partial is not None
    assert outcome.partial.text == "hello"


@pytest.mark.parametrize("own", [{"incremental_output": None}, {"incremental_output": False}])
def test_the_persons_own_fields_say_which_kind_of_stream_comes(own: Json) -> None:
    data = stream_of(["1", "1", "1"], end="1")
    turn = ask(user("hello"), provider_options={KIND: {"parameters": own}})
    assert text_of(data, turn) == "1"
    again: Any = {KIND: {"parameters": {"incremental_output": True}}}
    outcome = read_body(
        stream_of(["a", "b"], end=""), turn=ask(user("hi"), provider_options=again), extra_body={"parameters": own}
    )
    assert outcome.reply is not None
    assert outcome.reply.text == "ab"


pieces = st.lists(st.text(st.sampled_from("ab1 \n-"), max_size=4), max_size=12)


@given(pieces, st.lists(st.text(max_size=8), max_size=4))
def test_a_repeating_stream_reads_as_its_last_frame(before: list[str], after: list[str]) -> None:
    texts = [text for text in accumulate([*before, *after]) if text] or ["x"]
    assert text_of(stream_of(texts), ASKED_FOR) == texts[-1]
    growing = list(dict.fromkeys(texts))  # unasked, it is told by its growing and by ending with all of it
    assert text_of(stream_of([*growing, growing[-1]])) == texts[-1]


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=12))
def test_a_stream_of_pieces_reads_as_all_of_them(texts: list[str]) -> None:
    """With a last frame that says nothing, which none that repeats itself has; longer pieces are not left to chance."""
    assert text_of(stream_of(texts, end="")) == "".join(texts)

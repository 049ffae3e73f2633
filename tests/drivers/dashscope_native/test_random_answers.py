"""Any bytes become deltas or a DriverError, the same at every cut, and in bounded memory."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from loopforge.drivers.turn import Message, user
from loopforge.workers.packing import from_plain, to_plain
from tests.drivers.dashscope_native.asking import KIND, ask, body, driver_for, error_frame, fragment, message, sse
from tests.drivers.exchanges import Exchange, pieces, read, without_events

WORDS = st.text(max_size=8)
leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=10) | st.floats()
KEYS = st.sampled_from([
    "output", "choices", "message", "content", "text", "reasoning_content", "tool_calls", "index", "id", "function",
    "name", "arguments", "finish_reason", "usage", "input_tokens", "output_tokens", "total_tokens", "request_id",
    "prompt_tokens_details", "cached_tokens", "search_info", "search_results", "tool_info", "audio", "data", "url",
    "image", "model_name", "phase", "extra", "fininshed", "code", "error", "status_code",
])  # fmt: skip
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=15
)
finishes = st.sampled_from(["null", "null", "null", None, "stop", "length", "content_filter", "error", 7])
contents = st.one_of(
    WORDS, WORDS, st.lists(st.builds(dict, text=WORDS) | values, max_size=2), st.none(), st.sampled_from(["a", "ab"])
)
calls = st.builds(
    fragment,
    index=st.integers(0, 2),
    name=st.sampled_from(["", "look"]),
    arguments=st.sampled_from(["", "{", '{"a"', ": 1}", "{}"]),
    call_id=st.sampled_from(["", "", "c0", "c1"]),
)


@st.composite
def outputs(draw: st.DrawFn) -> Any:
    members: dict[str, Any] = {"finish": draw(finishes)}
    if draw(st.booleans()):
        members["reasoning_content"] = draw(WORDS | leaves)
    if draw(st.booleans()):
        members["tool_calls"] = draw(st.lists(calls | values, max_size=2))
    extras = draw(
        st.dictionaries(st.sampled_from(["search_info", "tool_info", "audio", "model_name"]), values, max_size=1)
    )
    research = {"phase": draw(st.sampled_from(["answer", "KeepAlive", "Plan"])), "content": draw(contents)}
    kinds = [
        message(draw(contents), **members),
        {"text": draw(contents), "finish_reason": members["finish"]},
        {"message": research, "fininshed": draw(st.booleans())},
        draw(values),
    ]
    output = kinds[draw(st.sampled_from([0, 0, 0, 0, 1, 2, 3]))]
    return {**output, **extras} if isinstance(output, dict) else output


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Nearly right answers, in any of the forms that the wire has."""
    made: list[Any] = [{**body(output), "usage": draw(values)} for output in draw(st.lists(outputs(), max_size=5))]
    made += draw(st.lists(values, max_size=1))
    odd = draw(
        st.sampled_from(["", "", error_frame("Throttling", status=429), ":ping\n", "data:{\n\n", "data:[DONE]\n\n"])
    )
    data = {
        "frames": lambda: sse(*made, odd),
        "bare": lambda: b"".join(b"data:" + json.dumps(item).encode() + b"\n" for item in made),
        "pretty": lambda: b"".join(
            b"id:1\n" + b"".join(b"data:" + line.encode() + b"\n" for line in json.dumps(item, indent=1).splitlines())
            for item in made
        ),
        "whole": lambda: json.dumps(made[0] if made else {}, indent=draw(st.sampled_from([None, 1]))).encode(),
    }[draw(st.sampled_from(["frames", "frames", "bare", "pretty", "whole"]))]()
    return data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data


@given(
    data=bodies() | st.binary(max_size=200),
    sizes=st.lists(st.integers(1, 40), max_size=30),
    repeats=st.sampled_from([True, False, False]),
)
def test_any_bytes_become_a_reply_or_a_driver_error_whatever_the_cut(
    data: bytes, sizes: list[int], repeats: bool
) -> None:
    exchange = Exchange(id="", vendor="dashscope", body=data)
    options = {KIND: {"parameters": {"incremental_output": not repeats}}}
    turn = replace(exchange.turn, provider_options=options)
    whole = read(driver_for(), exchange, turn=turn)
    assert (whole.reply is None) == (whole.error is not None)
    for cut in (pieces(data, sizes), (data[i : i + 1] for i in range(len(data)))):
        assert without_events(read(driver_for(), exchange, cut, turn)) == without_events(whole)
    if whole.reply is not None:
        assert from_plain(Message, to_plain(whole.reply.message)) == whole.reply.message


def test_a_long_stream_is_read_in_bounded_memory() -> None:
    turn = replace(ask(user("hello")), id="turn-1")
    reader = driver_for().new_reader(turn, {})
    reader.feed(sse(body(message("first "))))
    frame = sse(body(message("word "), {"input_tokens": 5, "output_tokens": 9}))
    reader.feed(frame)
    tracemalloc.start()
    try:
        for _ in range(5000):
            reader.feed(frame)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reader.events == 5002
    assert kept < 100_000


def test_a_stream_of_equal_frames_is_not_held_back_for_ever() -> None:
    reader = driver_for().new_reader(ask(user("hello")), {})
    frame = sse(body(message("-")))
    tracemalloc.start()
    try:
        deltas = sum(len(reader.feed(frame)) for _ in range(5000))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert deltas == 5001  # and the first one's ResponseInfo
    assert kept < 100_000

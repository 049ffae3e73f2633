"""Answers of any shape: each is a reply or a driver error, the same at every cut, and fits the channel."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from loopforge.drivers.turn import (
    Finished,
    PartEnd,
    Reply,
    TextDelta,
    ThinkingDelta,
)
from loopforge.workers.packing import from_plain, to_plain
from tests.drivers.anthropic.asking import driver_for
from tests.drivers.anthropic.bodies import (
    block,
    delta,
    opening,
    read_body,
    reply_of,
    said,
    signed,
    start,
    text,
    thought,
)
from tests.drivers.exchanges import Exchange, cut_differently

TEXT = {"type": "text", "text": ""}
THINKING = {"type": "thinking", "thinking": "", "signature": ""}

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from(["text", "look"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "text", "input", "id", "name", "citations", "signature"]), inner)
    ),
    max_leaves=8,
)
TYPES = st.sampled_from(["text", "thinking", "tool_use", "redacted_thinking", "server_tool_use", "new"]) | VALUES
DELTA_TYPES = st.sampled_from(
    ["text_delta", "thinking_delta", "input_json_delta", "signature_delta", "citations_delta", "new_delta"]
)
INDICES = st.integers(0, 2) | VALUES
EVENTS = st.one_of(
    st.fixed_dictionaries({"type": st.just("message_start"), "message": VALUES}),
    st.fixed_dictionaries(
        {
            "type": st.just("content_block_start"),
            "index": INDICES,
            "content_block": st.fixed_dictionaries(
                {"type": TYPES}, optional={"text": VALUES, "input": VALUES, "id": VALUES, "citations": VALUES}
            ),
        }
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("content_block_delta"),
            "index": INDICES,
            "delta": st.fixed_dictionaries(
                {"type": DELTA_TYPES | VALUES},
                optional={"text": VALUES, "partial_json": VALUES, "signature": VALUES, "citation": VALUES},
            ),
        }
    ),
    st.fixed_dictionaries({"type": st.just("content_block_stop"), "index": INDICES}),
    st.fixed_dictionaries(
        {
            "type": st.just("message_delta"),
            "delta": st.fixed_dictionaries({}, optional={"stop_reason": VALUES, "container": VALUES}) | VALUES,
            "usage": VALUES,
        }
    ),
    st.just({"type": "message_stop"}),
    st.fixed_dictionaries({"type": VALUES}),
)


@given(events=st.lists(EVENTS, max_size=12), begun=st.booleans())
@example(
    events=[{"type": []}, {"type": "content_block_delta", "index": [], "delta": {"type": [], "text": 1}}], begun=True
)
@example(
    events=[opening(0, {**TEXT, "citations": {"a": 1}}), delta(0, {"type": "citations_delta", "citation": {}})],
    begun=True,
)
def test_events_of_any_shape_fold_to_a_reply_or_a_driver_error_at_every_cut(events: list[Any], begun: bool) -> None:
    body = b"".join(f"data: {json.dumps(item)}\n\n".encode() for item in [*([start()] if begun else []), *events])
    exchange = Exchange(id="", vendor="anthropic", body=body)
    assert cut_differently(driver_for(), exchange) == []
    outcome = read_body(body)
    assert outcome.reply or outcome.error
    for item in outcome.deltas:  # all of it fits the channel
        assert to_plain(item) is not None
    if outcome.reply is not None:
        assert sum(isinstance(item, Finished) for item in outcome.deltas) == 1
        assert from_plain(Reply, to_plain(outcome.reply)) == outcome.reply


@given(body=st.binary(max_size=400), cut=st.integers(1, 40))
def test_bytes_of_any_kind_are_a_reply_or_a_driver_error(body: bytes, cut: int) -> None:
    for piece_size in (0, cut):
        outcome = read_body(body, cut=piece_size)
        assert outcome.reply or outcome.error


BLOCKS = st.fixed_dictionaries({"type": TYPES}, optional={"text": VALUES, "input": VALUES})
MEMBERS = st.sampled_from(["stop_reason", "usage", "model", "id", "container"])


@given(content=st.lists(BLOCKS, max_size=4), members=st.dictionaries(MEMBERS, VALUES))
def test_a_whole_answer_of_any_shape_is_a_reply_or_a_driver_error(content: list[Any], members: dict[str, Any]) -> None:
    message = {**start()["message"], "content": content, **members}
    outcome = read_body(json.dumps(message).encode())
    assert outcome.reply or outcome.error


@given(pieces=st.lists(st.text(max_size=6), max_size=8), thinking=st.lists(st.text(max_size=6), max_size=4))
def test_what_was_streamed_is_what_the_reply_holds(pieces: list[str], thinking: list[str]) -> None:
    body = said(block(0, THINKING, *map(thought, thinking), signed("s")), text(1, *pieces))
    outcome = read_body(body)
    joined = [
        "".join(item.text for item in outcome.deltas if isinstance(item, kind)) for kind in (ThinkingDelta, TextDelta)
    ]
    assert (
        joined == [reply_of(outcome).message.thinking, reply_of(outcome).text] == ["".join(thinking), "".join(pieces)]
    )
    assert sum(isinstance(item, PartEnd) for item in outcome.deltas) == 1 + any(pieces)

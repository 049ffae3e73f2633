"""Answers of any shape: each is a reply or a driver error, the same at every cut, and fits the channel."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from loopforge.drivers.simulator.bedrock import frame
from loopforge.drivers.turn import Finished, PartEnd, Reply, TextDelta, ThinkingDelta
from loopforge.workers.packing import from_plain, to_plain
from tests.drivers.bedrock.asking import driver_for
from tests.drivers.bedrock.bodies import START, read_body, reply_of, said, text, thinking, whole
from tests.drivers.exchanges import Exchange, cut_differently

SPECIAL = st.sampled_from(["end_turn", "aGk="])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | SPECIAL,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([
                "text", "toolUse", "input", "name", "toolUseId", "type", "reasoningContent", "signature", "citation",
                "redactedContent", "image", "source", "bytes", "p",
            ]),
            inner,
        )
    ),
    max_leaves=8,
)  # fmt: skip
INDICES = st.integers(0, 2) | VALUES
MEMBERS = st.dictionaries(
    st.sampled_from(["text", "toolUse", "reasoningContent", "citation", "image", "toolResult", "new", "p"]), VALUES
)
EVENTS = st.one_of(
    st.tuples(st.just("messageStart"), st.just({"role": "assistant"}) | VALUES),
    st.tuples(
        st.just("contentBlockStart"),
        st.fixed_dictionaries({"contentBlockIndex": INDICES, "start": MEMBERS | VALUES}),
    ),
    st.tuples(
        st.just("contentBlockDelta"),
        st.fixed_dictionaries({"contentBlockIndex": INDICES, "delta": MEMBERS | VALUES}),
    ),
    st.tuples(st.just("contentBlockStop"), st.fixed_dictionaries({"contentBlockIndex": INDICES})),
    st.tuples(st.just("messageStop"), st.fixed_dictionaries({"stopReason": VALUES})),
    st.tuples(st.just("metadata"), st.fixed_dictionaries({"usage": VALUES})),
    st.tuples(st.sampled_from(["new", "heartbeat"]), VALUES),
)


@given(
    events=st.lists(EVENTS, max_size=12), begun=st.booleans(), exception=st.sampled_from(["", "throttlingException"])
)
@example(events=[("contentBlockStart", {"start": {"toolUse": {}}, "contentBlockIndex": []})], begun=True, exception="")
@example(events=[("contentBlockDelta", {"delta": {"toolUse": {"input": 1}}, "contentBlockIndex": 0})] * 2, begun=True,
         exception="x")  # fmt: skip
def test_events_of_any_shape_fold_to_a_reply_or_a_driver_error_at_every_cut(
    events: list[Any], begun: bool, exception: str
) -> None:
    body = b"".join(
        frame("event", name, json.dumps(value).encode()) for name, value in [*([START] if begun else []), *events]
    )
    if exception:
        body += frame("exception", exception, b'{"message": "x"}')
    exchange = Exchange(id="", vendor="aws", body=body)
    assert cut_differently(driver_for(), exchange) == []
    outcome = read_body(body)
    assert outcome.reply or outcome.error
    for item in outcome.deltas:  # all of it fits the channel
        assert to_plain(item) is not None
    if outcome.reply is not None:
        assert sum(isinstance(item, Finished) for item in outcome.deltas) == 1
        assert from_plain(Reply, to_plain(outcome.reply)) == outcome.reply


@given(body=st.binary(max_size=400), cut=st.integers(1, 40), begun=st.booleans())
def test_bytes_of_any_kind_are_a_reply_or_a_driver_error(body: bytes, cut: int, begun: bool) -> None:
    body = (frame("event", "messageStart", b'{"role":"assistant"}') if begun else b"") + body
    whole_outcome = read_body(body)
    assert whole_outcome.reply or whole_outcome.error
    cut_outcome = read_body(body, cut=cut)
    assert (cut_outcome.error or {}).get("class") == (whole_outcome.error or {}).get("class")


@given(body=st.binary(max_size=60), place=st.integers(0, 400), cut=st.integers(1, 40))
def test_a_stream_with_bytes_put_over_it_is_a_reply_or_a_driver_error(body: bytes, place: int, cut: int) -> None:
    good = said(text(0, "a", "b"))
    damaged = good[:place] + body + good[place + len(body) :]
    outcome = read_body(damaged, cut=cut)
    assert outcome.reply or outcome.error


BLOCKS = MEMBERS | VALUES


@given(content=st.lists(BLOCKS, max_size=4), members=st.dictionaries(st.sampled_from(["stopReason", "usage"]), VALUES))
def test_a_whole_answer_of_any_shape_is_a_reply_or_a_driver_error(content: list[Any], members: dict[str, Any]) -> None:
    outcome = read_body(whole(*content, **{"reason": "end_turn", **members}))
    assert outcome.reply or outcome.error
    for item in outcome.deltas:
        assert to_plain(item) is not None


@given(pieces=st.lists(st.text(max_size=6), max_size=8), thoughts=st.lists(st.text(max_size=6), max_size=4))
def test_what_was_streamed_is_what_the_reply_holds(pieces: list[str], thoughts: list[str]) -> None:
    outcome = read_body(said(thinking(0, *thoughts, signature="s"), text(1, *pieces)))
    joined = [
        "".join(item.text for item in outcome.deltas if isinstance(item, kind)) for kind in (ThinkingDelta, TextDelta)
    ]
    reply = reply_of(outcome)
    assert joined == [reply.message.thinking, reply.text] == ["".join(thoughts), "".join(pieces)]
    assert sum(isinstance(item, PartEnd) for item in outcome.deltas) == 1 + any(pieces)

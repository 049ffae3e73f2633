"""Server-sent events: the grammar, every cut of the bytes, and the bound."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopforge.drivers.errors import WireMismatch
from loopforge.drivers.sse import SseEvent, SseReader

E = SseEvent


def read(body: bytes, *cuts: int, bound: int = 1 << 20) -> list[SseEvent]:
    """The events of a body cut at these places."""
    reader = SseReader(max_event_bytes=bound)
    edges = [0, *sorted(cuts), len(body)]
    events = [event for start, end in pairwise(edges) for event in reader.feed(body[start:end])]
    return events + reader.close()


@pytest.mark.parametrize(
    ("body", "events"),
    [
        (b"data: a\n\ndata: b\n\n", [E("", "a"), E("", "b")]),
        (b"data:a\n\n", [E("", "a")]),
        (b"data:  a \n\n", [E("", " a ")]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [E("", "a"), E("", "b")]),
        (b"data: a\r\rdata: b\r\r", [E("", "a"), E("", "b")]),
        (b"data: a\n\r\ndata: b\r\n\n", [E("", "a"), E("", "b")]),
        (b"data: a\ndata: b\ndata\ndata:\n\n", [E("", "a\nb\n\n")]),
        (b"event: error\ndata: a\n\ndata: b\n\n", [E("error", "a"), E("", "b")]),
        (b"event: error\n\ndata: b\n\n", [E("", "b")]),
        (b"event:a\nevent: b\ndata: x\n\n", [E("b", "x")]),
        (b": comment\n\n:\n\n: data: a\n\n", []),
        (b"id: 1\nretry: 5\nunknown: x\ndata: a\n\n", [E("", "a")]),
        (b"data\n\ndata:\n\ndata: \n\n", []),
        (b"\xef\xbb\xbfdata: a\n\n", [E("", "a")]),
        (b"data: \xef\xbb\xbfa\n\n\xef\xbb\xbfdata: b\n\n", [E("", "\ufeffa")]),
        ("data: äöü €\u2028 😀\x85x\n\n".encode(), [E("", "äöü €\u2028 😀\x85x")]),
        (b"data: \xff\xfe\n\n", [E("", "\ufffd\ufffd")]),
        (b"data: a", [E("", "a")]),
        (b"data: a\r", [E("", "a")]),
        (b"data: a\n\ndata: b\n", [E("", "a"), E("", "b")]),
        (b"Data: a\n\n data: b\n\n", []),
        (b"", []),
    ],
)
def test_events_are_read_by_the_grammar_at_every_cut(body: bytes, events: list[SseEvent]) -> None:
    assert read(body) == events
    assert read(body, *range(1, len(body))) == events
    for cut in range(1, len(body)):
        assert read(body, cut) == events


def test_an_event_is_handed_over_with_the_empty_line_even_when_that_is_a_carriage_return() -> None:
    reader = SseReader()
    assert reader.feed(b"data: a\r\n\r") == [E("", "a")]
    assert reader.feed(b"\ndata: b\r\n\r\n") == [E("", "b")]


LINES = st.lists(
    st.sampled_from([b"data: ", b"data:", b"event: x", b":c", b"id: 1", b"", b"data", b"\xf0\x9f\x98\x80", b"\xc3"])
    | st.binary(max_size=6).map(lambda data: data.replace(b"\n", b"").replace(b"\r", b"")),
    max_size=12,
)


def by_the_standard(body: bytes) -> list[SseEvent]:
    """The HTML standard's algorithm, read off line by line over the whole text; a last event needs no empty line."""
    text = body.decode("utf-8", "replace").removeprefix("\ufeff")
    events, name, data = [], "", list[str]()
    for line in [*re.split(r"\r\n|\r|\n", text), ""]:
        if line == "":
            if "\n".join(data):
                events.append(E(name, "\n".join(data)))
            name, data = "", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            data.append(value)
        elif field == "event":
            name = value
    return events


@given(lines=LINES, ends=st.lists(st.sampled_from([b"\n", b"\r", b"\r\n"]), min_size=12, max_size=12), data=st.data())
def test_any_lines_read_as_the_standard_says_at_any_cut(
    lines: list[bytes], ends: list[bytes], data: st.DataObject
) -> None:
    body = b"".join(line + end for line, end in zip(lines, ends, strict=False))
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=8))
    assert read(body, *cuts) == by_the_standard(body)


@given(body=st.binary(max_size=200), cuts=st.lists(st.integers(0, 200), max_size=8))
def test_any_bytes_read_the_same_at_any_cut(body: bytes, cuts: list[int]) -> None:
    assert read(body, *(min(cut, len(body)) for cut in cuts)) == read(body)


# -- the bound --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 50, 1000])
@pytest.mark.parametrize(
    "body",
    [
        b"data: a\n\ndata: " + b"x" * 100,
        b"data: a\n\n" + b"x" * 101 + b"\n\ndata: b\n\n",
        b"data: a\n\n" + b"data: xxxxxxxxx\n" * 12,
    ],
    ids=["a line without end", "a long line", "many lines in one event"],
)
def test_too_large_an_event_is_refused_after_those_before_it(body: bytes, size: int) -> None:
    reader, events = SseReader("acme", max_event_bytes=100), list[SseEvent]()

    def feed_all() -> None:
        for start in range(0, len(body), size):
            events.extend(reader.feed(body[start : start + size]))
        events.extend(reader.close())

    with pytest.raises(WireMismatch, match=r"acme: .*larger than 100 bytes"):
        feed_all()
    assert events == [E("", "a")]
    with pytest.raises(WireMismatch):
        reader.feed(b"data: b\n\n")


@pytest.mark.parametrize("line", [b"data\n", b"data:\n", b"data: x\n"])
def test_lines_cost_more_than_their_characters(line: bytes) -> None:
    reader = SseReader(max_event_bytes=64_000)
    assert reader.feed(line * 900) == []
    with pytest.raises(WireMismatch):
        reader.feed(line * 200)


def test_the_bound_is_on_one_event_and_not_on_the_stream() -> None:
    body = b"data: " + b"x" * 94 + b"\n\n"
    assert read(body * 50, bound=100) == [E("", "x" * 94)] * 50
    assert read(b": " + b"c" * 90 + b"\n" * 50, bound=100) == []

"""A body is read as what it is, however it is cut and whatever was asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopforge.drivers.answer_body import AnswerBody
from loopforge.drivers.errors import StreamBroken, WireMismatch

EVENTS = b'event: a\ndata: {"n": 1}\n\n: comment\n\ndata: two\n\ndata: last'
BOM = b"\xef\xbb\xbf"


def read(body: bytes, cut: int = 0, **options: Any) -> tuple[AnswerBody, list[tuple[str, str]]]:
    reader = AnswerBody("acme", **options)
    pieces = [body[i : i + cut] for i in range(0, len(body), cut)] if cut else [body]
    events = [event for piece in pieces for event in reader.feed(piece)]
    return reader, [(name, data) for name, data in [*events, *reader.close()]]


@pytest.mark.parametrize("cut", [0, 1, 2, 7])
@pytest.mark.parametrize("lead", [b"", b"\n \r\n\n", BOM, BOM + b"\n", BOM + b"\n" + BOM])
def test_events_are_events_whatever_blank_stands_before_them(lead: bytes, cut: int) -> None:
    reader, events = read(lead + EVENTS, cut)
    assert events == [("a", '{"n": 1}'), ("", "two"), ("", "last")]
    assert (reader.form, reader.json_pieces) == ("events", 0)


@pytest.mark.parametrize("cut", [0, 1, 2, 7])
@pytest.mark.parametrize("lead", [b"", b"\n \r\n\n", BOM])
@pytest.mark.parametrize("value", [{"a": [1, "é"]}, [{"b": 2}]])
def test_json_is_kept_until_it_is_whole(value: Any, lead: bytes, cut: int) -> None:
    reader, events = read(lead + json.dumps(value, ensure_ascii=False).encode() + b"\n", cut)
    assert (reader.form, events) == ("json", [])
    assert reader.take_json() == value


def test_each_piece_of_json_that_is_not_blank_counts() -> None:
    reader = AnswerBody("acme")
    for piece in (b"\n", b"  \n", b'{"choices"', b"\n", b": 1}"):
        reader.feed(piece)
    assert reader.json_pieces == 2


@pytest.mark.parametrize(
    ("body", "error"),
    [(b'{"a": "b', StreamBroken), (b'{"a": 1} {"b": 2}', WireMismatch), (b"[" * 300 + b"]" * 300, WireMismatch)],
)
def test_what_is_not_whole_or_no_json_says_so(body: bytes, error: type[Exception]) -> None:
    reader, _ = read(body)
    with pytest.raises(error):
        reader.take_json()


@pytest.mark.parametrize(
    ("body", "error", "says"),
    [
        (b"", StreamBroken, "before the answer began"),
        (b" \n", StreamBroken, "before the answer began"),
        (b": ping\n\n: ping\n\n", StreamBroken, "before the answer began"),
        (b"event: a\n\n", StreamBroken, "before the answer began"),
        (b"<html>Sign in</html>", WireMismatch, "neither JSON nor a stream: <html>"),
        (b"upstream error", WireMismatch, "upstream error"),
    ],
)
def test_a_body_without_an_event_is_cut_or_something_else(body: bytes, error: type[Exception], says: str) -> None:
    for cut in (0, 1, 5):
        reader, events = read(body, cut)
        assert events == []
        found = reader.nothing_came()
        assert type(found) is error
        assert says in str(found)


def test_json_beyond_the_bound_is_refused_before_it_is_kept() -> None:
    reader = AnswerBody("acme", max_json_bytes=100)
    reader.feed(b"[" + b"1," * 49)
    with pytest.raises(WireMismatch, match="larger than 100 bytes"):
        reader.feed(b"1," * 10)


@given(body=st.binary(max_size=200), cut=st.integers(1, 50))
def test_the_cut_changes_nothing(body: bytes, cut: int) -> None:
    (whole, events), (pieces, same) = read(body), read(body, cut)
    assert (whole.form, events) == (pieces.form, same)
    assert str(whole.nothing_came()) == str(pieces.nothing_came())


@pytest.mark.parametrize("cut", [0, 1, 2, 7])
@pytest.mark.parametrize("lead", [b"", b"\n", BOM])
def test_lines_of_json_are_events_for_a_wire_that_knows_them(lead: bytes, cut: int) -> None:
    body = lead + b'{"n": 1}\n\n{"n": "\xc3\xa9"}\r\n[DONE]\n {"last": '
    reader, events = read(body, cut, json_lines=True)
    assert reader.form == "lines"
    assert events == [("", '{"n": 1}'), ("", '{"n": "é"}'), ("", "[DONE]"), ("", '{"last":')]


def test_the_first_line_comes_with_the_first_byte_of_the_second() -> None:
    reader = AnswerBody("acme", json_lines=True)
    assert reader.feed(b'{"n": 1}\n') == []
    assert reader.feed(b"{") == [("", '{"n": 1}')]
    assert reader.feed(b'"n": 2}') == []
    assert reader.close() == [("", '{"n": 2}')]


@pytest.mark.parametrize("cut", [0, 1, 2, 7])
@pytest.mark.parametrize("indent", [None, 1])
def test_one_json_text_is_no_lines_however_many_it_is_on(indent: int | None, cut: int) -> None:
    value = {"a": {"b": [1, 2]}}
    reader, events = read(json.dumps(value, indent=indent).encode() + b"\n\n", cut, json_lines=True)
    assert (reader.form, events) == ("json", [])
    assert reader.take_json() == value


def test_a_line_of_json_has_a_bound_and_the_lines_together_have_none() -> None:
    line = b'{"n": 123456789}\n'
    reader, events = read(line * 10, 8, max_json_bytes=50, json_lines=True)
    assert (reader.form, len(events)) == ("lines", 10)
    with pytest.raises(WireMismatch, match="larger than 50 bytes"):
        read(line * 2 + b"{" * 60, 8, max_json_bytes=50, json_lines=True)

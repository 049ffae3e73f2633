"""Frames of a stream: the grammar, every cut of the bytes, and the bound."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopforge.drivers.dashscope_native.frames import Frame, FrameReader
from loopforge.drivers.errors import WireMismatch

F = Frame


def read(body: bytes, *cuts: int, bound: int = 1 << 20) -> list[Frame]:
    """The frames of a body cut at these places."""
    reader = FrameReader(max_frame_bytes=bound)
    edges = [0, *sorted(cuts), len(body)]
    frames = [frame for start, end in pairwise(edges) for frame in reader.feed(body[start:end])]
    return frames + reader.close()


@pytest.mark.parametrize(
    ("body", "frames"),
    [
        (b"id:1\nevent:result\n:HTTP_STATUS/200\ndata:{1}\n\n", [F("result", 200, "{1}")]),
        (b"data:{1}\n\ndata: {2}\n\n", [F("", 0, "{1}"), F("", 0, "{2}")]),
        (b"data:{1}\ndata:{2}\n", [F("", 0, "{1}"), F("", 0, "{2}")]),
        (b"event: error\n:HTTP_STATUS/400\ndata:{1}\ndata:{2}\n", [F("error", 400, "{1}"), F("", 0, "{2}")]),
        (b"event:error\n\ndata:{1}\n\n", [F("", 0, "{1}")]),
        (b":HTTP_STATUS/400\nid:2\ndata:{1}\n\n", [F("", 0, "{1}")]),
        (b":HTTP_STATUS/400\nevent:error\ndata:{1}\n\n", [F("error", 400, "{1}")]),
        (b":HTTP_STATUS/9999\ndata:{1}\n\n", [F("", 0, "{1}")]),
        (b":HTTP_STATUS/x\n: ping\n:\n\n\n", []),
        (b"event:result\ndata:{\ndata:1\ndata:}\n\n", [F("result", 0, "{\n1\n}")]),
        (b"event:a\ndata:{\ndata:{1}\nid:2\nevent:b\ndata:{2}\n", [F("a", 0, "{\n{1}"), F("b", 0, "{2}")]),
        (b"event:a\ndata:{\nevent:b\ndata:{2}\n\n", [F("a", 0, "{"), F("b", 0, "{2}")]),
        (b"data:[DONE]\n\n", [F("", 0, "[DONE]")]),
        (b"data:{1} \n\ndata:\ndata: \n\n", [F("", 0, "{1} ")]),
        (b"data:{1}", [F("", 0, "{1}")]),
        (b"data:{1", [F("", 0, "{1")]),
        (b"\xef\xbb\xbfdata:{1}\r\n\r\ndata:{2}\r\rdata:{3}\r\n", [F("", 0, "{1}"), F("", 0, "{2}"), F("", 0, "{3}")]),
        (b"data:{\xff}\n\n", [F("", 0, "{\ufffd}")]),
        (b"id\nretry:5\nunknown:x\ndata\n\n", []),
        (b"", []),
    ],
)
def test_frames_are_read_by_the_grammar_at_every_cut(body: bytes, frames: list[Frame]) -> None:
    assert read(body) == frames
    assert read(body, *range(1, len(body))) == frames
    for cut in range(1, len(body)):
        assert read(body, cut) == frames


def test_a_frame_is_handed_over_with_its_line_and_not_with_an_empty_one() -> None:
    reader = FrameReader()
    assert reader.feed(b"id:1\nevent:result\ndata:{1}") == []
    assert reader.feed(b"\n") == [F("result", 0, "{1}")]


LINES = st.sampled_from(
    [b"data:{1}", b"data: {", b"data:}", b"event:error", b":HTTP_STATUS/500", b":ping", b"id:7", b"", b"data:\xf0\x9f"]
)


@given(
    lines=st.lists(LINES, max_size=12),
    ends=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    cuts=st.lists(st.integers(0, 200), max_size=6),
)
def test_where_the_bytes_are_cut_changes_nothing(lines: list[bytes], ends: bytes, cuts: list[int]) -> None:
    body = ends.join(lines)
    assert read(body, *(min(cut, len(body)) for cut in cuts)) == read(body)
    assert sum(frame.data.count("{1}") for frame in read(body)) == lines.count(b"data:{1}")


@pytest.mark.parametrize(
    "tail", [b"data:{" + b"x" * 100 + b"}\n", b"data:" + b"x" * 100, b"data:{\n" * 3, b":" + b"x" * 100]
)
@pytest.mark.parametrize("whole", [True, False])
def test_frames_before_one_that_is_too_large_are_handed_over_first(tail: bytes, whole: bool) -> None:
    body = b"data:{1}\n\n" + tail
    reader = FrameReader("acme", max_frame_bytes=70)
    pieces = [body] if whole else [body[i : i + 1] for i in range(len(body))]
    frames = []
    with pytest.raises(WireMismatch, match="larger than 70 bytes"):  # noqa: PT012 - whichever piece it is
        for piece in pieces:
            frames += reader.feed(piece)
        reader.close()
    assert frames == [F("", 0, "{1}")]
    with pytest.raises(WireMismatch):
        reader.feed(b"data:{2}\n")

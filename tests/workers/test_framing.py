"""workers/framing.py: frames survive every cut of the stream, and what is no frame is refused before it is stored."""

from __future__ import annotations

import itertools
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopforge.workers.framing import (
    HEAD_BYTES,
    MAX_FRAME_BYTES,
    MAX_HEADER_BYTES,
    Frame,
    FrameError,
    Framer,
    encode,
    renumber,
)
from loopforge.workers.messages import FrameType

frames_of_any_content = st.builds(
    encode,
    st.integers(1, 63),
    st.integers(0, 2**64 - 1),
    attempt=st.integers(0, 2**16 - 1),
    seq=st.integers(0, 2**32 - 1),
    flags=st.integers(0, 255),
    header=st.binary(max_size=40),
    body=st.binary(max_size=80) | st.integers(0, 9000).map(bytes),
)


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[start:stop] for start, stop in itertools.pairwise(places)]


def feed_all(framer: Framer, parts: list[bytes]) -> tuple[list[Frame], str]:
    """The frames that came, and the error that ended the stream, "" for a clean end."""
    frames: list[Frame] = []
    try:
        for part in parts:
            frames += framer.feed(part)
        framer.close()
    except FrameError as exc:
        return frames, str(exc)
    return frames, ""


@given(st.lists(frames_of_any_content, max_size=8), st.lists(st.integers(0, 2**20), max_size=12))
def test_frames_do_not_depend_on_where_the_bytes_were_cut(sent: list[bytes], cuts: list[int]) -> None:
    frames, error = feed_all(Framer(), pieces(b"".join(sent), cuts))
    assert [frame.raw for frame in frames] == sent
    assert error == ""


@given(st.lists(frames_of_any_content, max_size=3))
def test_frames_survive_one_byte_at_a_time(sent: list[bytes]) -> None:
    stream = b"".join(sent)
    frames, error = feed_all(Framer(), [stream[at : at + 1] for at in range(len(stream))])
    assert ([frame.raw for frame in frames], error) == (sent, "")


@given(
    kind=st.integers(1, 63),
    turn=st.integers(0, 2**64 - 1),
    attempt=st.integers(0, 2**16 - 1),
    seq=st.integers(0, 2**32 - 1),
    flags=st.integers(0, 255),
    header=st.binary(max_size=300),
    body=st.binary(max_size=300),
)
def test_a_frame_holds_what_was_encoded(
    *, kind: int, turn: int, attempt: int, seq: int, flags: int, header: bytes, body: bytes
) -> None:
    (frame,) = Framer().feed(encode(kind, turn, attempt=attempt, seq=seq, flags=flags, header=header, body=body))
    assert (frame.type, frame.turn, frame.attempt, frame.seq, frame.flags) == (kind, turn, attempt, seq, flags)
    assert (frame.header, frame.body) == (header, body)


def test_the_layout_is_the_documented_one() -> None:
    raw = encode(
        FrameType.DELTA, 0x0102030405060708, attempt=0x090A, seq=0x0B0C0D0E, flags=0x0F, header=b"h", body=b"bb"
    )
    assert raw == bytes.fromhex("00000015 07 0f 0001 0102030405060708 090a 0b0c0d0e") + b"hbb"
    assert len(raw) == HEAD_BYTES + 3


@given(frames_of_any_content, st.integers(0, 2**64 - 1))
def test_renumbering_changes_the_turn_number_alone(raw: bytes, turn: int) -> None:
    (before,), (after,) = Framer().feed(raw), Framer().feed(renumber(raw, turn))
    assert after.turn == turn
    assert renumber(after.raw, before.turn) == raw
    assert (after.header, after.body, after.type, after.attempt, after.seq) == (
        before.header,
        before.body,
        before.type,
        before.attempt,
        before.seq,
    )


@pytest.mark.parametrize(
    "numbers",
    [{"turn": 2**64}, {"turn": -1}, {"attempt": 2**16}, {"seq": 2**32}, {"flags": 256}],
    ids=lambda numbers: next(iter(numbers)),
)
def test_a_number_too_large_for_its_place_is_refused_when_encoding(numbers: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="a frame cannot hold"):
        encode(FrameType.DELTA, **numbers)  # type: ignore[arg-type]  # mypy cannot tell int options from bytes ones


def test_a_header_too_large_for_its_place_is_refused_when_encoding() -> None:
    assert len(encode(FrameType.ERROR, header=bytes(MAX_HEADER_BYTES))) == HEAD_BYTES + MAX_HEADER_BYTES
    with pytest.raises(ValueError, match="a header of 65536 bytes"):
        encode(FrameType.ERROR, header=bytes(MAX_HEADER_BYTES + 1))


GARBAGE = {
    "HTTP": (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", "this is HTTP"),
    "an HTTP response": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "this is HTTP"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "this is HTTP"),
    "TLS": (bytes.fromhex("160301020001000001fc0303") + bytes(40), "this is a TLS handshake"),
    "SSH": (b"SSH-2.0-OpenSSH_9.2\r\n", "this is SSH"),
    "zeros": (bytes(64), "the fixed part alone has 18"),
    "one byte too short": ((17).to_bytes(4, "big") + bytes(40), "a frame of 17 bytes was announced"),
    "too large": (b"\xff" * 30, "a frame of 4294967295 bytes was announced, at most 34603008"),
    "type 0": (encode(0, body=b"body"), "the head .* is none of ours"),
    "type 64": (encode(64, body=b"body"), "the head .* is none of ours"),
    "a header longer than its frame": (b"\0\0\0\x14\x07\0\0\x03" + bytes(40), "a header longer than its frame"),
}


@pytest.mark.parametrize(("garbage", "named"), GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize("cut", [1, 3, 4, 5, 9, 10_000])
@pytest.mark.parametrize("before", [0, 2])
def test_what_is_no_frame_is_named_and_costs_no_frame_before_it(
    garbage: bytes, named: str, cut: int, before: int
) -> None:
    good = [encode(FrameType.PING, number) for number in range(before)]
    stream = b"".join(good) + garbage
    frames, error = feed_all(Framer(), [stream[at : at + cut] for at in range(0, len(stream), cut)])
    assert [frame.raw for frame in frames] == good
    with pytest.raises(FrameError, match=named):
        raise FrameError(error)


@pytest.mark.parametrize(("garbage", "named"), GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize("first", [1, 3, 4, 5, 7])
def test_a_bad_head_in_two_pieces_is_refused_even_when_its_frame_comes_with_the_second(
    garbage: bytes, named: str, first: int
) -> None:
    _, error = feed_all(Framer(), [garbage[:first], garbage[first:]])
    with pytest.raises(FrameError, match=named):
        raise FrameError(error)


@given(st.binary(min_size=1, max_size=60), st.lists(st.integers(0, 2**20), max_size=6))
def test_any_bytes_end_the_same_at_every_cut(stream: bytes, cuts: list[int]) -> None:
    whole, whole_error = feed_all(Framer(max_frame_bytes=64), [stream])
    cut, cut_error = feed_all(Framer(max_frame_bytes=64), pieces(stream, cuts))
    assert [frame.raw for frame in cut] == [frame.raw for frame in whole]
    assert bool(cut_error) == bool(whole_error)


@pytest.mark.parametrize("cut", [1, 4, 21, 22, 23, 121])
def test_a_torn_frame_is_told_at_the_end(cut: int) -> None:
    framer = Framer()
    assert framer.feed(encode(FrameType.DELTA, 1, body=bytes(100))[:cut]) == []
    with pytest.raises(FrameError, match=f"inside a frame: {cut} bytes"):
        framer.close()


def test_a_frame_of_exactly_the_bound_passes_and_one_byte_more_does_not() -> None:
    fixed = HEAD_BYTES - 4
    assert len(Framer(max_frame_bytes=fixed + 10).feed(encode(FrameType.DELTA, body=bytes(10)))) == 1
    with pytest.raises(FrameError, match="at most 28"):
        Framer(max_frame_bytes=fixed + 10).feed(encode(FrameType.DELTA, body=bytes(11))[:4])


def test_an_announced_length_reserves_no_memory() -> None:
    head = encode(FrameType.DELTA, body=bytes(1))
    announced = (MAX_FRAME_BYTES).to_bytes(4, "big") + head[4:]
    tracemalloc.start()
    framers = [Framer() for _ in range(20)]
    for framer in framers:
        framer.feed(announced)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_a_big_frame_in_small_pieces_costs_no_more_than_a_few_copies() -> None:
    body = bytes(4_000_000)
    raw = encode(FrameType.SUBMIT, 1, body=body)
    framer = Framer()
    tracemalloc.start()
    frames = [frame for at in range(0, len(raw), 1000) for frame in framer.feed(raw[at : at + 1000])]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [frame.raw for frame in frames] == [raw]
    assert peak < 3 * len(raw)


def test_a_frame_shows_no_content_in_a_log() -> None:
    (frame,) = Framer().feed(encode(FrameType.SUBMIT, 1, header=b"secret", body=b"secret"))
    assert "secret" not in repr(frame)

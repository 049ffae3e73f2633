"""A turn written as JSON: what is short is written out, what is wrong is named with its place."""

from __future__ import annotations

import base64
import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopforge.drivers.turn import Image, Message, Text, ToolResult, Turn, system, user
from loopforge.runtime.errors import BadTurn
from loopforge.runtime.turn_json import read_turn
from loopforge.workers.packing import to_plain
from tests.runtime.any_value import any_of

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


def read(value: Any, folder: Path = Path("/nowhere"), **defaults: Any) -> Turn:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return read_turn(data, source="turn.json", folder=folder, defaults=defaults)


def problem(value: Any, folder: Path = Path("/nowhere")) -> str:
    with pytest.raises(BadTurn) as caught:
        read(value, folder)
    return caught.value.what


def messages(*content: Any) -> dict[str, Any]:
    return {"kind": "planning", "messages": [{"role": "user", "content": list(content)}]}


def test_text_stands_for_a_list_of_one_text_part() -> None:
    written = {
        "kind": "coding",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": ["a", "b"]}],
    }
    assert read(written) == Turn(kind="coding", messages=(system("Be brief."), user("a", "b")))


def test_text_stands_for_parts_in_a_tool_result_too() -> None:
    result = {"type": "tool_result", "call_id": "c1", "content": "42"}
    turn = read({"kind": "coding", "messages": [{"role": "tool", "content": [result]}]})
    assert turn.messages[0].content == (ToolResult(call_id="c1", content=(Text(text="42"),)),)


def test_members_left_out_come_from_the_defaults_and_those_given_stay() -> None:
    assert read({}, kind="planning", messages=[]) == Turn(kind="planning", messages=())
    assert read({"kind": "coding", "messages": []}, kind="planning").kind == "coding"


def test_an_image_is_read_from_beside_the_turn_and_its_type_recognised(tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(PNG)  # the name is wrong, the content decides
    turn = read(messages({"type": "image", "data": {"path": "cat.jpg"}}), tmp_path)
    assert turn.messages[0].content == (Image(data=PNG, media_type="image/png"),)


def test_an_image_as_base64_text_is_recognised_as_well() -> None:
    turn = read(messages({"type": "image", "data": base64.b64encode(PNG).decode()}))
    assert turn.messages[0].content == (Image(data=PNG, media_type="image/png"),)


@pytest.mark.parametrize(
    ("start", "kind", "media_type"),
    [
        (b"\xff\xd8\xff\xe0", "image", "image/jpeg"),
        (b"GIF89a", "image", "image/gif"),
        (b"RIFF\x01\x02\x03\x04WEBP", "image", "image/webp"),
        (b"%PDF-1.7", "document", "application/pdf"),
        (b"RIFF\x01\x02\x03\x04WAVE", "audio", "audio/wav"),
        (b"ID3\x04", "audio", "audio/mpeg"),
    ],
)
def test_media_types_are_recognised_by_their_first_bytes(start: bytes, kind: str, media_type: str) -> None:
    data = base64.b64encode(start + bytes(20)).decode()
    part: Any = read(messages({"type": kind, "data": data})).messages[0].content[0]
    assert part.media_type == media_type


def test_a_text_document_is_recognised_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    part: Any = read(messages({"type": "document", "data": {"path": "notes.txt"}}), tmp_path).messages[0].content[0]
    assert (part.media_type, part.data) == ("text/plain", b"hello")


def test_a_media_type_that_is_written_is_believed() -> None:
    part: Any = read(messages({"type": "image", "data": "AAAA", "media_type": "image/x"})).messages[0].content[0]
    assert part.media_type == "image/x"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"\xff{}", "not UTF-8 text: byte 0xff at offset 0"),
        (b'{"kind": "a",}', "line 1, column 14: not JSON"),
        (b"", "line 1, column 1: not JSON"),
        (b"[]", "write an object here, not []"),
        (b'{"kind": "a", "kind": "b"}', "the member 'kind' stands twice"),
        (b'{"kind": "a", "messages": [], "top_p": NaN}', "NaN is no JSON"),
        (b'{"kind": "a", "messages": [], "seed": 99999999999999999999}', "does not fit into 64 bits"),
        (b'{"kind": "a", "messages": [], "seed": 1%s}' % (b"0" * 5000), "does not fit into 64 bits"),
        (b'{"kind": "\\ud800", "messages": []}', "kind: \\ud800 is half a character"),
        (b'{"kind": "a", "messages": [{"role": "user", "content": "\\uDBFF!"}]}', "messages[0].content: \\udbff"),
        (b"[" * 100_000, "nested too deeply"),
        ({"messages": []}, "the member 'kind' is missing"),
        ({"kind": "a"}, "the member 'messages' is missing"),
        ({"kind": "a", "mesages": []}, "mesages: no such member; did you mean 'messages'?"),
        ({"kind": "a", "messages": {}}, "messages: write a list here"),
        ({"kind": "a", "messages": ["hi"]}, "messages[0]: write an object here, not 'hi'"),
        ({"kind": "a", "messages": [{"role": "usr"}]}, "messages[0].role: 'usr' is not one of"),
        (messages({"type": "txt", "text": "x"}), "messages[0].content[0].type: 'txt' is not one of"),
        (messages({"type": "text", "text": 1}), "messages[0].content[0].text: write text here, not 1"),
        (messages({"type": "image", "data": "!"}), "messages[0].content[0].data: not base64"),
        (messages({"type": "image", "data": "é"}), "messages[0].content[0].data: not base64"),
        (messages({"type": "image", "data": 7}), "messages[0].content[0].data: write base64 text here"),
        (messages({"type": "image", "data": {"file": "x"}}), 'write base64 text here, or {"path": "FILE"}'),
        (messages({"type": "image", "path": "cat.png"}), 'write "data": {"path": "cat.png"}'),
        (messages({"type": "image", "data": {"path": "a\0b"}}), "data.path: no name of a file"),
        (messages({"type": "image", "data": "AAAA"}), "media_type: not recognised; write it, such as image/png"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_wrong_is_named_with_its_place(value: Any, said: str) -> None:
    told = problem(value)
    assert told.startswith("turn.json: ")
    assert said in told


def test_files_that_cannot_be_sent_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "notes.txt").write_text("no image")
    for name, said in [
        ("missing.png", f"there is no file {tmp_path}/missing.png"),
        ("empty.png", "empty"),
        ("folder", "not a file"),
        ("pipe", "not a file"),
        ("notes.txt/x", "Not a directory"),
    ]:
        told = problem(messages({"type": "image", "data": {"path": name}}), tmp_path)
        assert told.startswith("turn.json: messages[0].content[0].data.path: ")
        assert said in told
    told = problem(messages({"type": "image", "data": {"path": "notes.txt"}}), tmp_path)
    assert told == "turn.json: messages[0].content[0].media_type: not recognised; write it, such as image/png"


def test_a_file_larger_than_any_turn_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(40 * 2**20)
    assert "larger than 32 MiB" in problem(messages({"type": "image", "data": {"path": "huge.png"}}), tmp_path)


@given(
    any_of(Turn, messages=st.lists(any_of(Message, content=st.builds(lambda t: (Text(text=t),), st.text()))).map(tuple))
)
def test_any_turn_written_as_json_is_read_back(turn: Turn) -> None:
    plain = to_plain(turn, defaults=True, text_bytes=True)
    try:
        text = json.dumps(plain, allow_nan=False)
        text.encode().decode()
    except ValueError:  # NaN: no JSON, refused above
        return
    assert read(text.encode()) == turn


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_no_bytes_make_it_raise_anything_but_bad_turn(data: bytes) -> None:
    with contextlib.suppress(BadTurn):
        read(data, kind="planning", messages=[])


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["type", "content", "data", "path", "role", "text"]), inner, max_size=4)
        ),
    )
)
def test_no_shape_of_messages_makes_it_raise_anything_but_bad_turn(value: Any) -> None:
    for written in (
        {"messages": value},
        {"messages": [value]},
        messages(value),
        messages({"type": "image", "data": value}),
    ):
        with contextlib.suppress(BadTurn):
            read(written, kind="planning")

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from loopforge.drivers.turn import Audio, Document, Image, Message, Tool, ToolResult, Turn, assistant, user
from loopforge.runtime.submission import submit_header

PNG = Image(data=b"\x89PNG", media_type="image/png")
PDF = Document(data=b"%PDF", media_type="application/pdf")
LOOK = Tool(name="look")


def features(*messages: Message, **members: Any) -> set[str]:
    turn = Turn(id="t", kind="coding", messages=messages, **members)
    return set(msgpack.unpackb(submit_header(turn, b"body"))["features"])


def test_media_of_the_last_question_is_told_from_older_media() -> None:
    assert features(user("hi")) == set()
    assert features(user("what?", PNG)) == {"images", "new images"}
    assert features(user("what?", PNG), assistant("A cat."), user("Why?")) == {"images"}


def test_what_a_tool_gives_is_no_question() -> None:
    result = Message(role="tool", content=(ToolResult(call_id="c", content=(PNG, PDF)),))
    assert features(user("hi"), assistant("..."), result) == {"images", "documents"}


@pytest.mark.parametrize(
    ("part", "new"),
    [
        (PDF, {"new documents"}),
        (Document(url="https://example.com/a.txt", media_type="text/plain"), {"new documents"}),
        (Document(data=b"a,b", media_type="text/csv"), set()),
        (Audio(data=b"RIFF", media_type="audio/wav"), {"new audio"}),
        (Audio(data=b"RIFF", media_type="audio/wav", transcript="hello"), set()),
    ],
)
def test_what_can_go_as_text_is_nothing_new(part: Any, new: set[str]) -> None:
    assert {feature for feature in features(user(part)) if feature.startswith("new")} == new


def test_tools_that_may_not_be_called_are_asked_of_nobody() -> None:
    assert features(user("hi"), tools=(LOOK,)) == {"tools"}
    assert features(user("hi"), tools=(LOOK,), tool_choice="none") == set()

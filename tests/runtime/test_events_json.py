"""Events as JSON lines: every event has its line, nothing of it is lost, and the members that scripts use stay."""

from __future__ import annotations

import json
import math
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopforge.drivers.errors import RateLimited, TurnError, WorkerLost
from loopforge.drivers.turn import (
    Accepted,
    Cancelled,
    Done,
    Event,
    Failed,
    Gap,
    Message,
    Opaque,
    PartEnd,
    Reply,
    Restarted,
    Started,
    TextDelta,
    ToolCall,
    ToolCallEnd,
    WholePart,
    assistant,
)
from loopforge.drivers.turn import Image as Picture
from loopforge.runtime.errors import QueueFull
from loopforge.runtime.events_json import event_line, event_to_json
from loopforge.workers.packing import from_plain
from tests.runtime.any_value import TEXT, any_of, any_value

EVENT_TYPES: tuple[type, ...] = get_args(Event)

ERRORS = st.builds(
    lambda cls, what, wait_s, partial: cls("cloud", what, retry_after_s=wait_s, partial=partial),
    st.sampled_from([TurnError, RateLimited, QueueFull, WorkerLost]),
    TEXT,
    st.none() | st.floats(),
    st.none() | any_of(Message),
)
EVENTS: st.SearchStrategy[Any] = st.one_of(
    [any_of(Failed, error=ERRORS) if cls is Failed else any_of(cls) for cls in EVENT_TYPES]
)


def refuse(text: str) -> None:
    raise AssertionError(f"{text} is not in JSON")


@given(EVENTS)
def test_every_event_is_one_line_of_strict_ascii_json(event: Event) -> None:
    line = event_line(event)
    assert line.isascii()
    assert line.endswith("\n")
    assert len(line.splitlines()) == 1
    plain = json.loads(line, parse_constant=refuse)
    assert next(iter(plain)) == "event"
    assert plain == json.loads(json.dumps(event_to_json(event)))


def test_no_two_types_of_event_share_a_name() -> None:
    @given(st.tuples(*[any_of(Failed, error=ERRORS) if cls is Failed else any_of(cls) for cls in EVENT_TYPES]))
    def check(one_of_each: tuple[Event, ...]) -> None:
        names = {event_to_json(event)["event"] for event in one_of_each}
        assert len(names) == len(EVENT_TYPES)

    check()


@given(any_of(Reply))
def test_the_reply_of_done_is_the_whole_reply(reply: Reply) -> None:
    plain = json.loads(event_line(Done(reply)))
    assert plain["text"] == reply.text
    back = from_plain(Reply, plain["reply"])
    assert json.loads(event_line(Done(back))) == plain
    assert back.message.text == reply.message.text


@given(any_value(Opaque | None))
def test_opaque_data_survives_a_json_file_but_for_numbers_json_lacks(opaque: Opaque | None) -> None:
    plain = json.loads(event_line(PartEnd(opaque)))["opaque"]
    if opaque is None:
        assert plain is None
    else:
        assert plain == {"provider": opaque.provider, "model": opaque.model, "data": with_null_for_nan(opaque.data)}


def with_null_for_nan(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        return [with_null_for_nan(item) for item in value]
    if isinstance(value, dict):
        return {name: with_null_for_nan(item) for name, item in value.items()}
    return value


def test_an_error_tells_its_class_message_action_and_when_to_try_again() -> None:
    error = RateLimited("cloud", retry_after_s=2.5, status=429, model="m", partial=assistant("half"))
    plain = event_to_json(Failed(error))
    assert {name: plain[name] for name in ("event", "class", "message", "action", "retry_after_s", "text")} == {
        "event": "failed",
        "class": "RateLimited",
        "message": "cloud: rate limit reached; resend this turn in 2.5 s",
        "action": "resend this turn in 2.5 s",
        "retry_after_s": 2.5,
        "text": "half",
    }
    assert from_plain(Message, {"role": "assistant", "content": plain["partial"]["content"]}).text == "half"


def test_members_of_failed_are_there_also_when_nobody_knows_them() -> None:
    assert event_to_json(Failed(TurnError("", "it broke", action="see the log"))) == {
        "event": "failed",
        "class": "TurnError",
        "message": "it broke; see the log",
        "action": "see the log",
        "retry_after_s": None,
        "what": "it broke",
        "provider": "",
        "model": "",
        "scope": "turn",
        "status": None,
        "raw": "",
        "request_id": "",
        "reset_at": None,
        "started": False,
        "text": "",
        "partial": None,
    }


def test_an_exception_that_is_no_turn_error_has_the_same_members() -> None:
    plain = event_to_json(Failed(KeyError("x")))
    assert plain.keys() == event_to_json(Failed(TurnError())).keys()
    assert (plain["class"], plain["what"]) == ("TurnError", "KeyError: 'x'")


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (Accepted("t1"), '{"event":"accepted","id":"t1"}'),
        (Started("p", "m", 2), '{"event":"started","provider":"p","model":"m","attempt":2}'),
        (TextDelta("a\nb\u2028é"), '{"event":"text","text":"a\\nb\\u2028\\u00e9"}'),
        (Restarted("lost", "p"), '{"event":"restarted","why":"lost","provider":"p"}'),
        (Gap(), '{"event":"gap"}'),
        (Cancelled("by hand"), '{"event":"cancelled","why":"by hand"}'),
    ],
)
def test_lines_that_scripts_live_on(event: Event, line: str) -> None:
    assert event_line(event) == f"{line}\n"


def test_bytes_are_base64_and_arguments_keep_their_raw_text_beside_a_number_that_json_lacks() -> None:
    image = event_to_json(WholePart(Picture(data=b"\x00\xff", media_type="image/png")))
    assert image["part"]["data"] == "AP8="
    call = ToolCall(id="c", name="f", arguments='{"x": NaN}', parsed={"x": math.nan})
    told = event_to_json(ToolCallEnd(0, call))["call"]
    assert (told["arguments"], told["parsed"], told["invalid"]) == ('{"x": NaN}', {"x": None}, False)

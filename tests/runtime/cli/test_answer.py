"""What a person sees of a turn's events: on a terminal as they come, in a pipe whole, and never a withdrawn answer."""

from __future__ import annotations

import json
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from loopforge.drivers.errors import StreamBroken
from loopforge.drivers.fold import Fold
from loopforge.drivers.turn import (
    Accepted,
    Cancelled,
    Delta,
    Done,
    Event,
    Failed,
    Finished,
    Gap,
    Image,
    Refusal,
    RefusalDelta,
    Reply,
    Restarted,
    Started,
    Text,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolCallEnd,
    ToolCallStart,
    Turn,
    WholePart,
    assistant,
)
from loopforge.runtime.cli.answer import JsonLines, Live, Printer, Whole
from loopforge.runtime.cli.outlet import ERR, OUT

TURN = Turn(kind="planning", messages=())
CALL = ToolCall(id="c1", name="search", arguments='{"q": "x"}', parsed={"q": "x"})
BROKEN_CALL = ToolCall(id="c2", name="search", arguments='{"q": ', invalid=True)


def shown(printer: Printer, events: Iterable[Event]) -> tuple[str, str]:
    """(standard output, standard error)"""
    pieces = [piece for event in events for piece in printer.show(event)]
    return tuple("".join(text for fd, text in pieces if fd == wanted) for wanted in (OUT, ERR))  # type: ignore[return-value]  # two


def terminal(*, show_thinking: bool = False, dim: bool = False) -> Live:
    return Live(terminal=True, show_thinking=show_thinking, dim=dim)


def piped(*, show_thinking: bool = False) -> Live:
    return Live(terminal=False, show_thinking=show_thinking, dim=False)


def answered(*deltas: Delta) -> list[Event]:
    """A whole turn with these deltas."""
    fold = Fold()
    for delta in (*deltas, Finished("stop")):
        fold.add(delta)
    return [Accepted("t"), Started("p", "m", 1), *deltas, Finished("stop"), Done(fold.reply(TURN))]


HELLO = answered(TextDelta("hel"), TextDelta("lo"))


def test_text_comes_piece_by_piece_and_ends_with_a_line_break() -> None:
    printer = terminal()
    assert [piece.text for event in HELLO for piece in printer.show(event)] == ["hel", "lo", "\n"]


def test_a_line_break_of_the_answer_is_not_doubled() -> None:
    events = answered(TextDelta("hello\n"))
    for printer in (terminal(), piped(), Whole(show_thinking=False)):
        assert shown(printer, events) == ("hello\n", "")


def test_an_empty_answer_prints_nothing_but_its_warning() -> None:
    for printer in (terminal(), piped(), Whole(show_thinking=False)):
        assert shown(printer, answered()) == ("", "Warning: empty answer\n")


def test_thinking_is_shown_only_when_asked_for_and_set_apart() -> None:
    events = answered(ThinkingDelta("hm"), ThinkingDelta("m"), TextDelta("yes"))
    assert shown(terminal(), events) == ("yes\n", "")
    assert shown(terminal(show_thinking=True), events) == ("hmm\n\nyes\n", "")
    assert shown(terminal(show_thinking=True, dim=True), events) == (
        "\x1b[2mhm\x1b[0m\x1b[2mm\x1b[0m\n\nyes\n",
        "",
    )


def test_thinking_in_a_pipe_goes_to_standard_error() -> None:
    events = answered(ThinkingDelta("hm"), TextDelta("yes"), ThinkingDelta("so"))
    assert shown(piped(show_thinking=True), events) == ("yes\n", "hm\nso\n")
    assert shown(Whole(show_thinking=True), events) == ("yes\n", "hmso\n")
    assert shown(Whole(show_thinking=False), events) == ("yes\n", "")


def test_a_terminal_gets_no_control_characters_and_a_pipe_the_text_as_it_came() -> None:
    events = answered(TextDelta("a\x1b[2J"), ThinkingDelta("\x07"))
    assert shown(terminal(show_thinking=True), events)[0] == "a␛[2J\n␇\n"
    assert shown(piped(), events)[0] == "a\x1b[2J\n"
    assert shown(Whole(show_thinking=False), events)[0] == "a\x1b[2J\n"


def test_a_tool_call_is_a_line_and_an_invalid_one_says_so() -> None:
    events = answered(
        TextDelta("let me"),
        ToolCallStart(0, "c1", "search"),
        ToolCallEnd(0, CALL),
        ToolCallStart(1, "c2", "search"),
        ToolCallEnd(1, BROKEN_CALL),
    )
    lines = '-> search({"q": "x"})\n-> search({"q":)  [invalid arguments: not to be run]\n'
    warning = "Warning: a tool call has arguments that are no JSON object; do not run it\n"
    assert shown(terminal(), events) == (f"let me\n{lines}", warning)
    assert shown(piped(), events) == ("let me\n", lines + warning)
    assert shown(Whole(show_thinking=False), events) == ("let me\n", lines + warning)


def test_long_arguments_are_cut_on_their_line() -> None:
    call = ToolCall(id="c", name="write", arguments=json.dumps({"text": "x" * 10_000}), parsed={})
    line, _ = shown(terminal(), [ToolCallEnd(0, call)])
    assert len(line) < 600
    assert line.endswith("…)\n")


def test_media_in_an_answer_are_named() -> None:
    events = answered(TextDelta("see"), WholePart(Image(data=b"1234", media_type="image/png")))
    assert shown(terminal(), events)[0] == "see\n[image, image/png, 4 bytes; --json has it whole]\n"


def test_a_refusal_is_the_answer_and_a_warning() -> None:
    events = answered(RefusalDelta("No, "), RefusalDelta("sorry"))
    for printer in (terminal(), piped(), Whole(show_thinking=False)):
        assert shown(printer, events) == ("No, sorry\n", "Warning: the model declined to answer\n")


def test_a_cut_answer_is_warned_of() -> None:
    reply = Reply(message=assistant("so"), finish="length", warnings=("cloud was passed over\nit is down",))
    for printer in (terminal(), Whole(show_thinking=False)):
        out, err = shown(printer, [Done(reply)])
        assert out == "so\n"
        assert err.splitlines() == [
            "Warning: cloud was passed over it is down",
            "Warning: the answer is cut: it reached its limit of output tokens; raise max_output_tokens to get more",
        ]


RESTARTED: list[Event] = [
    Started("p", "m", 1),
    TextDelta("wrong"),
    Restarted("its worker died", "p"),
    Started("p", "m", 2),
    TextDelta("right"),
    Done(Reply(message=assistant("right"), finish="stop")),
]


def test_on_a_terminal_a_line_says_that_what_stands_above_is_void() -> None:
    assert shown(terminal(), RESTARTED) == (
        "wrong\n--- withdrawn, what stands above is void: the answer starts again at p (its worker died) ---\nright\n",
        "",
    )


def test_a_whole_answer_never_holds_what_was_withdrawn() -> None:
    assert shown(Whole(show_thinking=False), RESTARTED) == ("right\n", "")


def test_a_streamed_pipe_is_told_on_standard_error_that_its_text_is_void() -> None:
    out, err = shown(piped(), RESTARTED)
    assert out == "wrong\nright\n", "what is void and what counts are not one word"
    assert "withdrawn" in err


def test_a_restart_before_anything_was_shown_is_a_note() -> None:
    events = [event for event in RESTARTED if event != TextDelta("wrong")]
    assert shown(terminal(), events) == ("right\n", "Note: the answer starts again at p (its worker died)\n")


def test_what_a_gap_left_out_is_made_good_from_the_reply() -> None:
    done = Done(Reply(message=assistant("one two three"), finish="stop"))
    missed: list[Event] = [Started("p", "m", 1), TextDelta("one "), Gap(), TextDelta("three"), done]
    out, _ = shown(terminal(), missed)
    assert out.endswith("--- the answer, whole ---\none two three\n")
    assert shown(terminal(), [Started("p", "m", 1), TextDelta("one "), done])[0] == "one two three\n"
    assert shown(terminal(), [done])[0] == "one two three\n"


def test_a_reply_that_came_without_deltas_is_shown_with_its_calls() -> None:
    done = Done(Reply(message=assistant("so", CALL), finish="tool_calls"))
    assert shown(terminal(), [Started("p", "m", 1), done])[0] == 'so\n-> search({"q": "x"})\n'


def test_a_failure_prints_what_had_come_and_leaves_the_error_to_the_command() -> None:
    error = StreamBroken("p", partial=assistant("half"))
    assert shown(Whole(show_thinking=False), [Failed(error)]) == ("half\n", "")
    assert shown(terminal(), [TextDelta("half"), Failed(error)]) == ("half\n", "")
    assert shown(Whole(show_thinking=False), [Failed(StreamBroken("p"))]) == ("", "")


def test_a_note_stands_on_a_line_of_its_own() -> None:
    for printer in (terminal(), JsonLines(), Whole(show_thinking=False)):
        printer.show(Started("p", "m", 1))
        assert "".join(piece.text for piece in printer.note("a worker\ndied")) == "Note: a worker died\n"
    printer = terminal()
    printer.show(TextDelta("half a li"))
    assert [piece.text for piece in printer.note("a worker died")] == ["\n", "Note: a worker died\n"]


def test_a_cancelled_turn_says_why() -> None:
    for printer in (terminal(), piped(), Whole(show_thinking=False), JsonLines()):
        assert shown(printer, [Cancelled("by\nhand")])[1] == "Cancelled: by hand\n"


def test_json_has_every_event_and_warnings_on_standard_error_as_well() -> None:
    out, err = shown(JsonLines(), [*HELLO[:-1], Done(Reply(message=assistant("hello"), finish="length"))])
    assert [json.loads(line)["event"] for line in out.splitlines()] == [
        "accepted",
        "started",
        "text",
        "text",
        "finished",
        "done",
    ]
    assert err.startswith("Warning: the answer is cut")


PIECES = st.lists(
    st.one_of(
        st.text(max_size=5).map(TextDelta),
        st.text(max_size=5).map(ThinkingDelta),
        st.text(max_size=5).map(RefusalDelta),
        st.sampled_from([ToolCallEnd(0, CALL), WholePart(Image(url="https://x/y"))]),
    ),
    max_size=8,
)


@given(PIECES)
def test_whatever_comes_a_pipe_gets_the_answer_alone(deltas: list[Delta]) -> None:
    calls = [ToolCallStart(0, "c1", "search")] if any(isinstance(delta, ToolCallEnd) for delta in deltas) else []
    events = answered(*calls, *deltas)
    done = events[-1]
    assert isinstance(done, Done)
    answer = "".join(part.text for part in done.reply.message.content if isinstance(part, Text | Refusal))
    expected = answer if not answer or answer.endswith("\n") else f"{answer}\n"
    assert shown(Whole(show_thinking=True), events)[0] == expected
    assert shown(piped(show_thinking=True), events)[0] == expected


@given(PIECES)
def test_whatever_comes_a_terminal_ends_at_the_start_of_a_line(deltas: list[Delta]) -> None:
    out, _ = shown(terminal(show_thinking=True), [Started("p", "m", 1), *deltas, Cancelled("x")])
    assert not out or out.endswith("\n")

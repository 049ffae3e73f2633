"""What a person or a program sees of a turn's events: live on a terminal, whole in a pipe, or as lines of JSON. Pure.

Each class turns one event into pieces for standard output and standard error. Standard output holds the answer alone;
a Failed event prints what had come of it, the error itself is the command's to raise.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from loopforge.drivers.errors import TurnError
from loopforge.drivers.turn import (
    Cancelled,
    Done,
    Event,
    Failed,
    Gap,
    Message,
    Part,
    Refusal,
    RefusalDelta,
    Reply,
    Restarted,
    Started,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCall,
    ToolCallEnd,
    WholePart,
)
from loopforge.runtime.cli.outlet import ERR, OUT, Piece
from loopforge.runtime.cli.printable import one_line, printable
from loopforge.runtime.events_json import event_line

MAX_ARGUMENT_CHARACTERS = 500
"""Of a tool call's arguments on its line; --json has them whole."""

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"
_CUT = {
    "length": "the answer is cut: it reached its limit of output tokens; raise max_output_tokens to get more",
    "content_filter": "the answer is cut by the provider's content filter; change the messages to get more",
    "context_overflow": "the answer is cut: the model's context window is full; shorten the messages",
    "pause": "the provider paused the answer; post the conversation with this message again to go on",
}


class Printer(Protocol):
    """Turns events into pieces to write, one call an event, in order; and what else is to be said between them."""

    def show(self, event: Event) -> list[Piece]: ...
    def note(self, text: str) -> list[Piece]:
        """A line on standard error for the person."""
        ...


class JsonLines:
    """One line of JSON an event (runtime/events_json.py); warnings and errors for a person go to stderr as well."""

    def show(self, event: Event) -> list[Piece]:
        return [_out(event_line(event)), *_closing_words(event)]

    def note(self, text: str) -> list[Piece]:
        return [_note(text)]


class Whole:
    """The answer's text in one piece once it is complete, so that it never holds what was withdrawn."""

    def __init__(self, *, show_thinking: bool) -> None:
        self._show_thinking = show_thinking

    def show(self, event: Event) -> list[Piece]:
        match event:
            case Done(reply):
                return [*self._message(reply.message), *_closing_words(event)]
            case Failed(TurnError(partial=Message() as partial)):
                return self._message(partial)
        return _closing_words(event)

    def note(self, text: str) -> list[Piece]:
        return [_note(text)]

    def _message(self, message: Message) -> list[Piece]:
        pieces = []
        if self._show_thinking and message.thinking:
            pieces.append(_err(_whole_lines(message.thinking)))
        pieces.append(_out(_whole_lines(_answer_of(message))))
        pieces += [_err(f"{line}\n") for part in message.content if (line := _line_for(part))]
        return pieces


class Live:
    """The answer as it comes. What is withdrawn later stays above a line that says so.

    `terminal`: control characters are made visible, and tool calls and marks stand between the text; without one the
    text goes out as it is, with a line break behind what became void, and all else to standard error. `dim`: thinking
    may be set apart by colour.
    """

    def __init__(self, *, terminal: bool, show_thinking: bool, dim: bool) -> None:
        self._terminal = terminal
        self._show_thinking = show_thinking
        self._dim = dim
        self._at_line_start = True
        self._was_thinking = False
        self._text: list[str] = []  # of the answer, since `started`
        self._lines_shown = 0  # tool calls and the like, since `started`
        self._error_line_open = False  # thinking on standard error, without its line break so far

    def show(self, event: Event) -> list[Piece]:
        match event:
            case TextDelta(text) | RefusalDelta(text):
                return [*self._end_thinking(), self._answer(text)]
            case ThinkingDelta(text) if self._show_thinking:
                return self._thinking(text)
            case ToolCallEnd(_, call):
                return self._line(_line_for(call))
            case WholePart(part):
                return self._line(_line_for(part))
            case Started():
                self._text, self._lines_shown = [], 0
            case Restarted(why, provider):
                return self._withdraw(why, provider)
            case Gap():
                return self._aside("(some of the answer was missed here; it follows whole at its end)")
            case Done(reply):
                return [*self._complete(reply), *self._fresh_line(), *_closing_words(event)]
            case Failed() | Cancelled():
                return [*self._fresh_line(), *_closing_words(event)]
        return []

    def note(self, text: str) -> list[Piece]:
        return [*(self._fresh_line() if self._terminal else self._fresh_error_line()), _note(text)]

    def _answer(self, text: str) -> Piece:
        self._text.append(text)
        return self._raw(text)

    def _raw(self, text: str) -> Piece:
        shown = printable(text) if self._terminal else text
        if shown:
            self._at_line_start = shown.endswith("\n")
        return _out(shown)

    def _thinking(self, text: str) -> list[Piece]:
        if not self._terminal:
            self._error_line_open = not text.endswith("\n")
            return [_err(text)]
        begin = [] if self._was_thinking else self._fresh_line()
        self._was_thinking = True
        shown = printable(text)
        self._at_line_start = shown.endswith("\n")
        return [*begin, _out(f"{_DIM}{shown}{_PLAIN}" if self._dim else shown)]

    def _end_thinking(self) -> list[Piece]:
        """A blank line between thinking and answer."""
        if not self._was_thinking:
            return self._fresh_error_line()
        self._was_thinking = False
        return [*self._fresh_line(), self._raw("\n")]

    def _line(self, line: str) -> list[Piece]:
        if not line:
            return []
        self._lines_shown += 1
        return self._aside(line)

    def _aside(self, line: str) -> list[Piece]:
        """A line of ours: between the text on a terminal, else on standard error."""
        if not self._terminal:
            return [*self._fresh_error_line(), _err(f"{line}\n")]
        self._was_thinking = False
        return [*self._fresh_line(), self._raw(f"{line}\n")]

    def _withdraw(self, why: str, provider: str) -> list[Piece]:
        seen = bool(self._text or self._lines_shown or self._was_thinking)
        self._text, self._lines_shown = [], 0
        again = f"the answer starts again at {one_line(provider)} ({one_line(why)})"
        if not seen:
            return self.note(again)
        begin = self._fresh_line()  # also in a pipe or file, where the void text and the new one would be one line
        return [*begin, *self._aside(f"--- withdrawn, what stands above is void: {again} ---")]

    def _complete(self, reply: Reply) -> list[Piece]:
        """What the reply has and the events did not bring."""
        shown, text = "".join(self._text), _answer_of(reply.message)
        pieces: list[Piece] = []
        if not text.startswith(shown):
            pieces += [*self._aside("--- the answer, whole ---"), self._answer(text)]
        elif text != shown:
            pieces += [*self._end_thinking(), self._answer(text[len(shown) :])]
        if not self._lines_shown:
            for part in reply.message.content:
                pieces += self._line(_line_for(part))
        return pieces

    def _fresh_line(self) -> list[Piece]:
        if self._at_line_start:
            return self._fresh_error_line()
        self._at_line_start = True
        return [_out("\n"), *self._fresh_error_line()]

    def _fresh_error_line(self) -> list[Piece]:
        if not self._error_line_open:
            return []
        self._error_line_open = False
        return [_err("\n")]


# -- pieces ----------------------------------------------------------------------------------------------------------


def _note(text: str) -> Piece:
    return _err(f"Note: {one_line(text)}\n")


def _closing_words(event: Event) -> list[Piece]:
    """The reply's warnings, or that the turn was cancelled: a line each on standard error."""
    match event:
        case Done(reply):
            return [_err(f"Warning: {one_line(text)}\n") for text in _warnings(reply)]
        case Cancelled(why):
            return [_err(f"Cancelled: {one_line(why) or 'no reason was given'}\n")]
    return []


def _warnings(reply: Reply) -> Iterable[str]:
    yield from reply.warnings
    if cut := _CUT.get(reply.finish):
        yield cut
    if reply.message.refusal:
        yield "the model declined to answer"
    if any(call.invalid for call in reply.tool_calls):
        yield "a tool call has arguments that are no JSON object; do not run it"


def _line_for(part: Part) -> str:
    """One line for a part that is no running text; "" for text, thinking and refusal."""
    match part:
        case ToolCall():
            return _tool_call(part)
        case Text() | Thinking() | Refusal():
            return ""
    data = getattr(part, "data", b"")
    facts = [getattr(part, "media_type", ""), f"{len(data)} bytes" if data else "", getattr(part, "url", "")]
    return one_line(f"[{', '.join(filter(None, (part.type, *facts)))}; --json has it whole]")


def _tool_call(call: ToolCall) -> str:
    """-> name(arguments): what the model wants to be run."""
    arguments = one_line(call.arguments, MAX_ARGUMENT_CHARACTERS)
    invalid = "  [invalid arguments: not to be run]" if call.invalid else ""
    return f"-> {one_line(call.name)}({arguments}){invalid}"


def _answer_of(message: Message) -> str:
    """Text and refusal in their order: what standard output gets."""
    return "".join(part.text for part in message.content if isinstance(part, Text | Refusal))


def _whole_lines(text: str) -> str:
    return text if not text or text.endswith("\n") else f"{text}\n"


def _out(text: str) -> Piece:
    return Piece(OUT, text)


def _err(text: str) -> Piece:
    return Piece(ERR, text)

"""loopforge ask: options, file and standard input become one turn; its ending becomes an exit code.

conversation.py runs the turn, answer.py prints it. The lines of --json are documented in runtime/events_json.py, the
file of --turn in runtime/turn_json.py.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import click

from loopforge.runtime.cli.exits import FAILED
from loopforge.runtime.cli.options import config_option
from loopforge.runtime.config import paths

if TYPE_CHECKING:
    from loopforge.drivers.turn import Effort, Turn
    from loopforge.runtime.cli.answer import Printer
    from loopforge.runtime.cli.conversation import Ending

DEFAULT_KIND = "planning"
"""Of the kinds that every configuration routes, the one in the interactive lane: somebody waits."""
MAX_PROMPT_BYTES = 32 * 2**20
"""As [runtime] max_request_mb by default."""
_EFFORTS = ("off", "low", "medium", "high")
_EPILOG = """\b
With --json the last line is the outcome, one of
  {"event": "done", "text": TEXT, "reply": {"message", "finish", "usage",
   "provider", "model", "attempts", "timings", "warnings", ...}}
  {"event": "failed", "class": NAME, "message", "action", "retry_after_s",
   "text": TEXT SO FAR, "partial", ...}
  {"event": "cancelled", "why"}
Before it come "accepted", "started", "text", "thinking", "tool_call_start",
"tool_call_arguments", "tool_call_end", "usage" and more; after "restarted"
drop what came since "started". Members may be added, none is renamed or
removed. All of it: pydoc loopforge.runtime.events_json

\b
A file for --turn:
  {"kind": "coding", "max_output_tokens": 500,
   "messages": [
     {"role": "system", "content": "Be brief."},
     {"role": "user", "content": ["What is this?",
       {"type": "image", "data": {"path": "cat.png"}}]}]}
All of it: pydoc loopforge.runtime.turn_json

\b
Exit codes: 0 done; 1 failed, or cancelled by somebody else; 2 wrong usage or
input; 75 try later: rate limit, quota, full queue, full disk, provider or
service away; 78 bad configuration; 130 Ctrl-C.
"""


class _Thinking(click.ParamType[Any]):
    """off, low, medium, high, or a number of tokens."""

    name = "thinking"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Effort | int:
        if value in _EFFORTS:
            return cast("Effort", value)
        if str(value).isascii() and str(value).isdigit() and int(value) < 2**31:
            return int(value)
        raise click.BadParameter(f"{value!r} is none of {', '.join(_EFFORTS)} and no number of tokens.", ctx, param)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options that shape the turn, as given; None or "" for those that were not."""

    prompt: str | None
    turn_file: str | None
    kind: str | None
    model: str | None
    whole: bool
    session: str | None
    lane: str | None
    deadline_s: float | None
    thinking: Effort | int | None
    system: str | None
    turn_id: str | None


@click.command(epilog=_EPILOG)
@click.argument("prompt", required=False)
@click.option("--kind", metavar="K", help=f"Kind of task, which decides the route.  [default: {DEFAULT_KIND}]")
@click.option("--model", metavar="P/M", help="Ask this provider and model instead; PROVIDER alone: its default model.")
@click.option("--turn", "turn_file", metavar="FILE", help="Read a whole turn as JSON; '-' is standard input.")
@click.option("--system", metavar="TEXT", help="A system message, before all others.")
@click.option("--thinking", metavar="EFFORT", type=_Thinking(), help="off, low, medium, high, or a budget in tokens.")
@click.option("--session", metavar="S", help="Sessions take turns in the queue: the name of yours.")
@click.option("--lane", type=click.Choice(("interactive", "normal", "background")), help="Instead of the route's lane.")
@click.option(
    "--deadline-s", type=click.FloatRange(min=0, min_open=True, max=31_536_000), help="Seconds to the outcome."
)
@click.option("--id", "turn_id", metavar="ID", help="The turn's id. Asking the same again under it runs it once.")
@click.option("--retry", is_flag=True, help="When the turn of that --id failed or was cancelled, try it again.")
@click.option(
    "--reconnect-s",
    type=click.FloatRange(min=0, max=86_400),
    default=30.0,
    show_default=True,
    help="How long to look for a service that went away; the turn waits in its journal.",
)
@click.option("--no-stream", "whole", is_flag=True, help="Ask the provider for one answer instead of a stream.")
@click.option("--stream", "live", is_flag=True, help="Print as it comes also into a pipe or file.")
@click.option("--show-thinking", is_flag=True, help="Show the model's reasoning; on standard error if not a terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print one event a line as JSON, for programs; see below.")
@config_option()
@click.pass_context
def ask(  # noqa: PLR0917 - click passes them by name
    context: click.Context,
    /,
    live: bool,
    show_thinking: bool,
    as_json: bool,
    config: Path,
    retry: bool,
    reconnect_s: float,
    **shape: Any,
) -> None:
    """Send one turn and print the answer.

    PROMPT is the text, '-' reads it from standard input; with --turn it is appended as a last message. A running
    service is used when there is one, else this command runs the turn by itself, with the same configuration.

    On a terminal the answer appears as it comes. Into a pipe or file it goes once it is whole, so that it never holds
    text that was withdrawn when the turn had to start again. Warnings and errors go to standard error.
    """
    turn = build_turn(Asked(**shape))

    import trio

    from loopforge.runtime.cli.conversation import Conversation

    named = context.get_parameter_source("config") is not click.core.ParameterSource.DEFAULT
    conversation = Conversation(
        turn=turn,
        printer=printer(live=live, show_thinking=show_thinking, as_json=as_json),
        socket=paths.client_socket(config, os.environ),
        config=config,
        config_named=named,
        retry=retry,
        reconnect_s=reconnect_s,
    )
    _end_with(trio.run(conversation.run), context)


def _end_with(ending: Ending, context: click.Context) -> None:
    """The exit code, or the exception that frame.py turns into a message and one."""
    from loopforge.drivers.turn import Cancelled, Failed

    if ending.signal:
        context.exit(128 + ending.signal)
    if ending.output_error is not None:
        raise ending.output_error
    match ending.outcome:
        case Failed(error):
            raise error
        case Cancelled():  # answer.py has said so
            context.exit(FAILED)


def printer(*, live: bool, show_thinking: bool, as_json: bool) -> Printer:
    """As standard output is: a terminal, or not. `live`: as it comes in any case."""
    from loopforge.runtime.cli.answer import JsonLines, Live, Whole

    terminal = sys.stdout is not None and sys.stdout.isatty()
    if as_json:
        return JsonLines()
    if terminal or live:
        dim = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        return Live(terminal=terminal, show_thinking=show_thinking, dim=dim)
    return Whole(show_thinking=show_thinking)


# -- the turn --------------------------------------------------------------------------------------------------------


def build_turn(asked: Asked) -> Turn:
    """The turn that the options, the file and standard input describe. Raises click.UsageError."""
    from loopforge.drivers.turn import Turn, system, user

    if asked.prompt is None and asked.turn_file is None:
        raise click.UsageError("Missing PROMPT: write it, or '-' to read it from standard input.")
    if asked.prompt == asked.turn_file == "-":
        raise click.UsageError("PROMPT and --turn cannot both be read from standard input.")
    turn = Turn(kind=DEFAULT_KIND, messages=()) if asked.turn_file is None else _turn_of_file(asked)
    messages = turn.messages
    if asked.system is not None:
        if any(message.role == "system" for message in messages):
            raise click.UsageError("The turn has a system message already; leave out --system.")
        messages = (system(_text(asked.system, "--system")), *messages)
    if asked.prompt is not None:
        messages = (*messages, user(_prompt(asked.prompt)))
    if not messages:
        raise click.UsageError("The turn has no message; write one in its file, or give a PROMPT.")
    return replace(turn, messages=messages, **_overrides(asked))


def _overrides(asked: Asked) -> dict[str, Any]:
    """Members of Turn that an option sets."""
    from loopforge.drivers.turn import MAX_ID_BYTES

    options = {
        "kind": asked.kind,
        "session": asked.session,
        "lane": asked.lane,
        "deadline_s": asked.deadline_s,
        "thinking": asked.thinking,
        "id": asked.turn_id,
        "model": asked.model,
    }
    members: dict[str, Any] = {
        name: _text(value, f"--{name}") if isinstance(value, str) else value
        for name, value in options.items()
        if value is not None
    }
    if len(members.get("id", "").encode()) > MAX_ID_BYTES:
        raise click.UsageError(f"--id has more than {MAX_ID_BYTES} bytes; choose a shorter one.")
    if asked.model is not None:
        provider, _, model = asked.model.partition("/")
        if not provider:
            raise click.UsageError("--model: write PROVIDER/MODEL, or PROVIDER for its default model.")
        members |= {"provider": provider, "model": model}
    if asked.whole:
        members["stream"] = False
    return members


def _turn_of_file(asked: Asked) -> Turn:
    from loopforge.runtime.errors import BadTurn
    from loopforge.runtime.turn_json import MAX_TURN_FILE_BYTES, read_turn

    name = cast("str", asked.turn_file)
    defaults: dict[str, Any] = {"kind": DEFAULT_KIND}
    if asked.prompt is not None:
        defaults["messages"] = []
    if name == "-":
        source, folder, data = "standard input", Path(), _standard_input(MAX_TURN_FILE_BYTES, "turn")
    else:
        source, path = name, Path(name)
        folder = path.parent if path.is_file() else Path()  # the shell's <(...) is a pipe in /dev/fd
        try:
            with path.open("rb") as file:
                data = _bounded(file, MAX_TURN_FILE_BYTES, f"{name}: the turn")
        except OSError as exc:
            raise click.UsageError(f"--turn {name}: {exc.strerror}.") from exc
    try:
        return read_turn(data, source=source, folder=folder, defaults=defaults)
    except BadTurn as exc:
        raise click.UsageError(exc.what) from exc


def _prompt(argument: str) -> str:
    if argument != "-":
        return _text(argument, "PROMPT")
    data = _standard_input(MAX_PROMPT_BYTES, "prompt")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        wrong = f"byte {data[exc.start]:#04x} at offset {exc.start}"
        raise click.UsageError(f"Standard input is not UTF-8 text: {wrong}; convert it first, with iconv.") from exc
    return _text(text.removesuffix("\n"), "The prompt on standard input")


def _standard_input(limit: int, what: str) -> bytes:
    """All of standard input. Raises click.UsageError when there is none, or more than `limit` bytes."""
    if sys.stdin is None:
        raise click.UsageError("Standard input is closed.")
    if sys.stdin.isatty():
        click.echo(f"Reading the {what} from the terminal; Ctrl-D on a new line ends it.", err=True)
    try:
        return _bounded(sys.stdin.buffer, limit, f"The {what} on standard input")
    except OSError as exc:
        raise click.UsageError(f"Standard input cannot be read: {exc.strerror}.") from exc


def _bounded(file: BinaryIO, limit: int, what: str) -> bytes:
    data = file.read(limit + 1)
    if len(data) > limit:
        raise click.UsageError(f"{what} has more than {limit // 2**20} MiB; send less.")
    return data


def _text(value: str, what: str) -> str:
    """The value, unless it is empty or comes of bytes that are no UTF-8."""
    if not value.strip():
        raise click.UsageError(f"{what} is empty.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise click.UsageError(f"{what} is not UTF-8 text.") from None
    return value

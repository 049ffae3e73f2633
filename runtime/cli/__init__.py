"""The command line: click commands, one file a family, imported when they are used.

frame.py         the group, the table of commands, and the one place where errors become messages and exit codes
exits.py         exit codes and the exceptions that carry them
options.py       options that several commands share
init.py          loopforge init
config.py        loopforge config validate, show, path
doctor.py        loopforge doctor
route.py         loopforge route show, set
switch.py        a change of one route, checked on a draft before it is put in place
serve.py         loopforge serve
log_thread.py    the service's log on standard error, without ever holding up the loop
ask.py           loopforge ask: options, file and standard input -> one turn -> an exit code
conversation.py  that turn while it runs, at the service or in a runtime of its own
answer.py        what a person or a program sees of its events
outlet.py        standard output of a command that runs a loop
printable.py     text of others, made safe for a terminal
columns.py       plain text: tables within a terminal's width, durations, sizes, times
when.py          times and lengths of time as a person writes them
asking.py        questions to the running service, and what its silence means
status.py        loopforge status, cancel
turns.py         loopforge turns list, show, retry, purge
turns_text.py    turns of the journal as text and as JSON
tail.py          loopforge turns tail: all turns as they come and go
follow.py        one turn of the service, followed by its id
usage.py         loopforge usage
reload.py        loopforge reload
rehearse.py      loopforge rehearse
providers.py     loopforge providers list, show, smoke, report
provider_traffic.py  the running service's traffic, as `providers report` shows it
"""

from __future__ import annotations

from typing import NoReturn


def main() -> NoReturn:
    """The console script `loopforge`."""
    import sys

    try:
        from loopforge.runtime.cli.frame import run

        sys.exit(run(sys.argv[1:]))
    except KeyboardInterrupt:  # while importing; run() answers for the rest
        sys.exit(130)

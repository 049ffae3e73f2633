"""python -m loopforge.runtime.config [--names-on-stdin] PATH: one check, as msgpack of Checked on stdout.

The other end is child.py. With --names-on-stdin the variables that count as set are the names on stdin, one a line;
else they are this process's own.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

CPU_LIMIT_S = 30  # also ends a check whose parent has died
MEMORY_LIMIT_BYTES = 1 << 30


def main(arguments: list[str]) -> int:
    """Exit status: 0 an answer was written, whatever it says; 2 wrong arguments."""
    names_on_stdin = arguments[:1] == ["--names-on-stdin"]
    if len(arguments) != 1 + names_on_stdin:
        print("usage: python -m loopforge.runtime.config [--names-on-stdin] PATH", file=sys.stderr)  # noqa: T201
        return 2
    _bound_self()
    import msgpack

    from loopforge.runtime.config.load import check
    from loopforge.workers.packing import to_plain

    env = dict(os.environ)
    if names_on_stdin:
        names = sys.stdin.buffer.read().decode("utf-8", "surrogateescape").split("\n")
        env = {**dict.fromkeys(names, "set"), **env}
    answer = msgpack.packb(to_plain(check(Path(arguments[-1]), env)))
    sys.stdout.buffer.write(answer)
    sys.stdout.buffer.flush()
    return 0


def _bound_self() -> None:
    for limit, value in ((resource.RLIMIT_CPU, CPU_LIMIT_S), (resource.RLIMIT_AS, MEMORY_LIMIT_BYTES)):
        _, hard = resource.getrlimit(limit)
        if hard == resource.RLIM_INFINITY or hard > value:
            resource.setrlimit(limit, (value, hard))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""How many turns a second are accepted on disk, how long each waits for that, and what it costs in CPU.

Clients post one turn after the other, each waiting for its answer: `accept` alone, or a whole `life` (accepted with its
attempt, finished; two commits). Turns and replies have 1 KiB. Beside the figures stands what the disk itself takes for
an fdatasync of 16 KiB, overwritten in place, in the same rounds. A slower disk is modelled by 2 ms before each commit.
The CPU of the loop is that of its thread with these clients in it; that of the journal is the rest of the process.
"""

from __future__ import annotations

import gc
import os
import secrets
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import trio

from bench.report import Report, interleaved, medians, open_report, options_parser, parse_options, percentile
from loopforge.runtime.journal.disk import SqliteJournal, open_journal
from loopforge.runtime.journal.files import Connect, connect
from loopforge.runtime.journal.operations import Accept, Accepted, Attempt, Finish, Spent, Written

CLIENTS = (1, 16, 64, 256)
QUICK_CLIENTS = (1, 16)
SECONDS = 2.0
QUICK_SECONDS = 0.1
SLOWER_S = 0.002
ADDED_MS = 0.7
"""What bench/overhead.py's goals leave for it: 0.5 ms a turn without a journal, 1.2 with one."""

BODY = secrets.token_bytes(1024)
HEADER = bytes(150)
SESSIONS = 50
SYNCS = 300
SYNC_BYTES = 16 * 1024
FILE_BYTES = 4 * 2**20

Figures = dict[str, float]


def main(argv: Sequence[str] | None = None) -> None:
    parser = options_parser("journal", "Accepts and whole lives a second, on disk.", rounds=5)
    parser.add_argument("--folder", type=Path, help="on the disk to measure (default: a temporary folder)")
    options = parse_options(parser, argv)
    clients, seconds = (QUICK_CLIENTS, QUICK_SECONDS) if options.quick else (CLIENTS, SECONDS)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder, open_report(options) as report:
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)  # as in every process of the runtime
        _bench(report, Path(folder), clients, seconds, options.rounds)


def _bench(report: Report, folder: Path, clients: Sequence[int], seconds: float, rounds: int) -> None:
    play = partial(figures_of, folder, seconds=seconds)
    variants = {f"{what} {count}": partial(play, count, what) for what in ("accept", "life") for count in clients}
    slower = [count for count in clients if count in (1, 64)]
    variants |= {f"accept {count} +2 ms": partial(play, count, "accept", connect=connect_slowly) for count in slower}
    runs = interleaved({**variants, "disk": partial(disk_figures, folder)}, rounds)
    figures = {name: medians(results) for name, results in runs.items()}
    report.figures["journal"] = figures
    columns = ("a second", "p50 ms", "p99 ms", "longest ms", "CPU loop µs", "CPU journal µs", "turns a commit")
    report.table("turns, by clients", ["", *columns], [[name, *figures[name].values()] for name in variants])
    disk = figures["disk"]
    report.note(f"the disk's own fdatasync: p50 {disk['p50_ms']:.3f} ms, p99 {disk['p99_ms']:.3f} ms")
    if "accept 64" in figures:
        report.goal("accepts a second, 64 clients", figures["accept 64"]["per_second"], ">=", 20_000)
    report.goal("added to a turn, one client, p50", figures["life 1"]["p50_ms"], "<=", ADDED_MS, "ms")


def figures_of(folder: Path, clients: int, what: str, *, seconds: float, connect: Connect = connect) -> Figures:
    """One run in a journal of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        figures: Figures = trio.run(_play, Path(place) / "journal.db", clients, what == "life", seconds, connect)
    return figures


async def _play(path: Path, clients: int, life: bool, seconds: float, connect: Connect) -> Figures:
    async with open_journal(path, connect=connect) as journal:
        crowd = Crowd(journal, life=life, seconds=seconds)
        process, thread, begun = time.process_time(), time.thread_time(), time.perf_counter()
        await crowd.run(clients)
        took = time.perf_counter() - begun
        loop_s = time.thread_time() - thread
        journal_s = time.process_time() - process - loop_s
        groups = max(journal.status()["groups"], 1)
    turns = len(crowd.waited_s)
    commits = groups / (2 if life else 1)
    return {
        "per_second": turns / took,
        "p50_ms": percentile(crowd.waited_s, 50) * 1e3,
        "p99_ms": percentile(crowd.waited_s, 99) * 1e3,
        "longest_ms": max(crowd.waited_s) * 1e3,
        "loop_us": loop_s / turns * 1e6,
        "journal_us": journal_s / turns * 1e6,
        "turns_a_commit": turns / commits,
    }


class Crowd:
    """Clients that post turns until the time is over. `waited_s`: of each turn, all its commits together."""

    def __init__(self, journal: SqliteJournal, *, life: bool, seconds: float) -> None:
        self.waited_s: list[float] = []
        self._journal = journal
        self._life = life
        self._until = time.perf_counter() + seconds
        self._busy = 0
        self._posted = 0
        self._over = trio.Event()

    async def run(self, clients: int) -> None:
        self._busy = clients
        for _ in range(clients):
            self._begin()
        await self._over.wait()

    def _begin(self) -> None:
        begun = time.perf_counter()
        if begun > self._until:
            self._busy -= 1
            if not self._busy:
                self._over.set()
            return
        self._posted += 1
        session = f"session {self._posted % SESSIONS}"
        turn_id = f"t{secrets.token_hex(8)}"
        self._journal.post(new_turn(turn_id, session), partial(self._accepted, turn_id, session, begun))

    def _accepted(self, turn_id: str, session: str, begun: float, answer: object) -> None:
        if not isinstance(answer, Accepted):
            raise TypeError(answer)
        if self._life:
            self._journal.post(outcome(turn_id, session), partial(self._ended, begun))
        else:
            self.waited_s.append(time.perf_counter() - begun)
            self._begin()

    def _ended(self, begun: float, answer: object) -> None:
        if not isinstance(answer, Written):
            raise TypeError(answer)
        self.waited_s.append(time.perf_counter() - begun)
        self._begin()


def new_turn(turn_id: str, session: str) -> Accept:
    now = time.time()
    return Accept(
        id=turn_id,
        body_hash=bytes(16),
        kind="coding",
        session=session,
        lane="normal",
        provider="",
        model="",
        features=("tools",),
        size=250,
        detached=False,
        resend_safe=True,
        accepted_at=now,
        deadline=now + 1800,
        body=BODY,
        running=Attempt(number=1, provider="ollama", model="llama3.2", since=now),
    )


def outcome(turn_id: str, session: str) -> Finish:
    return Finish(
        id=turn_id,
        state="done",
        attempt=1,
        seq=40,
        header=HEADER,
        body=BODY,
        ended_at=time.time(),
        spent=Spent(provider="ollama", model="llama3.2", kind="coding", session=session, input=250, output=200),
    )


# -- disks -----------------------------------------------------------------------------------------------------------


class SlowConnection(sqlite3.Connection):
    """A disk that takes SLOWER_S longer for each commit."""

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if sql == "COMMIT":
            time.sleep(SLOWER_S)
        return super().execute(sql, *parameters)


def connect_slowly(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=SlowConnection)


def disk_figures(folder: Path) -> Figures:
    """What the disk takes for one fdatasync of a file that is there, as a write-ahead log is after its first round."""
    took = []
    with tempfile.TemporaryFile(dir=folder) as file:
        fd = file.fileno()
        os.pwrite(fd, bytes(FILE_BYTES), 0)
        os.fsync(fd)
        for number in range(SYNCS):
            os.pwrite(fd, secrets.token_bytes(SYNC_BYTES), number * SYNC_BYTES % FILE_BYTES)
            begun = time.perf_counter()
            os.fdatasync(fd)
            took.append(time.perf_counter() - begun)
    return {"p50_ms": percentile(took, 50) * 1e3, "p99_ms": percentile(took, 99) * 1e3}


if __name__ == "__main__":
    main()

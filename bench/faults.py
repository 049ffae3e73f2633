"""A soak: turns under steady load while everything is killed, stopped, filled or made to fail. Then the books.

A real service with a journal, four providers of three wires played by the simulator, clients that stay, leave and come
back. Afterwards each turn that was accepted has exactly one outcome, which is the one its client was told; nothing was
asked of a provider that is not in the books as an attempt; no answer was bought twice but where a death made it
unknown whether the first one had been; no slot, process, descriptor or file is left. Exit code 1 when that fails.

`--seconds N` of trouble (default 200), longer until there were `--kills`; `--seed`, `--rate` strikes a second,
`--clients`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import trio

from bench.chaos import Chaos, Service, open_kept_service, small_disk
from bench.report import Report, open_report, options_parser, parse_options
from bench.stack import Played, Provider, open_played, wait_listening
from loopforge.drivers.errors import TurnError
from loopforge.drivers.turn import Accepted, Cancelled, Done, Event, Failed, Turn, user
from loopforge.runtime.client import Runtime, connect
from loopforge.runtime.errors import ConnectionLost, TurnCancelled, UnknownTurn
from loopforge.runtime.journal.files import open_database
from loopforge.runtime.journal.operations import Show, StoredTurn
from loopforge.runtime.journal.shortage import Shortage
from loopforge.runtime.journal.store import Store

QUICK_SECONDS = 5
MOST_TIMES = 3
"""A machine on which a service takes long to start goes on for so many times as long, for as many kills."""
SETTLE_S, SETTLE_S_A_TURN = 120.0, 0.01
DISK_MB, DISK_MB_A_SECOND = 96, 0.1  # a turn leaves about 1.2 KB; the disk is to be full when something fills it
KINDS = {"home": "openai_compatible", "cloud": "anthropic", "third": "gemini", "well": "openai_compatible"}
ROUTES = {
    "planning": ("home", "cloud", "well"),
    "coding": ("cloud", "third", "well"),
    "summary": ("third", "home", "well"),
}
PACE: dict[str, Any] = {"first_token_s": 0.03, "tokens_per_s": 200, "answer_tokens": 12, "jitter": 0.5}
Told = tuple[str, str]
"""How a turn ended, and its text or the class of its error."""


# -- the books -------------------------------------------------------------------------------------------------------


@dataclass
class Posted:
    """What clients know of one turn."""

    turn: Turn
    accepted: bool = False
    told: list[Told] = field(default_factory=list)
    left: bool = False


@dataclass
class Books:
    """Everything that was posted. `problems`: what does not balance, in words."""

    posted: dict[str, Posted] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def open(self, turn: Turn) -> Posted:
        entry = Posted(turn)
        self.posted[turn.id] = entry
        return entry

    @property
    def accepted(self) -> list[Posted]:
        return [entry for entry in self.posted.values() if entry.accepted]

    def check(self, condition: bool, problem: str) -> None:
        if not condition:
            self.problems.append(problem)


def told_by(event: Event) -> Told | None:
    match event:
        case Done(reply):
            return "done", reply.text
        case Failed(error):
            return "failed", type(error).__name__
        case Cancelled():
            return "cancelled", ""
    return None


# -- clients ---------------------------------------------------------------------------------------------------------


class Client:
    """Posts one turn after the other until cancelled, in one of four manners each, over connections that it drops."""

    def __init__(self, number: int, socket: Path, books: Books, seed: int, pause_s: float) -> None:
        self._number = number
        self._socket = socket
        self._books = books
        self._random = random.Random(f"{seed}-{number}")
        self._pause_s = pause_s
        self._turns = 0

    async def run(self) -> None:
        while True:
            leaves = self._random.random() < 0.25
            try:
                async with connect(self._socket, reconnect_s=0 if leaves else 60) as runtime:
                    for _ in range(1 if leaves else 20):
                        await self._one_turn(runtime, leaves=leaves)
                        await trio.sleep(self._random.uniform(0, 2 * self._pause_s))
            except ConnectionLost:
                await trio.sleep(0.02)  # no service at the moment

    async def _one_turn(self, runtime: Runtime, *, leaves: bool) -> None:
        entry = self._books.open(self._next_turn())
        if leaves:
            entry.left = True
            await self._leave_midway(runtime, entry)
        elif entry.turn.detached and self._random.random() < 0.5:
            with contextlib.suppress(TurnError):
                await runtime.post(entry.turn)
                entry.accepted = True
        else:
            await self._follow(runtime, entry)

    def _next_turn(self) -> Turn:
        self._turns += 1
        return Turn(
            id=f"{self._number}-{self._turns}",
            kind=self._random.choice(list(ROUTES)),
            messages=(user(f"turn {self._turns} of client {self._number}"),),
            session=f"s{self._random.randint(0, 3)}" if self._random.random() < 0.5 else "",
            detached=self._random.random() < 0.5,
        )

    async def _follow(self, runtime: Runtime, entry: Posted) -> None:
        async with runtime.stream(entry.turn) as events:
            async for event in events:
                self._note(entry, event)

    async def _leave_midway(self, runtime: Runtime, entry: Posted) -> None:
        """The connection breaks after some events, as when the client's process is killed."""
        events_left = self._random.choice((0, 1, 2, 3, 6))
        async with runtime.stream(entry.turn) as events:
            if not events_left:
                await trio.sleep(self._random.uniform(0, 0.003))
            else:
                async for event in events:
                    self._note(entry, event)
                    events_left -= 1
                    if not events_left:
                        break
            if runtime._channel is not None:
                await runtime._channel.aclose()

    def _note(self, entry: Posted, event: Event) -> None:
        if isinstance(event, Accepted):
            entry.accepted = True
        elif isinstance(event, Failed) and isinstance(event.error, ConnectionLost):
            self._books.counts["connections lost for good"] += 1
        elif isinstance(event, Failed) and not entry.accepted:
            self._books.counts["refused"] += 1
            self._books.counts[f"refused: {type(event.error).__name__}"] += 1
        elif (told := told_by(event)) is not None:
            entry.told.append(told)


# -- afterwards ------------------------------------------------------------------------------------------------------


async def ask_for_outcomes(socket: Path, books: Books) -> None:
    """Every accepted turn by its id. Raises trio.TooSlowError when some have none."""
    async with connect(socket) as runtime:
        for entry in books.posted.values():
            told = await _outcome_of(runtime, entry.turn.id)
            if told is None:
                books.check(not entry.accepted, f"turn {entry.turn.id} was accepted and nobody knows it")
                continue
            entry.accepted = True  # its client left before it could know
            earlier = set(entry.told)
            books.check(earlier <= {told}, f"turn {entry.turn.id} ended as {told}, its client was told {earlier}")
            books.check(len(entry.told) <= 1, f"turn {entry.turn.id} ended {len(entry.told)} times: {entry.told}")
            books.counts[told[0]] += 1
            if told[0] == "failed":
                books.counts[f"failed: {told[1]}"] += 1


async def _outcome_of(runtime: Runtime, turn_id: str) -> Told | None:
    try:
        return "done", (await runtime.wait(turn_id)).text
    except UnknownTurn:
        return None
    except TurnCancelled:
        return "cancelled", ""
    except TurnError as exc:
        return "failed", type(exc).__name__


async def check_rest(socket: Path, service: Service, books: Books) -> None:
    """No turn, slot or byte is held once every turn has ended."""
    async with connect(socket) as runtime:
        status = await runtime.status()
        turns = status["turns"]
        books.check(turns["waiting"] == turns["running"] == 0, f"turns are left: {turns}")
        books.check(status["queued_bytes"] == 0, f"{status['queued_bytes']} bytes are held in queues")
        for desk in status["providers"]:
            books.check(not desk["running"] and not sum(desk["queued"].values()), f"{desk['name']} holds turns: {desk}")
        books.check(status["journal"]["problem"] == "", f"the journal: {status['journal']}")
        books.counts["descriptors of the service at the end"] = service.descriptors()
    books.check(service.descriptors() < 60, f"the service has {service.descriptors()} open files")


def read_journal(home: Path, books: Books) -> list[StoredTurn]:
    """What is on disk of every turn, by the journal's own reading; the service has stopped."""
    connection, told = open_database(home / "journal" / "journal.db")
    try:
        books.check(told == "", f"the journal's file: {told}")
        store = Store(connection, Shortage(home / "journal" / "unused", ballast_bytes=0))
        answers: list[Any] = store.apply([Show(id=turn_id) for turn_id in books.posted], 0.0)
    finally:
        connection.close()
    return [answer.turn for answer in answers if answer.turn is not None]


async def balance(stored: Sequence[StoredTurn], played: Played, books: Books) -> None:
    """Accepted turns against outcomes, attempts against what providers were asked, answers against those that left."""
    counts = books.counts
    books.check(len(stored) == len(books.accepted), f"{len(books.accepted)} accepted, {len(stored)} in the journal")
    books.check(all(turn.ending is not None for turn in stored), "a turn in the journal has no outcome")
    stats = [await played.stats(name) for name in KINDS]
    lost = [one for turn in stored for one in turn.lost]
    counts["accepted"] = len(stored)
    counts["attempts in the books"] = sum(turn.attempts for turn in stored)
    counts["attempts lost"] = len(lost)
    counts["attempts lost, perhaps billed"] = sum(one.ambiguous for one in lost)
    counts["requests at providers"] = sum(stat["requests"] for stat in stats)
    refused = sum(
        count for stat in stats for status, count in stat["statuses"].items() if status not in ("200", "none")
    )
    spoilt = sum(stat["faults"].get("malformed", 0) + stat["faults"].get("error-event", 0) for stat in stats)
    counts["whole answers at providers"] = max(sum(stat["whole"] for stat in stats) - refused - spoilt, 0)
    may_be_bought = counts["done"] + counts["attempts lost, perhaps billed"] + counts["cancelled"] + counts["failed"]
    books.check(
        counts["requests at providers"] <= counts["attempts in the books"], "providers were asked more than was written"
    )
    books.check(
        counts["whole answers at providers"] <= may_be_bought, "answers were bought twice and nobody wrote it down"
    )
    for turn in stored:
        numbers = [one.attempt.number for one in turn.lost]
        if turn.state == "done":
            expected = list(range(1, turn.attempts))
            books.check(
                numbers == expected, f"turn {turn.id}: {turn.attempts} attempts, in the books as lost: {numbers}"
            )


def check_leavings(home: Path, service: Service, books: Books) -> None:
    alive = [pid for pid in service.workers_seen if _is_worker(pid)]
    books.check(not alive, f"workers outlived the service: {alive}")
    expected = {
        "config.toml",
        "journal",
        "run",
        "s.lock",
        "service.log",
        "journal.db",
        "journal.lock",
        "journal.ballast",
    }
    found = {path.name for path in home.rglob("*")}
    books.check(found <= expected, f"files are left: {sorted(found - expected)}")
    text = (home / "service.log").read_text(errors="replace")
    books.check("Traceback" not in text, f"the service's log has a traceback:\n{text[text.find('Traceback') :][:2000]}")


def _is_worker(pid: int) -> bool:
    try:
        return b"loopforge.workers" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


# -- the run ---------------------------------------------------------------------------------------------------------


def write_config(path: Path, urls: dict[str, str]) -> None:
    lines = ["[runtime]", "max_attempts = 20", "reattach_grace_s = 5", "drain_s = 10"]
    for name, kind in KINDS.items():
        lines += [f"[providers.{name}]", f'kind = "{kind}"', f'base_url = "{urls[name]}"', 'api_key_env = ""']
        lines += ['default_model = "m"', "max_concurrency = 8", "first_event_timeout_s = 2", "event_gap_timeout_s = 2"]
    for kind, (first, *fallbacks) in ROUTES.items():
        lines += [f"[router.{kind}]", f'provider = "{first}"', 'model = "default"', "deadline_s = 60"]
        lines += [f"fallbacks = {json.dumps(fallbacks)}"]
    path.write_text("\n".join(lines) + "\n")


async def soak(options: argparse.Namespace) -> tuple[Books, Chaos]:
    books = Books()
    profiles = {name: {**PACE, "kind": kind} for name, kind in KINDS.items()}
    providers = {name: Provider(profile=profile, host="home") for name, profile in profiles.items()}
    with tempfile.TemporaryDirectory(prefix="lf-soak-") as folder:
        home, socket, config = Path(folder), Path(folder, "run", "s"), Path(folder, "config.toml")
        with small_disk(home / "journal", DISK_MB + int(options.seconds * DISK_MB_A_SECOND)) as is_small:
            async with open_played(providers) as played:
                write_config(config, played.urls)
                async with open_kept_service(home, config, socket) as service:
                    chaos = Chaos(
                        service=service,
                        played=played,
                        profiles={name: profile for name, profile in profiles.items() if name != "well"},
                        config=config,
                        disk=home / "journal" if is_small else None,
                        random=random.Random(options.seed),
                        rate=options.rate,
                    )
                    await _trouble(options, socket, books, chaos)
                    await _settle(socket, service, books)
                await balance(read_journal(home, books), played, books)
            check_leavings(home, service, books)
        books.counts["starts of the service"] = service.starts
        books.check(not service.unasked, f"the service ended by itself: {service.unasked}")
    return books, chaos


async def _trouble(options: argparse.Namespace, socket: Path, books: Books, chaos: Chaos) -> None:
    await wait_listening(socket)
    async with trio.open_nursery() as nursery:
        clients = [Client(number, socket, books, options.seed, options.pause) for number in range(options.clients)]
        for client in clients:
            nursery.start_soon(client.run)
        with trio.move_on_after(options.seconds * MOST_TIMES):
            async with trio.open_nursery() as striking:
                striking.start_soon(partial(chaos.run, until_kills=options.kills))
                await trio.sleep(options.seconds)
                await chaos.enough.wait()
                striking.cancel_scope.cancel()
        await chaos.clear_up()
        await trio.sleep(1)
        nursery.cancel_scope.cancel()


async def _settle(socket: Path, service: Service, books: Books) -> None:
    patience_s = SETTLE_S + SETTLE_S_A_TURN * len(books.posted)
    try:
        with trio.fail_after(patience_s):
            await wait_listening(socket)
            await ask_for_outcomes(socket, books)
            await check_rest(socket, service, books)
    except trio.TooSlowError:
        books.problems.append(f"not every turn had its outcome {patience_s:g} s after the trouble had ended")
    service.workers()
    code = await service.stop()
    books.check(code == 0, f"the service ended with {code}")


def show(report: Report, books: Books, chaos: Chaos) -> None:
    lost = sum("nobody knows it" in problem for problem in books.problems)
    report.figures = {
        "kills": chaos.kills,
        "lost": lost,
        "strikes": dict(chaos.counts),
        "books": dict(books.counts),
        "problems": books.problems,
    }
    report.table("What went wrong", ["", "times"], sorted(chaos.counts.items()))
    report.table("The books", ["", "count"], sorted(books.counts.items()))
    for problem in books.problems[:20]:
        report.note(f"DOES NOT BALANCE: {problem}")
    report.goal("kills survived", chaos.kills, ">=", report.options.kills)
    report.goal("accepted turns lost", lost, "<=", 0)
    report.goal("problems in the books", len(books.problems), "<=", 0)


def main(argv: Sequence[str] | None = None) -> int:
    parser = options_parser("faults", (__doc__ or "").partition("\n")[0], rounds=1)
    parser.add_argument("--seconds", type=float, help="of trouble (default 200)")
    parser.add_argument("--seed", type=int, default=1, help="of what goes wrong when")
    parser.add_argument("--rate", type=float, default=2.0, help="strikes a second (default 2)")
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between a client's turns, on average")
    parser.add_argument("--kills", type=int, help="at least so many (default 200)")
    options = parse_options(parser, argv)
    options.seconds = options.seconds or (QUICK_SECONDS if options.quick else 200)
    options.kills = options.kills if options.kills is not None else (1 if options.quick else 200)
    with open_report(options) as report:
        books, chaos = trio.run(soak, options)
        show(report, books, chaos)
    return 1 if books.problems else 0


if __name__ == "__main__":
    sys.exit(main())

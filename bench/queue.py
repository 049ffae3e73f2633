"""What one decision of the task queue costs while 100 to 100,000 turns wait, and what it costs to keep a frame.

Microseconds a turn: offered; assigned and released, 64 at a time; the same with requests and tokens a minute counted,
corrected after each turn and never used up; the same behind a breaker that shut every other model's gate and opens it
again; cancelled in random order; expired. The turns are of all three lanes and of a tenth as many sessions, each with
its own deadline. The longest single cancel is the one that sweeps out stale deadlines. Then one look at a queue whose
minute is used up, which is what every change costs until the minute is over; then microseconds a frame of 120 bytes:
in a ring with room, in a ring that drops an old frame for each new one, with the whole pool full, and against a list
that keeps everything.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Sequence
from functools import partial
from itertools import cycle
from time import perf_counter

from bench.report import Report, interleaved, medians, open_report, options_parser, parse_options
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import LANES
from loopforge.runtime.breakers import Gate
from loopforge.runtime.kept import FRAME_OVERHEAD_BYTES, KeptFramesPool
from loopforge.runtime.taskqueue import Item, TaskQueue

SIZES = (100, 1_000, 10_000, 100_000)
QUICK_SIZES = (100, 1_000)
LEAST_TURNS = 20_000
"""A small queue is filled and emptied until that many turns are measured."""

SLOTS = 64
LAST_DEADLINE = 3_000.0
MODELS = ("one", "other")
SECONDS_A_CALL = 0.01
"""Virtual time between two calls of assign: lanes age within a run, as they do in life."""
PLENTY = 1_000_000_000
"""A limit a minute that is counted and never reached."""
MINUTE_REQUESTS = 6_000
"""Of the minute that is used up: 64 turns of 0.6 s each, all the time."""
LOOKS = 20_000
QUICK_LOOKS = 1_000

FRAME = bytes(120)
FRAMES = 200_000
QUICK_FRAMES = 10_000
RINGS = 100


def main(argv: Sequence[str] | None = None) -> None:
    parser = options_parser("queue", "What a decision of the task queue and a kept frame cost.", rounds=7)
    options = parse_options(parser, argv)
    with open_report(options) as report:
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)  # as in every process of the runtime
        _bench_queue(report, QUICK_SIZES if options.quick else SIZES, options.rounds)
        _bench_used_up(report, QUICK_LOOKS if options.quick else LOOKS, options.rounds)
        _bench_kept(report, QUICK_FRAMES if options.quick else FRAMES, options.rounds)


def _bench_queue(report: Report, sizes: Sequence[int], rounds: int) -> None:
    runs = interleaved({f"{size:,}": partial(queue_figures, size) for size in sizes}, rounds)
    figures = {waiting: medians(results) for waiting, results in runs.items()}
    report.figures["queue"] = figures
    columns = ("offer", "assign", "with limits", "behind gates", "cancel", "expire", "longest cancel")
    report.table("µs a turn, by turns waiting", ["", *columns], [[w, *figures[w].values()] for w in figures])
    for waiting, row in figures.items():
        report.goal(f"assign with {waiting} turns waiting", row["assign_us"], "<=", 10, "µs")
        report.goal(f"assign with {waiting} turns waiting, limits on", row["limits_us"], "<=", 10, "µs")


def _bench_used_up(report: Report, looks: int, rounds: int) -> None:
    runs = interleaved({"look": partial(look_us, looks)}, rounds)
    figures = medians([{"look_us": value} for value in runs["look"]])
    report.figures["used up minute"] = figures
    report.table("µs a look at a queue whose minute is used up", ["assign"], [[figures["look_us"]]])


def _bench_kept(report: Report, frames: int, rounds: int) -> None:
    cost = len(FRAME) + FRAME_OVERHEAD_BYTES
    runs = interleaved(
        {
            "ring with room": partial(append_us, frames, 1, max_turn_bytes=frames * cost),
            "full ring": partial(append_us, frames, 1, max_turn_bytes=frames * cost // 20),
            "full pool": partial(append_us, frames, RINGS, max_bytes=frames * cost // 20),
            "plain list": partial(plain_list_us, frames),
        },
        rounds,
    )
    figures = {name: medians([{"append_us": value} for value in values])["append_us"] for name, values in runs.items()}
    report.figures["kept"] = figures
    report.table("µs a kept frame", list(figures), [list(figures.values())])
    for name in ("ring with room", "full ring"):
        report.goal(f"a frame kept in a {name}", figures[name], "<=", 0.5, "µs")


# -- the queue -------------------------------------------------------------------------------------------------------


def queue_figures(waiting: int) -> dict[str, float]:
    """Microseconds a turn of each operation, over at least LEAST_TURNS turns."""
    items = make_items(waiting)
    ids = [item.id for item in items]
    random.Random(waiting).shuffle(ids)
    times = max(1, LEAST_TURNS // waiting)
    spent = dict.fromkeys(("offer_us", "assign_us", "limits_us", "gates_us", "cancel_us", "expire_us"), 0.0)
    longest = []
    for _ in range(times):
        queue = empty_queue(waiting)
        spent["offer_us"] += fill_s(queue, items)
        spent["assign_us"] += serve_s(queue)
        limited = empty_queue(waiting, a_minute=PLENTY)
        fill_s(limited, items)
        spent["limits_us"] += serve_s(limited, correct=True)
        fill_s(queue, items)
        spent["gates_us"] += shut_and_serve_s(queue)
        fill_s(queue, items)
        took, worst = cancel_s(queue, ids)
        spent["cancel_us"] += took
        longest.append(worst)
        fill_s(queue, items)
        begun = perf_counter()
        queue.expire(LAST_DEADLINE)
        spent["expire_us"] += perf_counter() - begun
        if len(queue):
            raise AssertionError("turns are left over")
    per_turn = {name: seconds / (times * waiting) * 1e6 for name, seconds in spent.items()}
    return per_turn | {"longest_cancel_us": sorted(longest)[len(longest) // 2] * 1e6}


def make_items(count: int) -> list[Item]:
    rng = random.Random(count)
    lanes = cycle(LANES)
    return [
        Item(
            id=f"turn-{number}",
            session=f"session-{rng.randrange(count // 10)}",
            lane=next(lanes),
            size_bytes=1_000,
            deadline=rng.uniform(1_000, LAST_DEADLINE),
            model=MODELS[number % 2],
            tokens=1_000,
        )
        for number in range(count)
    ]


def empty_queue(max_queued: int, *, a_minute: int = 0) -> TaskQueue:
    return TaskQueue(
        ProviderSettings(
            name="bench",
            kind="openai_compatible",
            max_concurrency=SLOTS,
            max_queued=max_queued,
            max_queued_bytes=max_queued * 1_000,
            requests_per_minute=a_minute,
            tokens_per_minute=a_minute,
        )
    )


def fill_s(queue: TaskQueue, items: list[Item]) -> float:
    begun = perf_counter()
    for item in items:
        queue.offer(item, 0.0)
    return perf_counter() - begun


def serve_s(queue: TaskQueue, *, correct: bool = False) -> float:
    """Start all that wait and end them again, as many at a time as there are slots. `correct`: as usage tells."""
    now = 0.0
    begun = perf_counter()
    while len(queue):
        now += SECONDS_A_CALL
        for assignment in queue.assign(now, generation=1):
            queue.release(1, assignment.item.id)
            if correct:
                queue.correct(assignment.item.id, 900, 300)
    return perf_counter() - begun


def shut_and_serve_s(queue: TaskQueue) -> float:
    """Serve one model while the other's gate is shut, then the other."""
    shut = {MODELS[0]: Gate(allow=0, until=LAST_DEADLINE)}
    begun = perf_counter()
    now = 0.0
    while assignments := queue.assign(now, generation=1, gates=shut):
        for assignment in assignments:
            queue.release(1, assignment.item.id)
        now += SECONDS_A_CALL
    return perf_counter() - begun + serve_s(queue)


def look_us(looks: int) -> float:
    """Microseconds of an assign that may start nothing, with a minute of requests to look back at."""
    queue = empty_queue(2 * MINUTE_REQUESTS, a_minute=MINUTE_REQUESTS)
    for number in range(MINUTE_REQUESTS + 1):
        queue.offer(Item(id=str(number), tokens=1), 0.0)
    now = 0.0
    while started := queue.assign(now, generation=1):
        for assignment in started:
            queue.release(1, assignment.item.id)
            queue.refund(assignment.item.id)
        now += 0.001
    begun = perf_counter()
    for _ in range(looks):
        queue.assign(now, generation=1)
        queue.next_look(now)
    return (perf_counter() - begun) / looks * 1e6


def cancel_s(queue: TaskQueue, ids: list[str]) -> tuple[float, float]:
    """Seconds for all, and for the longest one; looking at the clock is in both."""
    worst = 0.0
    begun = before = perf_counter()
    for turn_id in ids:
        queue.cancel(turn_id)
        after = perf_counter()
        worst = max(worst, after - before)
        before = after
    return before - begun, worst


# -- kept frames -----------------------------------------------------------------------------------------------------


def append_us(frames: int, rings: int, *, max_bytes: int = 1 << 40, max_turn_bytes: int = 1 << 40) -> float:
    """Microseconds a frame, appended to the rings by turns of ten as streams interleave."""
    pool = KeptFramesPool(max_bytes=max_bytes, max_turn_bytes=max_turn_bytes)
    opened = [pool.open(str(number)) for number in range(rings)]
    begun = perf_counter()
    for first in range(0, frames // rings, 10):
        for ring in opened:
            for seq in range(first, first + 10):
                ring.append(1, seq, FRAME)
    return (perf_counter() - begun) / frames * 1e6


def plain_list_us(frames: int) -> float:
    kept: list[tuple[int, int, bytes]] = []
    append = kept.append
    begun = perf_counter()
    for seq in range(frames):
        append((1, seq, FRAME))
    return (perf_counter() - begun) / frames * 1e6


if __name__ == "__main__":
    main()

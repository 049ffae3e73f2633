"""How fast the drivers read: wire bytes and events a second of each one's reader, on one core.

The simulator's own streams of text, of thinking and of tool calls, and a whole answer, fed to new readers in the reads
of a fast network (64 KiB) and in those of a slow model (one token each). Process time, medians over rounds. No fold, no
socket: what a delta costs behind the reader is bench.relay's. The goal is 50 MB/s, or 100,000 events a second where
events are small; for a whole answer 50 MB/s. One token a read has no goal: no model says 100,000 a second.

What misses it, or hardly reaches it, is explained in REASONS, from a profile.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import process_time
from urllib.parse import urlsplit

from bench.report import Report, interleaved, medians, open_report, options_parser, parse_options
from loopforge.drivers.registry import KINDS, Kind, ProviderSettings, open_driver
from loopforge.drivers.simulator.profile import Profile, ScriptedCall
from loopforge.drivers.simulator.wires import Asked, Call, open_wire
from loopforge.drivers.turn import Tool, Turn, user
from loopforge.drivers.wire import Driver

READ_BYTES = 64 * 1024
TOKENS, QUICK_TOKENS = 8000, 40
CALLS, QUICK_CALLS = 400, 4
"""Below the thousand that readers take of one answer."""
MIN_MBPS, MIN_EVENTS = 50, 100_000

REASONS: Mapping[str, str] = {
    "gemini, tool calls": (
        "an event is a whole call of three deltas, where other wires have some twenty events for one. Of its 15 µs, "
        "3.5 are json's for the event, 2 cut it out of the stream, 4.5 write its arguments as text, check them and "
        "make the call; its 70,000 calls a second are five times those of the next wire"
    ),
    "bedrock, thinking": (
        "as all of bedrock at the goal, within what a shared machine varies. Seven tenths of its time are botocore's "
        "parser of frames, which unpacks three headers of each in Python"
    ),
}
"""Why a goal is missed, or hardly reached, by variant."""

MODELS: Mapping[Kind, str] = {
    "openai_compatible": "gpt-4o",
    "anthropic": "claude-opus-4-7",
    "gemini": "gemini-3-flash-preview",
    "bedrock": "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
    "dashscope_native": "qwen-plus",
    "zhipu_native": "glm-4.7",
    "minimax_native": "MiniMax-M2.5",
}
THINKS_WHEN_ASKED = ("gemini", "bedrock")
_LOOK = Tool(
    name="look",
    parameters={"type": "object", "properties": {"at": {"type": "string"}, "closely": {"type": "boolean"}}},
)
_ARGUMENTS = {"at": "the oak that stands behind the house on the hill", "closely": True}
Figures = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """An answer of the simulator's: its head, and its body in the steps that it is sent in."""

    driver: Driver
    turn: Turn
    headers: Mapping[str, str]
    steps: Sequence[bytes]

    @property
    def size(self) -> int:
        return sum(map(len, self.steps))

    def in_reads(self) -> Sequence[bytes]:
        body = b"".join(self.steps)
        return [body[at : at + READ_BYTES] for at in range(0, len(body), READ_BYTES)]


# -- what is read ----------------------------------------------------------------------------------------------------


def recorded(kind: Kind, profile: Profile, *, thinks: bool = False, stream: bool = True) -> Recorded:
    """What the simulator answers to a request of the kind's own driver."""
    settings = ProviderSettings(name="bench", kind=kind, base_url="http://simulator/bench/v1", vendor="")
    driver = open_driver(settings)
    turn = Turn(
        kind="coding",
        messages=(user("go"),),
        provider="bench",
        model=MODELS[kind],
        tools=(_LOOK,) if profile.tool_calls else (),
        thinking="high" if thinks and kind in THINKS_WHEN_ASKED else None,
        max_output_tokens=30_000,
        stream=stream,
    )
    request, wire = driver.build_request(turn), open_wire(kind)
    call = Call(
        method=request.method, path=urlsplit(request.url).path, headers=dict(request.headers), body=request.body
    )
    asked = wire.read(call, profile)
    answer = wire.answer(asked, profile, random.Random(0)) if isinstance(asked, Asked) else asked
    if answer.status != 200:
        raise RuntimeError(f"the simulator refuses {kind}: {answer.body!r}")
    steps = [answer.body] if answer.steps is None else list(answer.steps)
    return Recorded(driver=driver, turn=turn, headers=dict(answer.headers), steps=steps)


def as_array(answer: Recorded) -> Recorded:
    """Google's stream as it comes without alt=sse: the chunks as members of one array that arrives in pieces."""
    chunks = [
        json.dumps(json.loads(line.removeprefix(b"data: ")), indent=2).encode()
        for step in answer.steps
        for line in step.split(b"\r\n\r\n")
        if line
    ]
    steps = [(b",\r\n" if at else b"[") + chunk for at, chunk in enumerate(chunks)]
    return replace(answer, steps=[*steps, b"]"])


def all_answers(tokens: int, calls: int) -> dict[str, Recorded]:
    """By kind and what it holds."""
    text = Profile(answer_tokens=tokens)
    thinking = Profile(answer_tokens=1, thinking_tokens=tokens)
    calling = Profile(tool_calls=(ScriptedCall(name="look", arguments=_ARGUMENTS),) * calls)
    answers: dict[str, Recorded] = {}
    for kind in KINDS:
        for name, made in (
            ("text", recorded(kind, replace(text, kind=kind))),
            ("thinking", recorded(kind, replace(thinking, kind=kind), thinks=True)),
            ("tool calls", recorded(kind, replace(calling, kind=kind))),
            ("whole", recorded(kind, replace(text, kind=kind), stream=False)),
        ):
            answers[f"{kind}, {name}"] = made
    for name in ("text", "tool calls"):
        answers[f"gemini, {name}, array"] = as_array(answers[f"gemini, {name}"])
    return answers


# -- the measurement -------------------------------------------------------------------------------------------------


def read(answer: Recorded, reads: Sequence[bytes], seconds: float) -> Figures:
    """One answer after the other, each by a reader of its own, for so long."""
    count = events = 0
    began = process_time()
    while (took := process_time() - began) < seconds or not count:
        reader = answer.driver.new_reader(answer.turn, answer.headers)
        deltas = 0
        for data in reads:
            deltas += len(reader.feed(data))
        deltas += len(reader.close())
        count, events = count + 1, events + reader.events
        if not deltas:
            raise RuntimeError("the reader gave nothing")
    return {"MB/s": answer.size * count / took / 1e6, "events/s": events / took}


def main(argv: list[str] | None = None) -> None:
    options = parse_options(options_parser("readers", __doc__ or "", rounds=7), argv)
    tokens, calls = (QUICK_TOKENS, QUICK_CALLS) if options.quick else (TOKENS, CALLS)
    seconds = 0.001 if options.quick else 0.05
    answers = all_answers(tokens, calls)
    with open_report(options) as report:
        fast = measure({name: (answer, answer.in_reads()) for name, answer in answers.items()}, options.rounds, seconds)
        streams = {name: answer for name, answer in answers.items() if not name.endswith("whole")}
        slow = measure({name: (answer, answer.steps) for name, answer in streams.items()}, options.rounds, seconds)
        show(report, answers, fast, slow)


def measure(
    variants: Mapping[str, tuple[Recorded, Sequence[bytes]]], rounds: int, seconds: float
) -> dict[str, Figures]:
    runs = {name: partial(read, *variant, seconds) for name, variant in variants.items()}
    return {name: medians(figures) for name, figures in interleaved(runs, rounds).items()}


def show(
    report: Report,
    answers: Mapping[str, Recorded],
    fast: Mapping[str, Figures],
    slow: Mapping[str, Figures],
) -> None:
    report.figures = {"64 KiB a read": fast, "a token a read": slow}
    whole = [name for name in answers if name not in slow]
    rows = [
        [
            name,
            fast[name]["MB/s"] / fast[name]["events/s"] * 1e6,
            *fast[name].values(),
            *slow[name].values(),
        ]
        for name in slow
    ]
    columns = ["", "bytes an event", "MB/s", "events/s", "a token a read: MB/s", "events/s"]
    report.table("Streams, 64 KiB a read", columns, rows)
    report.table("Whole answers", ["", "MB/s"], [[name, fast[name]["MB/s"]] for name in whole])
    for name, why in REASONS.items():
        report.note(f"{name}: {why}.")
    for name, figures in fast.items():
        if name in whole:
            report.goal(name, figures["MB/s"], ">=", MIN_MBPS, "MB/s")
        elif figures["events/s"] >= MIN_EVENTS:
            report.goal(name, figures["events/s"], ">=", MIN_EVENTS, "events/s")
        else:
            report.goal(name, figures["MB/s"], ">=", MIN_MBPS, "MB/s")


if __name__ == "__main__":
    main()

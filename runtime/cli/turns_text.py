"""Turns of the journal as a person or a program reads them: rows of a list, all about one, JSON. Pure.

A turn comes as plain values of StoredTurn (runtime/journal/operations.py); members that have their default may be
missing. Headers and bodies in it are those of the frames that ended it (workers/messages.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from loopforge.runtime.cli.columns import clock_time, duration, full_time, table, wrap
from loopforge.runtime.cli.printable import one_line
from loopforge.workers.frame_types import unpack
from loopforge.workers.packing import Malformed, to_plain

Plain = Mapping[str, Any]

LIVE = ("accepted", "running", "parked")
_HEAD = ("TURN", "KIND", "STATE", "ACCEPTED", "TOOK", "TRIES", "SENT TO", "SESSION")
_SERVICE_DIED_SEQ = 2**32 - 2
"""From there on lie outcomes of turns that a service found running in its journal, behind all that their last attempt
had sent: nobody knows when that ended."""
_ASKED = ("kind", "session", "lane", "provider", "model", "size", "detached", "resend_safe", "accepted_at", "deadline")


def list_lines(turns: Sequence[Plain], now: float, width: int) -> list[str]:
    return table(_HEAD, [_row(turn, now) for turn in turns], right={4, 5}, shrink=(7, 6), drop=(7, 1, 5), width=width)


def _row(turn: Plain, now: float) -> Sequence[str]:
    return (
        one_line(turn["id"]),
        one_line(turn["kind"]),
        turn["state"],
        clock_time(turn["accepted_at"], now),
        duration(took_s(turn, now)),
        str(tries(turn)),
        sent_to(turn),
        one_line(turn["session"]) or "-",
    )


def took_s(turn: Plain, now: float) -> float:
    """Seconds from acceptance to the outcome, or until now."""
    ending = turn.get("ending")
    end: float = now if ending is None else ending["ended_at"]
    return float(max(end - turn["accepted_at"], 0.0))


def tries(turn: Plain) -> int:
    attempt = turn.get("attempt")
    return 0 if attempt is None else int(attempt["number"])


def sent_to(turn: Plain) -> str:
    """Where the last attempt went, or what the turn waits for; - when it went nowhere."""
    if (park := turn.get("park")) is not None:
        return f"{one_line(park['provider'])} (parked)"
    attempt = turn.get("attempt")
    return "-" if attempt is None else _place(attempt)


def _place(attempt: Plain) -> str:
    return one_line(f"{attempt['provider']}/{attempt['model']}")


# -- all about one ---------------------------------------------------------------------------------------------------


def describe(turn: Plain, now: float, width: int) -> list[str]:
    """Everything the journal has of a turn, but for its request and the text of its reply."""
    facts = [
        ("turn", one_line(turn["id"])),
        ("state", _state(turn, now)),
        ("kind", _kind(turn)),
        ("asks for", ", ".join(_wishes(turn))),
        ("accepted", f"{full_time(turn['accepted_at'])}, {duration(max(now - turn['accepted_at'], 0))} ago"),
        ("deadline", _deadline(turn, now)),
    ]
    if (ending := turn.get("ending")) is not None:
        facts.append(("ended", f"{full_time(ending['ended_at'])}, after {duration(took_s(turn, now))}"))
        facts += _outcome(outcome_of(turn))
    lines = [line for name, said in facts if said for line in wrap(f"{name:<9} {said}", width, " " * 10)]
    rows = list(_attempts(turn, now))
    if rows:
        lines += [
            "",
            *table(("TRY", "SENT TO", "AT", "TOOK", "RESULT"), rows, right={0, 3}, shrink=(1, 4), width=width),
        ]
    if any(lost["ambiguous"] for lost in turn.get("lost", ())):
        lines += wrap("A try that may have been billed is one whose worker or service died under it.", width)
    if any(took == "-" for *_, took, _ in rows):
        lines += wrap("TOOK is - where the service died under it: nobody saw its end.", width)
    return lines


def _state(turn: Plain, now: float) -> str:
    match turn:
        case {"state": "parked", "park": {"provider": provider, "until": until, "why": why}}:
            left = f"in {duration(until - now)}" if until > now else "any moment"
            return f"parked until {clock_time(until, now)} ({left}) for {one_line(provider)}: {one_line(why)}"
        case {"state": "accepted"}:
            return "accepted: it waits" + (" to be tried again" if tries(turn) else " for its first try")
    return str(turn["state"])


def _kind(turn: Plain) -> str:
    session = f", session {one_line(turn['session'])}" if turn["session"] else ""
    detached = ", detached" if turn["detached"] else ""
    return f"{one_line(turn['kind'])}, {turn['lane'] or '?'} lane{session}{detached}"


def _wishes(turn: Plain) -> Iterable[str]:
    if turn["provider"]:
        yield one_line(f"{turn['provider']}/{turn['model'] or 'default'}")
    yield from map(one_line, turn["features"])
    yield f"about {turn['size']} tokens of input"


def _deadline(turn: Plain, now: float) -> str:
    left_s = turn["deadline"] - now
    if turn.get("ending") is not None:
        return (
            f"{full_time(turn['deadline'])}, {duration(turn['deadline'] - turn['accepted_at'])} after it was accepted"
        )
    return f"{full_time(turn['deadline'])}, " + (f"in {duration(left_s)}" if left_s > 0 else "passed")


def _attempts(turn: Plain, now: float) -> Iterable[Sequence[str]]:
    lost = turn.get("lost", ())
    for one in lost:
        attempt = one["attempt"]
        result = one_line(one["error"]) + (", may have been billed" if one["ambiguous"] else "")
        if one.get("input") or one.get("output"):
            result += f" ({one.get('input', 0)} tokens in, {one.get('output', 0)} out)"
        yield _attempt_row(attempt, one["ended_at"], result, now)
    last, ending = turn.get("attempt"), turn.get("ending")
    if last is not None and last["number"] not in {one["attempt"]["number"] for one in lost}:
        ended_at: float | None = now
        if ending is not None:
            ended_at = None if ending["seq"] >= _SERVICE_DIED_SEQ else ending["ended_at"]
        yield _attempt_row(last, ended_at, turn["state"] if ending is not None else "under way", now)


def _attempt_row(attempt: Plain, ended_at: float | None, result: str, now: float) -> Sequence[str]:
    """`ended_at`: None when the service died during it."""
    took = "-" if ended_at is None else duration(max(ended_at - attempt["since"], 0.0))
    return str(attempt["number"]), _place(attempt), clock_time(attempt["since"], now), took, result


def _outcome(outcome: Plain) -> Iterable[tuple[str, str]]:
    if (error := outcome.get("error")) is not None:
        yield "error", f"{one_line(str(error.get('class', 'TurnError')))}: {error_text(error)}"
    if outcome.get("why"):
        yield "because", one_line(outcome["why"])
    if (reply := outcome.get("reply")) is not None:
        count = len(outcome["text"])
        yield "reply", f"finish {reply.get('finish', '?')}, {count} characters; --text prints it"
        if tokens := _tokens(reply.get("usage", {})):
            yield "usage", tokens
        for warning in reply.get("warnings", ()):
            yield "warning", one_line(warning)
    elif outcome.get("text"):
        yield "partial", f"{len(outcome['text'])} characters had come; --text prints them"


def error_text(error: Plain) -> str:
    """What happened, and what to do."""
    where = ": ".join(one_line(str(error[name])) for name in ("provider", "what") if error.get(name))
    return f"{where}; {one_line(str(error['action']))}" if error.get("action") else where


def _tokens(usage: Plain) -> str:
    """1200 input (800 cached), 90 output (40 reasoning)."""
    said = []
    for name, part, word in (("input", "cache_read", "cached"), ("output", "reasoning", "reasoning")):
        if usage.get(name) is not None:
            within = f" ({usage[part]} {word})" if usage.get(part) else ""
            said.append(f"{usage[name]} {name}{within}")
    return ", ".join(said)


# -- what ended it ---------------------------------------------------------------------------------------------------


def outcome_of(turn: Plain) -> dict[str, Any]:
    """Of a turn that Show told of: {"reply", "text"} | {"error", "partial", "text"} | {"why"}; {} of one that lives.

    What the service of another version wrote and this one cannot read is left out.
    """
    ending = turn.get("ending")
    if ending is None:
        return {}
    header, body = _map(ending["header"]), _map(ending["body"])
    match turn["state"]:
        case "done":
            reply = dict(body)
            reply.update((name, header[name]) for name in ("attempts", "provider", "model") if name in header)
            reply["timings"] = header.get("timings", {})
            reply["warnings"] = [*body.get("warnings", ()), *header.get("warnings", ())]
            return {"reply": reply, "text": _text(body.get("message"))}
        case "failed":
            fields = header.get("fields")
            return {"error": fields if isinstance(fields, dict) else {}, "partial": body or None, "text": _text(body)}
    return {"why": str(header.get("why", ""))}


def _map(data: bytes) -> dict[str, Any]:
    try:
        value = unpack(data) if data else {}
    except Malformed:
        return {}
    return value if isinstance(value, dict) else {}


def _text(message: object) -> str:
    """Of its parts of text and refusal, in order."""
    parts = message.get("content", ()) if isinstance(message, dict) else ()
    return "".join(str(part.get("text", "")) for part in parts if part.get("type") in ("text", "refusal"))


# -- JSON ------------------------------------------------------------------------------------------------------------


def turn_json(turn: Plain, *, whole: bool = False) -> dict[str, Any]:
    """What json.dumps takes. Times in unix seconds, bytes as base64. `whole`: with lost attempts and the outcome."""
    ending = turn.get("ending")
    told = {
        "id": turn["id"],
        "state": turn["state"],
        **{name: turn[name] for name in _ASKED},
        "features": turn["features"],
        "attempts": tries(turn),
        "attempt": turn.get("attempt"),
        "park": turn.get("park"),
        "ended_at": None if ending is None else ending["ended_at"],
    }
    if whole:
        told |= {"lost": [_lost_json(one) for one in turn.get("lost", ())], **outcome_of(turn)}
    plain: dict[str, Any] = to_plain(told, text_bytes=True)
    return plain


def _lost_json(lost: Plain) -> dict[str, Any]:
    return {"input": 0, "output": 0, **lost}

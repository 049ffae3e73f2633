"""The README's table of what each kind of provider carries: `python -m tests.drivers.capability_table` writes it.

What a cell says comes from the registry (drivers/capabilities.py), over one model of every family; the number behind it
is how many recorded answers or requests have it, as the drivers read them. Without the recordings there are no numbers,
and nothing is written.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from loopforge.drivers.capabilities import Capabilities, capabilities_of
from loopforge.drivers.registry import KINDS, Kind, open_driver
from loopforge.drivers.turn import Reply
from tests.drivers.every_family import every_family, settings_of
from tests.drivers.exchanges import Exchange, read, recordings, sdk_replies, sdk_requests
from tests.drivers.openai_compatible.recorded import driver_for as chat_driver_for
from tests.recorded import MISSING, recordings_folder

README: Final = Path(__file__).resolve().parents[2] / "README.md"
BEGIN: Final = "<!-- capability table: written by python -m tests.drivers.capability_table -->"
END: Final = "<!-- end of the capability table -->"

Told = Callable[[list[Capabilities]], str]
"""Families -> what a cell says of them."""


def if_true(of: Callable[[Capabilities], bool]) -> Told:
    return lambda families: _share([of(can) for can in families])


def of_tools(of: Callable[[Capabilities], bool]) -> Told:
    """Of models that take tools at all."""
    return lambda families: _share([of(can) for can in families if can.tools])


def _share(carried: list[bool]) -> str:
    return "yes" if all(carried) else "some" if any(carried) else "no"


def _stream(families: list[Capabilities]) -> str:
    return "yes" if all(can.streaming == "yes" for can in families) else "yes, some without tools"


def _forced(families: list[Capabilities]) -> str:
    share = of_tools(lambda can: can.named_tool in ("yes", "not_thinking"))(families)
    return "not promised" if share == "no" and any(can.named_tool == "unsure" for can in families) else share


def _thinking(families: list[Capabilities]) -> str:
    words = ("budget", "effort", "switch", "always")
    return ", ".join(word for word in words if any(can.thinking == word for can in families)) or "no"


def _schema(families: list[Capabilities]) -> str:
    enforced = _share([can.schema in ("enforced", "not_thinking") for can in families])
    other = "by call or prompt" if any(can.schema == "tool" for can in families) else "by prompt"
    return {"yes": "yes", "some": f"some, else {other}", "no": other}[enforced]


COLUMNS: Final[Mapping[str, Told]] = {
    "stream": _stream,
    "tools": if_true(lambda can: can.tools),
    "several calls": of_tools(lambda can: can.tools),
    "one call at a time": of_tools(lambda can: can.one_call),
    "forced call": _forced,
    "images": if_true(lambda can: can.images or can.image_urls),
    "documents": if_true(lambda can: can.documents or can.document_urls),
    "sound": if_true(lambda can: can.audio),
    "thinking": _thinking,
    "schema of the answer": _schema,
    "cache marks": if_true(lambda can: can.cache_marks),
    "seed": if_true(lambda can: can.seed),
    "stop strings": if_true(lambda can: can.stops != 0),
}
# What a request says on any of the wires, in JSON without blanks.
_ASKED: Final[Mapping[str, re.Pattern[str]]] = {
    name: re.compile(pattern)
    for name, pattern in {
        "one call at a time": r'"parallel_tool_calls":false|"disable_parallel_tool_use":true',
        "forced call": r'"tool_choice":(\{"type":"(any|tool|function)"|\{"(function|name)":|"(required|any)")'
        r'|"toolChoice":\{"(any|tool)"|"mode":"ANY"',
        "images": r'"type":"(image|image_url)"|"mime_?[tT]ype":"image/|\{"image":',
        "documents": r'"type":"(document|file|file_url|doc_url)"|"mime_?[tT]ype":"application/pdf|\{"document":',
        "sound": r'"type":"input_audio"|"mime_?[tT]ype":"audio/|\{"audio":',
        "schema of the answer": r'"json_schema"|"response_?(json_?)?[sS]chema"|"responseJsonSchema"|"output_format"'
        r'|"textFormat"',
        "cache marks": r'"cache_control"|"cachePoint"',
        "seed": r'"(random_)?seed":\d',
        "stop strings": r'"(stop|stop_sequences|stopSequences)":[\["]',
    }.items()
}


def table() -> str:
    """The block between the markers. Raises LookupError where there are no recordings."""
    if recordings_folder() is None:
        raise LookupError(MISSING)
    rows = [["kind", "recorded", *COLUMNS]]
    for kind in KINDS:
        answers, seen = _seen(kind)
        row = [_cell(told, seen[name]) for name, told in zip(COLUMNS, told_of(kind), strict=True)]
        rows.append([f"`{kind}`", f"{answers:,}", *row])
    return "\n".join(_markdown(rows))


def told_of(kind: Kind) -> Iterable[str]:
    """What the cells of a kind say, without their numbers."""
    families = [capabilities_of(settings, model) for settings, model in every_family() if settings.kind == kind]
    return (told(families) for told in COLUMNS.values())


def cells(block: str) -> list[list[str]]:
    """The head and the rows of a table."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.strip().splitlines()]
    return [rows[0], *rows[2:]]


def block_of(readme: str) -> str:
    """What stands between the markers. Raises ValueError where they are missing."""
    start, end = readme.index(BEGIN) + len(BEGIN), readme.index(END)
    return readme[start:end].strip()


def _cell(told: str, number: int) -> str:
    return told if told == "no" else f"{told} · {number:,}"


def _markdown(rows: list[list[str]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        yield f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |"
        if not number:
            yield f"|{'|'.join('-' * (width + 2) for width in widths)}|"


def _seen(kind: Kind) -> tuple[int, Counter[str]]:
    """How many answers were read, and in how many of them, or of the requests, each column's matter occurs."""
    answers = [*recordings(kind), *(sdk_replies(kind) if _has(kind, "sdk_replies") else ())]
    seen: Counter[str] = Counter()
    for exchange in answers:
        reply = _read(kind, exchange)
        if reply is not None:
            seen.update(_said(reply, stream=exchange.stream))
    requests = [exchange.request for exchange in recordings(kind) if exchange.request]
    requests += [line["request"] for line in (sdk_requests(kind) if _has(kind, "sdk_requests") else ())]
    for request in requests:
        text = json.dumps(request, separators=(",", ":"))
        seen.update(name for name, pattern in _ASKED.items() if pattern.search(text))
    return len(answers), seen


def _has(kind: Kind, more: str) -> bool:
    """Some kinds have answers and requests from written scenarios, too."""
    folder = recordings_folder()
    return folder is not None and (folder / f"{kind}.{more}.jsonl").exists()


def _read(kind: Kind, exchange: Exchange) -> Reply | None:
    if kind == "openai_compatible":
        return read(chat_driver_for(exchange.vendor), exchange).reply
    vendor = exchange.vendor if kind == "anthropic" else ""
    return read(open_driver(settings_of(kind, vendor)), exchange).reply


def _said(reply: Reply, *, stream: bool) -> Iterable[str]:
    if stream:
        yield "stream"
    if reply.tool_calls:
        yield "tools"
    if len(reply.tool_calls) > 1:
        yield "several calls"
    if reply.message.thinking or reply.usage.reasoning:
        yield "thinking"


def main() -> int:
    """Write the table into the README."""
    text = README.read_text("utf-8")
    try:
        block_of(text)
        new = table()
    except (LookupError, ValueError) as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    README.write_text(f"{text[:start]}\n\n{new}\n\n{text[end:]}", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

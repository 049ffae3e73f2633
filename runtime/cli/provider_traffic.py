"""The running service's traffic by provider, as `providers report` shows it. Made of what STATUS tells; imports little.

What the figures are: runtime/traffic.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loopforge.runtime import markdown
from loopforge.runtime.cli.columns import duration, table
from loopforge.runtime.cli.printable import one_line

_HEAD = (
    "PROVIDER", "ATTEMPTS", "DONE", "FAILED", "CANCELLED", "FIRST TOKEN P50", "P99", "TOTAL P50", "P99", "LAST GOOD",
)  # fmt: skip
_MARKDOWN_HEAD = (
    "Provider", "Attempts", "Done", "Failed", "Cancelled", "First token p50", "p99", "Total p50", "p99", "Last good",
    "Errors", "Next step",
)  # fmt: skip
_MAX_NEXT_STEP = 200


def traffic_of(told: Mapping[str, Any]) -> dict[str, Any] | None:
    """The part of STATUS that is about traffic; None when the service is of a version that tells none."""
    providers = [
        {
            "name": provider["name"],
            "kind": provider.get("kind", ""),
            "state": provider.get("state", ""),
            "down_reason": provider.get("down_reason", ""),
            **provider["traffic"],
        }
        for provider in told.get("providers", [])
        if provider.get("traffic")
    ]
    if not providers and told.get("providers"):
        return None
    return {
        "version": told.get("version", ""),
        "config": told.get("config", ""),
        "uptime_s": told.get("uptime_s", 0.0),
        "totals": {name: sum(each[name] for each in providers) for name in ("attempts", "done", "cancelled")}
        | {"failed": sum(sum(each["failed"].values()) for each in providers)},
        "providers": providers,
    }


def to_lines(traffic: Mapping[str, Any]) -> list[str]:
    """For a person: a table of the providers that had traffic, then what went wrong and what to do about it."""
    busy, quiet = _split(traffic)
    lines = [_summary(traffic), ""]
    if busy:
        rows = [tuple(one_line(cell) for cell in _row(provider)) for provider in busy]
        lines += table(_HEAD, rows, right=range(1, len(_HEAD)))
        windows = [provider["window"] for provider in busy]
        if any(window["attempts"] < provider["attempts"] for window, provider in zip(windows, busy, strict=True)):
            lines.append(f"latencies: of each provider's last {max(window['attempts'] for window in windows)} attempts")
        lines += [
            f"{one_line(provider['name'])}: {one_line(_trouble(provider))}" for provider in busy if provider["failed"]
        ]
    if quiet:
        lines.append(f"no traffic so far: {', '.join(one_line(provider['name']) for provider in quiet)}")
    return lines


def to_markdown(traffic: Mapping[str, Any]) -> list[str]:
    """The same as a Markdown document."""
    busy, quiet = _split(traffic)
    lines = ["# Provider traffic", "", _summary(traffic), ""]
    rows = [(*_row(provider), _classes(provider["failed"]), _next_step(provider)) for provider in busy]
    if busy:
        lines += markdown.table(_MARKDOWN_HEAD, rows)
    if quiet:
        lines += ["", f"No traffic so far: {', '.join(markdown.cell(provider['name']) for provider in quiet)}."]
    return lines


def _split(traffic: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    providers = traffic["providers"]
    return (
        [provider for provider in providers if provider["attempts"]],
        [provider for provider in providers if not provider["attempts"]],
    )


def _summary(traffic: Mapping[str, Any]) -> str:
    totals = traffic["totals"]
    return (
        f"LoopForge {traffic['version']}, up {duration(traffic['uptime_s'])}: {totals['attempts']} attempts, "
        f"{totals['done']} done, {totals['failed']} failed, {totals['cancelled']} cancelled"
    )


def _row(provider: Mapping[str, Any]) -> Sequence[str]:
    window = provider["window"]
    last_done = provider["last_done_ago_s"]
    return (
        provider["name"],
        str(provider["attempts"]),
        str(provider["done"]),
        str(sum(provider["failed"].values())),
        str(provider["cancelled"]),
        *_latency(window["first_token"]),
        *_latency(window["total"]),
        "never" if last_done is None else f"{duration(last_done)} ago",
    )


def _latency(spread: Mapping[str, float] | None) -> tuple[str, str]:
    return ("-", "-") if spread is None else (latency(spread["p50_s"]), latency(spread["p99_s"]))


def latency(value: float) -> str:
    """Milliseconds below a second: 340 ms, 1.24 s, 12.3 s, 3 min 5 s."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s" if value < 60 else duration(value)


def _trouble(provider: Mapping[str, Any]) -> str:
    """Error classes with their counts, then the last one with its next step."""
    said = _classes(provider["failed"])
    if (last := provider["last_failure"]) is not None:
        said += f"; last {last['error']} {duration(last['ago_s'])} ago"
    if next_step := _next_step(provider):
        said += f": {next_step}"
    return said


def _classes(failed: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in failed.items())


def _next_step(provider: Mapping[str, Any]) -> str:
    last = provider["last_failure"]
    return one_line(last["next_step"], _MAX_NEXT_STEP) if last else ""

"""loopforge usage: what turns cost, from the books of the service's journal, priced with the configuration's prices.

Costs are sums by provider and model times `prices` of [providers.NAME]. Those are read from the file as it stands,
without checking all of it: that would take longer than the answer. No trio, HTTP or pydantic.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from loopforge.runtime.cli.asking import ask_journal
from loopforge.runtime.cli.columns import table, terminal_width, wrap
from loopforge.runtime.cli.exits import CommandFailed
from loopforge.runtime.cli.options import config_option, json_option
from loopforge.runtime.cli.printable import one_line
from loopforge.runtime.cli.when import Moment
from loopforge.runtime.config.paths import MAX_CONFIG_BYTES

KEYS = ("provider", "model", "kind", "session", "day")
SUMS = ("turns", "failed", "cancelled", "attempts", "input", "cache_read", "cache_write", "output", "reasoning")
_HEADS = ("TURNS", "FAILED", "CANCELLED", "TRIES", "INPUT", "CACHED", "OUTPUT", "REASONING")
_SHOWN = ("turns", "failed", "cancelled", "attempts", "input", "cache_read", "output", "reasoning")
_MILLION = 1_000_000
MAX_LISTED = 1000
"""As runtime/queries.py bounds it."""
_EPILOG = """Costs need prices in the configuration, in USD per million tokens:

\b
  [providers.NAME.prices]
  "MODEL" = { input = 3.0, output = 15.0, cache_read = 0.3 }

Cached input costs cache_read, or input where that is not written; the rest costs input. Likewise cache_write.
"""

Place = tuple[str, str]
Prices = Mapping[Place, Mapping[str, float]]
"""(provider, model) -> input, output, cache_read, cache_write in USD per million tokens, as far as written."""


@dataclass
class Sum:
    """One group. `cost_usd` is of what has a price; `unpriced`: the places with tokens and without."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SUMS, 0))
    cost_usd: float = 0.0
    priced: bool = False
    unpriced: set[Place] = field(default_factory=set)

    def add(self, row: Mapping[str, Any], place: Place, prices: Prices) -> None:
        for name in SUMS:
            self.counts[name] += row[name]
        if (price := prices.get(place)) is not None:
            self.cost_usd += cost_usd(row, price)
            self.priced = True
        elif row["input"] or row["output"]:
            self.unpriced.add(place)


@click.command(epilog=_EPILOG)
@click.option(
    "--by",
    "keys",
    multiple=True,
    type=click.Choice(KEYS),
    help="Sum by this; may be given several times.  [default: provider, model]",
)
@click.option(
    "--limit", type=click.IntRange(1, MAX_LISTED), default=50, show_default=True, help="At most so many sums."
)
@click.option("--since", type=Moment(), help="Whole days (UTC) since then: 12h, 7d ago, or a date.")
@json_option("the sums")
@config_option()
def usage(keys: tuple[str, ...], limit: int, since: float | None, as_json: bool, config: Path) -> None:
    """Show tokens, tries and costs of all turns so far.

    TRIES counts every sending to a provider, also those that failed; INPUT includes CACHED and OUTPUT includes
    REASONING. The books outlive the turns; after 92 days they forget sessions.

    Largest first: the most input and output; by day, the latest first. The total is of all, shown or not.
    """
    chosen = tuple(dict.fromkeys(keys)) or ("provider", "model")
    asked = (*chosen, *(key for key in ("provider", "model") if key not in chosen))
    told = ask_journal(config, "usage", by=list(asked), groups=len(chosen), limit=limit, since=since, answer_s=30.0)
    groups, total = add_up(told, asked, len(chosen), read_prices(config))
    if as_json:
        click.echo(json.dumps({**_to_json(chosen, groups, total), "more": told["more"]}, indent=2))
        return
    width = terminal_width()
    if not groups:
        click.echo("No turn has been counted" + (" since then." if since is not None else " so far."))
        return
    click.echo("\n".join(_lines(chosen, groups, total, width)))
    for line in _about_prices(total, config):
        click.echo("\n".join(wrap(line, width)))
    if told["more"]:
        click.echo("There are more: raise --limit, or narrow the time with --since.", err=True)


def add_up(
    told: Mapping[str, Any], asked: Sequence[str], keys: int, prices: Prices
) -> tuple[dict[tuple[str, ...], Sum], Sum]:
    """Sums by the first `keys` of `asked`, in the order told, and of all. `told`: a UsageTable by the keys `asked`."""
    groups: dict[tuple[str, ...], Sum] = {}
    total = Sum()
    at = asked.index("provider"), asked.index("model")
    for row in told["rows"]:
        place = row["key"][at[0]], row["key"][at[1]]
        groups.setdefault(tuple(row["key"][:keys]), Sum()).add(row, place, prices)
    for row in told["totals"]:
        total.add(row, tuple(row["key"]), prices)
    return groups, total


def cost_usd(row: Mapping[str, Any], price: Mapping[str, float]) -> float:
    """Input includes what was read from and written to a cache; output includes reasoning."""
    full = price.get("input", 0.0)
    read: int = row["cache_read"]
    written: int = row["cache_write"]
    plain = max(row["input"] - read - written, 0)
    cached = read * price.get("cache_read", full) + written * price.get("cache_write", full)
    return float(plain * full + cached + row["output"] * price.get("output", 0.0)) / _MILLION


def read_prices(config: Path) -> Prices:
    """Of a configuration file; none when there is no such file. Raises CommandFailed for one that cannot be read."""
    try:
        with config.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES)
    except FileNotFoundError:
        return {}
    if b"prices" not in data:
        return {}
    import tomli

    try:
        providers = tomli.loads(data.decode("utf-8-sig")).get("providers", {})
        return {
            (name, model): {key: float(value) for key, value in price.items()}
            for name, provider in providers.items()
            for model, price in provider.get("prices", {}).items()
        }
    except (ValueError, TypeError, AttributeError, RecursionError) as exc:
        raise CommandFailed(f"The prices in {config} cannot be read; see 'loopforge config validate'.") from exc


# -- text ------------------------------------------------------------------------------------------------------------


def _lines(keys: Sequence[str], groups: Mapping[tuple[str, ...], Sum], total: Sum, width: int) -> list[str]:
    shown = [index for index, name in enumerate(_SHOWN) if total.counts[name] or name in ("turns", "input", "output")]
    heads = [*map(str.upper, keys), *(_HEADS[index] for index in shown), *(["COST"] if total.priced else [])]
    names = [_SHOWN[index] for index in shown]
    rows = [
        [*(one_line(part) or "-" for part in key), *_cells(each, names, cost=total.priced)]
        for key, each in groups.items()
    ]
    if len(groups) > 1 or any(total.counts != each.counts for each in groups.values()):
        rows.append(["total", *[""] * (len(keys) - 1), *_cells(total, names, cost=total.priced)])
    numbers = range(len(keys), len(heads))
    return table(heads, rows, right=set(numbers), shrink=range(len(keys) - 1, -1, -1), width=width)


def _cells(each: Sum, names: Sequence[str], *, cost: bool) -> list[str]:
    return [*(f"{each.counts[name]:,}" for name in names), *([_cost(each)] if cost else [])]


def _cost(each: Sum) -> str:
    """$1.23; >$1.23 when some of it has no price; - when nothing has."""
    if not each.priced:
        return "-"
    digits = 2 if each.cost_usd >= 1 or each.cost_usd == 0 else 4
    return f"{'>' if each.unpriced else ''}${each.cost_usd:,.{digits}f}"


def _about_prices(total: Sum, config: Path) -> Iterable[str]:
    if not total.unpriced:
        return
    places = [one_line(_named(place)) for place in sorted(total.unpriced)]
    if total.priced:
        yield f"Without a price: {', '.join(places)}."
    else:
        yield f"No costs: there are no prices of these models in {one_line(str(config))}; see 'loopforge usage --help'."


def _to_json(keys: Sequence[str], groups: Mapping[tuple[str, ...], Sum], total: Sum) -> dict[str, Any]:
    rows = [{**dict(zip(keys, key, strict=True)), **_sum_json(each)} for key, each in groups.items()]
    return {"by": list(keys), "rows": rows, "total": _sum_json(total)}


def _sum_json(each: Sum) -> dict[str, Any]:
    """`cost_usd`: null when nothing of it has a price; of what has one, else."""
    return {
        **each.counts,
        "cost_usd": round(each.cost_usd, 9) if each.priced else None,
        "unpriced": [_named(place) for place in sorted(each.unpriced)],
    }


def _named(place: Place) -> str:
    """The journal tells so many models apart and no more."""
    return "/".join(place) if place[1] else "others"

"""loopforge rehearse: the configuration's own routes against simulated providers."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from loopforge.runtime.cli.exits import FAILED, INTERRUPTED, BadConfig, CommandFailed
from loopforge.runtime.cli.options import json_option
from loopforge.runtime.config import paths
from loopforge.runtime.rehearsal.faults import FAULTS, Faults, UnusableFault, read_faults

if TYPE_CHECKING:
    from loopforge.runtime.config.values import Config
    from loopforge.runtime.rehearsal.run import Progress, Result, Script
    from loopforge.runtime.rehearsal.view import View

MAX_SECONDS = 3600.0


def _list_faults(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        width = max(map(len, FAULTS))
        click.echo("\n".join(f"{name:<{width}}  {what}" for name, what in FAULTS.items()))
        context.exit()


_HELP = """Try the routes against simulated providers: no key, no cost.

Every provider's address is replaced by a simulator on this machine, then turns of every kind of task are posted. A
provider can be made to misbehave, or its worker process killed: see what each kind's turns would do.

\b
loopforge rehearse
loopforge rehearse --fault ollama=kill-worker
loopforge rehearse --fault deepseek=429 --rate coding=5 --seconds 30

Exit code 0 when every turn got an outcome; turns that failed under a fault did.
"""


@click.command(help=_HELP)
@click.option("--config", metavar="FILE", help="Use this file instead of $LOOPFORGE_HOME/config.toml.")
@click.option(
    "--seconds",
    metavar="N",
    type=click.FloatRange(0.5, MAX_SECONDS),
    default=10.0,
    show_default=True,
    help="How long to post turns.",
)
@click.option("--rate", "rates", metavar="KIND=N", multiple=True, help="Post N turns a second of this kind of task.")
@click.option("--seed", metavar="N", type=int, default=0, show_default=True, help="Same seed, same turns.")
@click.option("--fault", "faults", metavar="PROVIDER=NAME", multiple=True, help="Make this provider misbehave.")
@click.option(
    "--list-faults",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_faults,
    help="List the names and what they do.",
)
@json_option("the result")
@click.option(
    "--json-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the result to this file as well, as JSON.",
)
@click.pass_context
def rehearse(
    context: click.Context,
    *,
    config: str | None,
    seconds: float,
    rates: tuple[str, ...],
    seed: int,
    faults: tuple[str, ...],
    as_json: bool,
    json_file: Path | None,
) -> None:
    """The command: read what is asked for, play it, say what came of it."""
    if math.isnan(seconds):  # it passes any range
        raise click.BadParameter("nan is not a number of seconds", param_hint="--seconds")
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder {json_file.absolute().parent}", param_hint="--json-file")
    checked = _checked(config)
    script = _script(checked, seconds, seed, rates, faults)
    result = _run(checked, script)
    _print(result, as_json=as_json, json_file=json_file)
    from loopforge.runtime.rehearsal.report import ok

    if result.interrupted:
        context.exit(INTERRUPTED)
    if not ok(result):
        context.exit(FAILED)


def _checked(option: str | None) -> Config:
    """The configuration; the presets when there is none yet: no set-up is required."""
    from loopforge.runtime.config.child import check_in_child_blocking

    checked = check_in_child_blocking(paths.config_or_presets(option, os.environ), os.environ)
    if checked.config is None:
        raise BadConfig(checked.problems)
    return checked.config


def _script(config: Config, seconds: float, seed: int, rates: tuple[str, ...], faults: tuple[str, ...]) -> Script:
    """What to play. Raises click's usage errors."""
    from loopforge.runtime.rehearsal.run import Script
    from loopforge.runtime.rehearsal.workload import read_rates, schedule, typical_load

    try:
        injected = read_faults(faults, config.providers)
        _check_use(injected, config)
    except UnusableFault as exc:
        raise click.BadParameter(str(exc), param_hint="--fault") from None
    try:
        loads = read_rates(rates, [typical_load(kind, route.lane) for kind, route in config.routes.items()])
        schedule(loads, seconds, seed)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="--rate") from None
    return Script(seconds=seconds, seed=seed, loads=loads, faults=injected)


def _check_use(faults: Faults, config: Config) -> None:
    """Raises UnusableFault for a provider that no turn would meet, CommandFailed when there would be no turn at all."""
    from loopforge.runtime.rehearsal.stage import absent_providers

    absent = absent_providers(config)
    firsts = {route.targets[0].provider for route in config.routes.values()}
    if firsts <= absent.keys():
        raise CommandFailed("nothing to rehearse: " + "; ".join(f"{name} {absent[name]}" for name in sorted(firsts)))
    routed = list(dict.fromkeys(target.provider for route in config.routes.values() for target in route.targets))
    for provider in faults.to_plain():
        if provider in absent:
            raise UnusableFault(f"{provider} {absent[provider]}")
        if provider not in routed:
            raise UnusableFault(f"no route leads to {provider}, so nobody would notice; routed: {', '.join(routed)}")


def _run(config: Config, script: Script) -> Result:
    import trio

    from loopforge.runtime.rehearsal.quiet import quiet_stderr
    from loopforge.runtime.rehearsal.run import rehearse as play
    from loopforge.runtime.rehearsal.run import stop_on_interrupt
    from loopforge.runtime.rehearsal.screen import open_screen
    from loopforge.runtime.rehearsal.simulator import SimulatorFailed

    logging.getLogger("loopforge").addHandler(logging.NullHandler())  # what happens to workers is in the result

    async def main(show: Callable[[Progress], None]) -> Result:
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop_on_interrupt, stop)
            try:
                result = await play(config, script, show, stop)
            except SimulatorFailed as exc:
                raise CommandFailed(str(exc)) from exc
            nursery.cancel_scope.cancel()
        return result

    with quiet_stderr() as terminal:
        if not terminal.isatty():  # progress is for a terminal alone
            return trio.run(main, _show_nothing)
        with open_screen(terminal, time.monotonic) as draw:
            return trio.run(main, lambda progress: draw(_view(progress, script)))


def _show_nothing(_progress: Progress) -> None:
    return


def _view(progress: Progress, script: Script) -> View:
    from loopforge.runtime.rehearsal.view import View, notes, rows

    player, staged = progress.player, progress.stage
    playable = [load.kind for load in script.loads if load.kind not in staged.unplayable()]
    behaviour = {provider: ", ".join(script.faults.named(provider)) for provider in player.targets.values()}
    if progress.elapsed_s < script.seconds:
        clock = f"{progress.elapsed_s:4.1f} of {script.seconds:g} s"
    else:
        clock = f"{progress.elapsed_s:4.1f} s, waiting for the last {player.ledger.open} turns"
    return View(
        title="LoopForge rehearsal",
        clock=clock,
        rows=rows({kind: player.targets[kind] for kind in playable}, behaviour, player.ledger.entries, player.status),
        notes=notes(player.incidents, progress.began_at),
    )


def _print(result: Result, *, as_json: bool, json_file: Path | None) -> None:
    from loopforge.runtime.rehearsal.document import to_json, write_json
    from loopforge.runtime.rehearsal.layout import width_of
    from loopforge.runtime.rehearsal.report import to_lines, to_plain

    if json_file is not None:
        write_json(json_file, to_plain(result))
    if as_json:
        click.echo(to_json(to_plain(result)), nl=False)
    else:
        click.echo("\n".join(to_lines(result, width_of(sys.stdout))))

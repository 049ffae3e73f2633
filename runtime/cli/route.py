"""loopforge route: show where each kind of task goes, and change it without breaking what runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from loopforge.runtime.cli.exits import BadConfig, CommandFailed, format_problem
from loopforge.runtime.cli.options import config_option, json_option
from loopforge.runtime.config import paths

if TYPE_CHECKING:
    from loopforge.runtime.cli.switch import Switch
    from loopforge.runtime.config.values import Config, Target

CHECK_S = 5.0
"""For each of doctor's checks, as `loopforge doctor` has it by default."""
REHEARSED_S = 0.5
_SET_HELP = """Let the turns of KIND go to PROVIDER, with its default model or with MODEL.

Changes config.toml and keeps its comments; fallbacks and other keys of the route stay. Nothing is written unless the
new configuration is valid and every check passed. The old file is kept as a backup, and the command that brings it back
is printed.

\b
loopforge route set planning anthropic/claude-sonnet-4-6 --check
"""
_STAYS = "the configuration stays as it was"


@click.group()
def route() -> None:
    """Show and change where each kind of task goes."""


@route.command()
@click.argument("kind", required=False)
@click.option("--config", metavar="FILE", help="Use this file instead of $LOOPFORGE_HOME/config.toml.")
@json_option("the routes")
def show(kind: str | None, config: str | None, as_json: bool) -> None:
    """Show where each kind of task goes, or KIND alone."""
    from loopforge.runtime.config.child import check_in_child_blocking

    path = paths.config_or_presets(config, os.environ)
    checked = check_in_child_blocking(path, os.environ)
    if checked.config is None:
        raise BadConfig(checked.problems)
    routes = checked.config.routes
    if kind is not None and kind not in routes:
        from loopforge.runtime.config.findings import did_you_mean

        raise click.UsageError(f"There is no kind of task {kind!r}; {did_you_mean(kind, list(routes))}")
    shown = routes if kind is None else {kind: routes[kind]}
    if as_json:
        import json

        from loopforge.workers.packing import to_plain

        plain = {name: to_plain(each, defaults=True) for name, each in shown.items()}
        click.echo(json.dumps({"path": checked.config.path, "router": plain}, ensure_ascii=False, indent=2))
        return
    from loopforge.runtime.cli.columns import table

    rows = [
        (name, each.lane, f"{each.deadline_s:g} s", " then ".join(map(_spell, each.targets)))
        for name, each in shown.items()
    ]
    click.echo("\n".join(table(("KIND OF TASK", "LANE", "DEADLINE", "GOES TO"), rows, right={2})))
    if path == paths.PRESETS:
        click.echo(f"These are the presets: there is no {paths.config_path(None, os.environ)} yet; see loopforge init.")


@route.command("set", help=_SET_HELP)
@click.argument("kind")
@click.argument("target", metavar="PROVIDER[/MODEL]")
@config_option()
@click.option("--check", is_flag=True, help="First check the provider (doctor) and rehearse one turn; costs nothing.")
@click.option("--smoke", is_flag=True, help="First send it one real turn of a few tokens, too; includes --check.")
@click.option("--new", "new_kind", is_flag=True, help="KIND is a new kind of task.")
def set_target(*, kind: str, target: str, config: Path, check: bool, smoke: bool, new_kind: bool) -> None:
    """The command: prepare the change, check what is asked for, put it in place, say how to undo it."""
    from loopforge.runtime.cli.switch import prepared
    from loopforge.runtime.doctor.routes import is_doctors

    provider, slash, model = target.partition("/")
    if not provider or (slash and not model.strip()):
        raise click.UsageError(f"{target!r} is not PROVIDER or PROVIDER/MODEL.")
    with prepared(config, kind, provider, model, new_kind=new_kind) as switch:
        for problem in switch.warnings:
            if not ((check or smoke) and is_doctors(problem)):
                click.echo(format_problem(problem))
        if check or smoke:
            _check(switch)
        if smoke:
            _smoke(switch)
        if not switch.changes:
            click.echo(f"{kind} goes to {_spell(switch.after)} already; nothing was written.")
            return
        backup = switch.place()
        was = f" (was {_spell(switch.before)})" if switch.before else ""
        click.echo(f"{kind} goes to {_spell(switch.after)} now{was}.")
        click.echo(f"Undo: {switch.undo_command(backup)}")
    _mention_service(config)


# -- before it is written --------------------------------------------------------------------------------------------


def _check(switch: Switch) -> None:
    """Doctor for the provider, then one rehearsed turn. Raises CommandFailed."""
    import trio

    from loopforge.runtime.cli.doctor import columns, paint, shown_findings
    from loopforge.runtime.doctor.report import findings_lines, worst
    from loopforge.runtime.doctor.run import examine_providers, real_tools

    async def examine() -> list[str]:
        found = await examine_providers(_only(switch), {switch.after.provider}, real_tools(os.environ), CHECK_S)
        return [worst(found), *findings_lines(shown_findings(found), columns(), paint)]

    status, *lines = trio.run(examine)
    click.echo("\n".join(lines))
    if status == "error":
        raise CommandFailed(f"{switch.after.provider} cannot serve turns as things are: see above; {_STAYS}")
    _rehearse(switch)


def _only(switch: Switch) -> Config:
    """The new configuration with this route alone: what other kinds want of the provider is no matter here."""
    from dataclasses import replace

    route = switch.config.routes[switch.kind]
    return replace(switch.config, routes={switch.kind: replace(route, targets=route.targets[:1])})


def _rehearse(switch: Switch) -> None:
    """One turn of the kind, by the new configuration, at a simulated provider. Raises CommandFailed."""
    import trio

    from loopforge.drivers.errors import TurnError
    from loopforge.runtime.rehearsal.faults import read_faults
    from loopforge.runtime.rehearsal.quiet import quiet_stderr
    from loopforge.runtime.rehearsal.run import Script, rehearse
    from loopforge.runtime.rehearsal.simulator import SimulatorFailed
    from loopforge.runtime.rehearsal.stage import absent_providers
    from loopforge.runtime.rehearsal.workload import KindLoad

    config = _only(switch)
    if why := absent_providers(config).get(switch.after.provider):
        click.echo(f"Not rehearsed: {switch.after.provider} {why}.")
        return
    load = KindLoad(
        kind=switch.kind, per_second=1 / REHEARSED_S, prompt_chars=(200, 200), answer_tokens=(8, 8)
    )  # one turn
    script = Script(seconds=REHEARSED_S, seed=0, loads=(load,), faults=read_faults((), config.providers))

    async def play() -> list[tuple[str, str, float]]:
        result = await rehearse(config, script, lambda _progress: None, trio.Event())
        return [
            (entry.outcome or "lost", entry.message, (entry.ended_at or entry.posted_at) - entry.posted_at)
            for entry in result.entries
        ]

    try:
        with quiet_stderr():
            ((outcome, message, took_s),) = trio.run(play)
    except (SimulatorFailed, TurnError) as exc:
        raise CommandFailed(f"the rehearsal could not be played: {exc}; {_STAYS}") from exc
    if outcome != "done":
        raise CommandFailed(f"the rehearsed turn was {outcome}{f': {message}' if message else ''}; {_STAYS}")
    click.echo(
        f"Rehearsed: a {switch.kind} turn at a simulated {switch.after.provider} was answered in {took_s:.1f} s."
    )


def _smoke(switch: Switch) -> None:
    """One real turn, as loopforge providers smoke sends it. Raises CommandFailed."""
    from dataclasses import replace

    from loopforge.runtime.rehearsal.quiet import quiet_stderr
    from loopforge.runtime.smoke.run import smoke_now
    from loopforge.runtime.smoke.targets import targets_of

    (found,) = targets_of(switch.config.providers, os.environ, [switch.after.provider])
    target = replace(found, model=switch.after.model, model_from="")
    click.echo(f"Sending {_spell(switch.after)} one real turn …")
    with quiet_stderr():
        (result,) = smoke_now(target, ("text",))
    if result.status != "ok":
        raise CommandFailed(f"the real turn was {result.status}: {result.reason}; {result.next_step}; {_STAYS}")
    took = f" in {result.total_s:.1f} s" if result.total_s is not None else ""
    tokens = f", {result.usage.output} tokens" if result.usage.output is not None else ""
    click.echo(f"Answered{took}{tokens}.")


# -- words -----------------------------------------------------------------------------------------------------------


def _spell(target: Target) -> str:
    return f"{target.provider}/{target.model}"


def _mention_service(config: Path) -> None:
    """A running service has read the old file."""
    from loopforge.runtime.blocking import NoAnswer, ask_status

    try:
        told = ask_status(paths.client_socket(config, os.environ), answer_s=1.0)
    except (NoAnswer, paths.UnusablePath):
        return
    if os.path.realpath(str(told.get("config", ""))) == os.path.realpath(config):
        click.echo("The running service still goes by the old file; let it read this one: loopforge reload")

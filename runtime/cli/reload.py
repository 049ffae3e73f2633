"""loopforge reload: the running service reads its configuration again, and says what is different. No trio."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from loopforge.runtime.blocking import ask_reload
from loopforge.runtime.cli.asking import needing_service
from loopforge.runtime.cli.exits import BAD_CONFIG, BadConfig, format_problem
from loopforge.runtime.cli.options import config_option, json_option
from loopforge.runtime.cli.printable import one_line
from loopforge.runtime.config import paths

RELOAD_S = 60.0
"""The service checks the configuration in a process of its own, which it gives half a minute."""

_SAID = {
    "added": "new providers",
    "changed": "changed providers",
    "removed": "removed providers",
    "kinds": "changed routes",
    "settings": "changed settings in [runtime]",
}


@click.command()
@config_option()
@json_option("what changed, or the problems")
@click.pass_context
def reload(context: click.Context, config: Path, as_json: bool) -> None:
    """Have the running service read its configuration again.

    Only providers whose entry changed get a new worker; turns that run finish on the old one, those that wait are
    routed again. A configuration with errors changes nothing: they are printed as 'config validate' prints them, and
    the exit code is 78. --config serves to find the service; it reads the file that it was started with.
    """
    with needing_service():
        told = ask_reload(paths.client_socket(config, os.environ), answer_s=RELOAD_S)
    if as_json:
        click.echo(json.dumps(told, indent=2))
        if not told["ok"]:
            context.exit(BAD_CONFIG)
        return
    if told["ok"]:
        for problem in _problems(told.get("warnings", ())):
            click.echo(format_problem(problem), err=True)
        click.echo("\n".join(describe(told)))
    else:
        raise BadConfig(_problems(told["problems"]))


def describe(told: Mapping[str, Any]) -> Iterable[str]:
    """What the service told of a reload that went well, as lines for a person."""
    yield f"reloaded {one_line(told['path'])}"
    changes = told["changes"]
    for name, said in _SAID.items():
        if changes.get(name):
            yield f"  {said}: {', '.join(map(one_line, changes[name]))}"
    if changes.get("changed") or changes.get("removed"):
        yield "  their old workers end with the last turn they have"
    if at_start := changes.get("at_start"):
        names = ", ".join(map(one_line, at_start))
        yield f"  not in force yet: {names} in [runtime] count{'s' * (len(at_start) == 1)} from the next start on;"
        yield "  restart the service for that, which resumes its turns from the journal"
    if not any(changes.values()):
        yield "  nothing is different"


def _problems(plain: Iterable[Mapping[str, Any]]) -> list[Any]:
    from loopforge.runtime.config.values import Problem

    return [Problem(**problem) for problem in plain]

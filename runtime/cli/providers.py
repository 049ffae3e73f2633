"""loopforge providers: list, show, smoke, report. No key is ever printed; only smoke asks a provider anything."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loopforge.runtime.cli.exits import FAILED, BadConfig, CommandFailed
from loopforge.runtime.cli.options import Decorator, config_option, json_option
from loopforge.runtime.config import paths

if TYPE_CHECKING:  # `report` asks the service and needs none of this
    from loopforge.drivers.registry import ProviderSettings
    from loopforge.runtime.config.values import Config
    from loopforge.runtime.smoke.results import CaseResult
    from loopforge.runtime.smoke.targets import Target

CASES = ("text", "stream", "tool")  # those of runtime/smoke/cases.py, which --help need not load
MAX_TIMEOUT_S = 3600.0
LIMITS = (
    "max_concurrency", "reserve", "max_queued", "max_queued_bytes", "requests_per_minute", "tokens_per_minute",
    "connect_timeout_s", "first_event_timeout_s", "event_gap_timeout_s", "memory_limit_mb", "context_window",
)  # fmt: skip
_RATED = ("requests", "tokens")


@click.group()
def providers() -> None:
    """Show the providers, ask one for real, report on their traffic."""


def _config_option() -> Decorator:
    """As in options.py, but without a file the presets count: no set-up is required."""
    return click.option("--config", metavar="FILE", help="Use this file instead of $LOOPFORGE_HOME/config.toml.")


# -- list, show ------------------------------------------------------------------------------------------------------


@providers.command("list")
@_config_option()
@json_option("all that 'show' tells of each")
def list_(config: str | None, as_json: bool) -> None:
    """List the configured providers: kind, key, model, address."""
    checked = _checked(config)
    told = [describe(checked, name, os.environ) for name in checked.providers]
    if as_json:
        _print_json({"config": checked.path, "providers": told})
        return
    from loopforge.runtime.cli.columns import table

    rows = [
        (
            f"{'*' if each['routes'] else ' '} {each['name']}",
            each["kind"] if each["driver"] else f"{each['kind']} (missing)",
            each["vendor"],
            "-" if not each["key"]["variable"] else f"{each['key']['variable']} ({each['key']['state']})",
            each["default_model"] or "-",
            _address(each),
        )
        for each in told
    ]
    head = ("  PROVIDER", "DRIVER", "VENDOR", "KEY", "DEFAULT MODEL", "ADDRESS")
    click.echo("\n".join([*table(head, rows), "", "* serves a kind of task. More: loopforge providers show NAME"]))


@providers.command()
@click.argument("name")
@_config_option()
@json_option("the same")
def show(name: str, config: str | None, as_json: bool) -> None:
    """Show one provider: where it is, whether its key is set, its limits, what is routed to it, what is missing."""
    checked = _checked(config)
    _known(name, checked)
    told = describe(checked, name, os.environ)
    if as_json:
        _print_json(told)
    else:
        click.echo("\n".join(to_lines(told)))


def describe(config: Config, name: str, env: Mapping[str, str]) -> dict[str, Any]:
    """Everything about one provider that may be told, as plain values."""
    from loopforge.drivers.registry import has_driver, has_simulator
    from loopforge.runtime.smoke.targets import model_variables
    from loopforge.workers.packing import to_plain

    settings = config.providers[name]
    key = {"variable": settings.api_key_env, "state": paths.key_state(settings.api_key_env, env)}
    told: dict[str, Any] = {
        "name": name,
        "kind": settings.kind,
        "vendor": settings.vendor,
        "base_url": settings.base_url,
        "driver": has_driver(settings.kind),
        "can_be_rehearsed": has_driver(settings.kind) and has_simulator(settings.kind),
        "key": key,
        "default_model": settings.default_model,
        "model_variables": list(model_variables(name, config.providers)),
        "headers": sorted(settings.headers),
        "extra_body": sorted(settings.extra_body),
        "limits": {limit: getattr(settings, limit) for limit in LIMITS},
        "routes": [
            {"kind": kind, "model": target.model, "fallback": place}
            for kind, route in config.routes.items()
            for place, target in enumerate(route.targets)
            if target.provider == name
        ],
    }
    if (aws := settings.aws_bedrock) is not None:
        told["aws"] = to_plain(aws, defaults=True)
    return told | {"next_steps": next_steps(told)}


def next_steps(told: Mapping[str, Any]) -> list[str]:
    """What is left to do before turns can go there, in order."""
    name, key = told["name"], told["key"]
    steps = []
    if not told["driver"]:
        steps.append(f"this version has no driver for {told['kind']}: choose another provider")
    if key["state"] == "not set":
        steps.append(f"set its key where the service runs: export {key['variable']}=…")
    if not told["default_model"]:
        steps.append(f'name a model: default_model = "MODEL" under [providers.{name}]')
    if told["driver"]:
        steps.append(f"ask it for real, which costs a few tokens: loopforge providers smoke {name}")
        if not told["routes"]:
            steps.append(f"send a kind of task there: loopforge route set coding {name}")
    return steps


def to_lines(told: Mapping[str, Any]) -> list[str]:
    """The same for a person."""
    limits = told["limits"]
    waits = tuple(limits[f"{name}_timeout_s"] for name in ("connect", "first_event", "event_gap"))
    driver = "" if told["driver"] else " (no driver in this version)"
    rehearsed = "" if told["can_be_rehearsed"] or not told["driver"] else " (cannot be rehearsed yet)"
    rows = [
        ("provider", told["name"]),
        ("kind", f"{told['kind']}{driver}{rehearsed}"),
        ("vendor", told["vendor"]),
        ("address", _address(told)),
        ("key", _key(told)),
        ("model", f"{told['default_model'] or 'none'}; smoke tests take {' or '.join(told['model_variables'])} first"),
        *(
            [("AWS", ", ".join(f"{name} {value}" for name, value in told["aws"].items() if value))]
            if "aws" in told
            else []
        ),
        *([("headers", ", ".join(told["headers"]))] if told["headers"] else []),
        *([("body", ", ".join(told["extra_body"]))] if told["extra_body"] else []),
        ("slots", f"{limits['max_concurrency']}, of which {limits['reserve']} for the interactive lane"),
        ("queue", f"{limits['max_queued']} turns, {limits['max_queued_bytes'] / 2**20:g} MB"),
        ("rate", ", ".join(f"{limits[f'{unit}_per_minute'] or 'any number of'} {unit} a minute" for unit in _RATED)),
        ("patience", "{:g} s to connect, {:g} s to the first event, {:g} s between two".format(*waits)),
        ("routes", "; ".join(_route(route) for route in told["routes"]) or "none"),
        *(("next" if not number else "", step) for number, step in enumerate(told["next_steps"])),
    ]
    return [f"{name:<9} {value}".rstrip() for name, value in rows]


def _key(told: Mapping[str, Any]) -> str:
    if told["key"]["variable"]:
        return f"{told['key']['variable']}, {told['key']['state']}"
    return "AWS credentials: variables, profile or role" if "aws" in told else "none needed"


def _route(route: Mapping[str, Any]) -> str:
    place = f" (fallback {route['fallback']})" if route["fallback"] else ""
    return f"{route['kind']} to {route['model']}{place}"


def _address(told: Mapping[str, Any]) -> str:
    return told["base_url"] or (f"region {told['aws']['region']}" if "aws" in told else "-")


# -- smoke -----------------------------------------------------------------------------------------------------------


@providers.command()
@click.argument("name")
@_config_option()
@click.option("--model", metavar="MODEL", help="Ask for this model.")
@click.option("--case", "cases", type=click.Choice(CASES), multiple=True, help="Only this case; may be repeated.")
@click.option(
    "--timeout",
    "timeout_s",
    metavar="S",
    type=click.FloatRange(1.0, MAX_TIMEOUT_S),
    help="Seconds a case may take (default 60; 180 for a local server).",
)
@json_option("the results")
@click.pass_context
def smoke(
    context: click.Context,
    *,
    name: str,
    config: str | None,
    model: str | None,
    cases: tuple[str, ...],
    timeout_s: float | None,
    as_json: bool,
) -> None:
    """Ask a provider for real: a text, a stream and a tool call. Costs a few tokens.

    The key is taken where the configuration says, the model from LOOPFORGE_NAME_MODEL or default_model. Exit code 1
    when a case failed, or none could be tried.
    """
    checked = _checked(config)
    _known(name, checked)
    target = _target(checked.providers, name, model)
    if target.skip:
        raise CommandFailed(f"{name} cannot be asked: {target.skip}; {target.next_step}")
    from loopforge.runtime.smoke.cases import CASES as ALL_CASES
    from loopforge.runtime.smoke.report import overall, provider_to_plain, to_line
    from loopforge.runtime.smoke.run import ignore, smoke_now

    def tell(result: CaseResult) -> None:
        click.echo(to_line(result, result.case))

    chosen = [case for case in ALL_CASES if not cases or case in cases]
    if not as_json:
        click.echo(f"asking {name} for {target.model}: {', '.join(chosen)}")
    results = smoke_now(target, chosen, timeout_s=timeout_s, tell=ignore if as_json else tell)
    if as_json:
        key = paths.key_state(target.settings.api_key_env, os.environ)
        _print_json({"config": checked.path, **provider_to_plain(target, results, key)})
    else:
        click.echo(_verdict(name, results))
    if overall(result.status for result in results) != "ok":
        context.exit(FAILED)


def _target(configured: Mapping[str, ProviderSettings], name: str, model: str | None) -> Target:
    from loopforge.runtime.smoke.targets import model_variables, targets_of

    env = dict(os.environ)
    if model:
        env[model_variables(name, configured)[0]] = model
    return targets_of(configured, env, [name])[0]


def _verdict(name: str, results: Sequence[CaseResult]) -> str:
    good = sum(result.status == "ok" for result in results)
    return f"{name}: {good} of {len(results)} cases ok"


# -- report ----------------------------------------------------------------------------------------------------------


@providers.command()
@config_option()
@json_option("the same")
@click.option("--markdown", is_flag=True, help="Print a Markdown table.")
def report(config: Path, as_json: bool, markdown: bool) -> None:
    """Report on the traffic of the running service: latencies, error classes, the last good turn. Asks no provider.

    The configuration is read for the service's socket only. Exit code 1 when no service answers.
    """
    if as_json and markdown:
        raise click.UsageError("--json and --markdown exclude one another.")
    from loopforge.runtime.blocking import NoAnswer, ask_status
    from loopforge.runtime.cli import provider_traffic

    socket = paths.client_socket(config, os.environ)
    try:
        told = ask_status(socket)
    except NoAnswer as exc:
        text = str(exc)
        raise CommandFailed(f"{text[:1].upper()}{text[1:]}.") from exc
    traffic = provider_traffic.traffic_of(told)
    if traffic is None:
        raise CommandFailed(f"the service at {socket} does not tell its traffic: restart it with this version")
    if as_json:
        _print_json({"socket": str(socket), **traffic})
    elif markdown:
        click.echo("\n".join(provider_traffic.to_markdown(traffic)))
    else:
        click.echo("\n".join(provider_traffic.to_lines(traffic)))


# -- the configuration -----------------------------------------------------------------------------------------------


def _checked(option: str | None) -> Config:
    from loopforge.runtime.config.load import check

    checked = check(paths.config_or_presets(option, os.environ), os.environ)
    if checked.config is None:
        raise BadConfig(checked.problems)
    return checked.config


def _known(name: str, config: Config) -> None:
    """Raises click.UsageError for a provider that the configuration does not have."""
    if name not in config.providers:
        from loopforge.runtime.config.findings import did_you_mean

        hint = did_you_mean(name, list(config.providers))
        raise click.UsageError(f"There is no provider {name!r} in {config.path}; {hint}")


def _print_json(document: Mapping[str, Any]) -> None:
    import json

    click.echo(json.dumps(document, ensure_ascii=False, indent=2))

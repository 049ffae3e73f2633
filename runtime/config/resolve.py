"""From what a person wrote to frozen values: how tables refer to one another, and what leaving a key out means.

Every rule that needs more than one table stands here; what a single table may hold is model.py's. Reports all it finds
before it gives up. Looks at no file and no network; of the environment only at which key variables are set.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, TypeVar

from loopforge.drivers.registry import AwsSettings, Price, ProviderSettings, has_driver
from loopforge.drivers.turn import Lane
from loopforge.runtime.config.base_url import (
    VENDORS_OF_KIND,
    is_exposed,
    is_loopback,
    trouble_with,
    vendor_of,
    without_request_path,
)
from loopforge.runtime.config.carrying import warn_of_routes, with_lacks
from loopforge.runtime.config.findings import Findings, Path, describe, did_you_mean, looks_like_key
from loopforge.runtime.config.model import (
    ORIGINAL_TABLES,
    TABLES,
    HttpTable,
    ProviderTable,
    Read,
    RouteTable,
    RuntimeTable,
    Table,
    check_json,
    read_table,
)
from loopforge.runtime.config.paths import Environment, key_state
from loopforge.runtime.config.values import Config, HttpSettings, Route, RuntimeSettings, Target

STANDING_KINDS = ("planning", "coding", "summary")
DEFAULT_PROVIDER = "ollama"
DEFAULT_MODEL = "default"
LANE_OF_KIND: Mapping[str, Lane] = {"planning": "interactive", "coding": "normal", "summary": "background"}

OLLAMA_CONCURRENCY = (
    2  # its own default is one slot (OLLAMA_NUM_PARALLEL); the second keeps it from idling between turns
)
LOOPBACK_CONCURRENCY = 8
REMOTE_CONCURRENCY = 64
FIRST_EVENT_TIMEOUT_S, LOOPBACK_FIRST_EVENT_TIMEOUT_S = 120.0, 600.0  # a local server loads the model first
EVENT_GAP_TIMEOUT_S, LOOPBACK_EVENT_GAP_TIMEOUT_S = 60.0, 300.0

# Keys that are read and checked, but that nothing acts on yet: what happens instead. Remove a line when that changes.
NOT_ACTED_ON: Mapping[type[Table], Mapping[str, str]] = {
    HttpTable: {
        "listen": "there is no HTTP ingress",
        "api_key_env": "there is no HTTP ingress",
    },
}

_NAME = re.compile(r"[a-z0-9_-]+")

T = TypeVar("T", bound=Table)


def resolve(raw: Mapping[str, Any], file: FilePath, findings: Findings, env: Environment) -> Config | None:
    """The configuration that the parsed TOML describes, or None with every error in `findings`."""
    _check_top(raw, findings)
    providers = _read_named(ProviderTable, raw, "providers", findings)
    routes = _read_named(RouteTable, raw, "router", findings)
    runtime = _read_one(RuntimeTable, raw, "runtime", findings)
    http = _read_one(HttpTable, raw, "http", findings)
    for name, provider in providers.items():
        _check_provider(name, provider, findings)
    places = {kind: _targets(_references(kind, route), providers, findings) for kind, route in routes.items()}
    missing = _missing_targets(routes, providers, findings)
    if findings.errors:
        return None
    settings = {name: _provider(name, provider.table) for name, provider in providers.items()}
    resolved = {kind: _route(kind, route.table, tuple(places[kind])) for kind, route in routes.items()}
    resolved |= {kind: _route(kind, RouteTable(), tuple(found)) for kind, found in missing.items()}
    resolved = {kind: with_lacks(route, settings) for kind, route in resolved.items()}
    _warn_of_routed(resolved, settings, findings, env)
    _warn_of_short_deadlines(resolved.values(), findings)
    warn_of_routes(resolved.values(), settings, {**places, **missing}, findings)
    return Config(
        path=str(file),
        providers=settings,
        routes=dict(sorted(resolved.items(), key=_standing_first)),
        runtime=_runtime(runtime),
        http=HttpSettings(**http.model_dump()),
        warnings=findings.warnings,
    )


def _check_top(raw: Mapping[str, Any], findings: Findings) -> None:
    for name, value in raw.items():
        if name in ORIGINAL_TABLES:
            findings.warn((name,), "this table of the original LoopForge is not read here", "it may stay")
        elif name not in TABLES:
            what = (
                f"there is no table [{name[:60]}]" if isinstance(value, dict) else "there are no keys outside of tables"
            )
            findings.error((name,), what, did_you_mean(name, TABLES, "[{}]"))


def _read_named(cls: type[T], raw: Mapping[str, Any], section: str, findings: Findings) -> dict[str, Read[T]]:
    """The tables [section.NAME] by name, each as far as it is right."""
    tables = raw.get(section, {})
    if not isinstance(tables, dict):
        findings.error((section,), f"{describe(tables)} is not a table", f"write [{section}.NAME] tables")
        return {}
    read: dict[str, Read[T]] = {}
    for name, table in tables.items():
        path: Path = (section, name)
        if findings.full:
            break
        if not isinstance(table, dict):
            findings.error(path, f"{describe(table)} is not a table", f"write its keys below [{section}.{name[:60]}]")
            read[name] = Read.nothing(cls)
            continue
        if not _NAME.fullmatch(name):
            better = re.sub(r"[^a-z0-9_-]+", "_", name.lower()).strip("_") or "name"
            findings.error(path, "names have only a-z, 0-9, _ and -", f"write [{section}.{better[:60]}]")
        read[name] = read_table(cls, table, path, findings)
        _warn_of_idle_keys(read[name].table, path, findings)
    return read


def _read_one(cls: type[T], raw: Mapping[str, Any], section: str, findings: Findings) -> T:
    table = read_table(cls, raw.get(section, {}), (section,), findings).table
    _warn_of_idle_keys(table, (section,), findings)
    return table


def _warn_of_idle_keys(table: Table, path: Path, findings: Findings) -> None:
    for key, instead in NOT_ACTED_ON.get(type(table), {}).items():
        if getattr(table, key) != type(table).model_fields[key].default:
            findings.warn((*path, key), "this key is not acted on yet", instead)


def _check_provider(name: str, read: Read[ProviderTable], findings: Findings) -> None:
    path: Path = ("providers", name)
    table = read.table
    check_json(table.extra_body, (*path, "extra_body"), findings)
    if trouble := _trouble_with_url(read):
        findings.error((*path, "base_url"), *trouble)
    else:
        _warn_of_url(table, path, findings)
        if not read.bad & {"base_url", "reserve", "max_concurrency"}:
            _check_reserve(name, table, findings)
    if table.vendor not in ("", *VENDORS_OF_KIND[table.kind]) and not read.bad & {"kind", "vendor"}:
        findings.warn((*path, "vendor"), *_strange_vendor(table))
    if table.aws_bedrock is not None and table.kind != "bedrock" and "kind" not in read.bad:
        problem = f"kind {describe(table.kind)} does not read this table"
        findings.warn((*path, "aws_bedrock"), problem, 'it goes with kind = "bedrock"')


def _strange_vendor(table: ProviderTable) -> tuple[str, str]:
    """What is said of a vendor that another kind's driver knows, and this one's does not."""
    known, written = VENDORS_OF_KIND[table.kind], describe(table.vendor)
    kinds = [kind for kind, vendors in VENDORS_OF_KIND.items() if table.vendor in vendors]
    theirs = " or ".join(f'kind = "{kind}"' for kind in kinds)
    if not known:
        return f"kind {describe(table.kind)} tells no vendors apart", f"leave vendor out, or write {theirs}"
    problem = f"kind {describe(table.kind)} knows no vendor {written}, and each reply will say so"
    return problem, f"leave vendor out, or write {theirs}; vendors of this kind: {', '.join(known)}"


def _trouble_with_url(read: Read[ProviderTable]) -> tuple[str, str] | None:
    if read.table.base_url:
        return trouble_with(read.table.base_url)
    if read.bad & {"base_url", "kind"} or read.table.kind == "bedrock":  # AWS has an endpoint a region
        return None
    return "base_url is missing or empty", 'write base_url = "https://…"'


def _check_reserve(name: str, table: ProviderTable, findings: Findings) -> None:
    slots = _provider(name, table).max_concurrency
    if table.reserve and table.reserve >= slots:
        problem = f"{table.reserve} of {slots} slots (max_concurrency) leaves none to the other lanes"
        findings.error(("providers", name, "reserve"), problem, f"write at most {slots - 1}")


def _warn_of_url(table: ProviderTable, path: Path, findings: Findings) -> None:
    if table.api_key_env and is_exposed(table.base_url):
        findings.warn((*path, "base_url"), "the key will cross the network unencrypted", "write https:// if it can")
    if (shorter := without_request_path(table.base_url)) is not None:
        instead = "leave out the last part" if looks_like_key(table.base_url) else f'write "{shorter}"'
        findings.warn((*path, "base_url"), "a base URL ends before the path of a request", instead)


@dataclass(frozen=True, slots=True)
class _Reference:
    """A (provider, model) pair as a route names it, and where it does."""

    provider: str
    model: str
    provider_path: Path
    model_path: Path


def _references(kind: str, read: Read[RouteTable]) -> Iterator[_Reference]:
    """Those that are written rightly enough to be followed."""
    path: Path = ("router", kind)
    route = read.table
    if not read.bad & {"provider", "model"}:
        yield _Reference(route.provider, route.model, (*path, "provider"), (*path, "model"))
    for index, fallback in enumerate(route.fallbacks):
        provider, slash, model = fallback.partition("/")
        place: Path = (*path, "fallbacks", index)
        yield _Reference(provider, model if slash else DEFAULT_MODEL, place, place)


def _targets(
    references: Iterable[_Reference], providers: Mapping[str, Read[ProviderTable]], findings: Findings
) -> dict[Target, Path]:
    """Where the references lead, in order, each once, and where the file says so."""
    targets: dict[Target, Path] = {}
    for reference in references:
        target = _target(reference, providers, findings)
        if target is None:
            continue
        if target in targets:
            findings.warn(reference.provider_path, "this provider and model stand in the route before", "remove it")
        else:
            targets[target] = reference.provider_path
    return targets


def _target(reference: _Reference, providers: Mapping[str, Read[ProviderTable]], findings: Findings) -> Target | None:
    provider, model = reference.provider, reference.model
    if provider not in providers:
        problem = f"there is no provider {describe(provider)}" if provider.strip() else "the provider is empty"
        findings.error(reference.provider_path, problem, _known_provider(provider, providers))
    if not model.strip():
        findings.error(reference.model_path, "the model is empty", 'write "default" or the name of a model')
    if provider not in providers or not model.strip():
        return None
    if model != DEFAULT_MODEL:
        return Target(provider=provider, model=model)
    read = providers[provider]
    if not read.table.default_model and "default_model" not in read.bad:
        findings.error(
            reference.model_path,
            f'"default" means default_model of [providers.{provider}], and that is empty',
            "write it there, or name a model here",
        )
        return None
    return Target(provider=provider, model=read.table.default_model)


def _known_provider(provider: str, providers: Mapping[str, object]) -> str:
    if not providers:
        return (
            f"write a table [providers.{provider}]" if _NAME.fullmatch(provider) else "write a [providers.NAME] table"
        )
    name, slash, model = provider.partition("/")
    if slash and name in providers:
        return f"write provider = {describe(name)} and model = {describe(model)}"
    return did_you_mean(provider, sorted(providers), '"{}"')


def _missing_targets(
    routes: Mapping[str, object], providers: Mapping[str, Read[ProviderTable]], findings: Findings
) -> dict[str, dict[Target, Path]]:
    """Targets of the standing kinds that the file does not route: ollama / default, when there is an ollama."""
    missing = [kind for kind in STANDING_KINDS if kind not in routes]
    if not missing or any(problem.place in {"providers", "router"} for problem in findings.errors):
        return {}
    if DEFAULT_PROVIDER not in providers:
        near = f"write [router.{missing[0]}] with provider = {describe(min(providers))}" if providers else ""
        findings.error(
            ("router",),
            f"nothing says where {', '.join(missing)} turns go, and their default, provider ollama, is not defined",
            near or "'loopforge init' writes a file with providers and routes",
        )
        return {}
    place: Path = ("providers", DEFAULT_PROVIDER, "default_model")
    targets = _targets([_Reference(DEFAULT_PROVIDER, DEFAULT_MODEL, place, place)], providers, findings)
    return dict.fromkeys(missing, targets)


def _warn_of_routed(
    routes: Mapping[str, Route], providers: Mapping[str, ProviderSettings], findings: Findings, env: Environment
) -> None:
    """What will keep a routed provider from serving. Presets that nothing routes to need no key and no driver."""
    routed: dict[str, list[str]] = {}
    for kind, route in routes.items():
        for target in route.targets:
            routed.setdefault(target.provider, []).append(kind)
    for name, kinds in routed.items():
        settings = providers[name]
        users = ", ".join(dict.fromkeys(kinds))
        if not has_driver(settings.kind):
            findings.warn(
                ("providers", name, "kind"),
                f"this version has no driver for {settings.kind}; {users} turns that go there fail (DriverMissing)",
                "route these kinds to another provider",
            )
        if key_state(settings.api_key_env, env) == "not set":
            findings.warn(
                ("providers", name, "api_key_env"),
                f"the variable {settings.api_key_env} is not set here; {users} turns that go there fail without it",
                f"set it where the service runs: export {settings.api_key_env}=…",
            )


def _warn_of_short_deadlines(routes: Iterable[Route], findings: Findings) -> None:
    for route in routes:
        if route.park_max_s > route.deadline_s:
            findings.warn(
                ("router", route.kind, "park_max_s"),
                f"deadline_s is {route.deadline_s:g} here and counts while a turn is parked: it ends the turn first",
                f"write deadline_s = {route.park_max_s:g} or more, or a smaller park_max_s",
            )


def _provider(name: str, table: ProviderTable) -> ProviderSettings:
    vendor = table.vendor or vendor_of(table.kind, table.base_url)
    local = is_loopback(table.base_url)
    concurrency = table.max_concurrency
    if concurrency is None:
        remote = LOOPBACK_CONCURRENCY if local else REMOTE_CONCURRENCY
        concurrency = OLLAMA_CONCURRENCY if vendor == "ollama" else remote
    first_event, event_gap = table.first_event_timeout_s, table.event_gap_timeout_s
    if first_event is None:
        first_event = LOOPBACK_FIRST_EVENT_TIMEOUT_S if local else FIRST_EVENT_TIMEOUT_S
    if event_gap is None:
        patient = local or table.kind == "bedrock"  # where a minute between two events has broken real streams
        event_gap = LOOPBACK_EVENT_GAP_TIMEOUT_S if patient else EVENT_GAP_TIMEOUT_S
    reserve = table.reserve
    if reserve is None:
        reserve = 1 if concurrency >= 2 else 0
    return ProviderSettings(
        name=name,
        kind=table.kind,
        base_url=table.base_url,
        api_key_env=table.api_key_env,
        default_model=table.default_model,
        vendor=vendor,
        headers=table.headers,
        extra_body=table.extra_body,
        context_window=table.context_window,
        max_concurrency=concurrency,
        adaptive=local and table.max_concurrency is None,
        reserve=reserve,
        max_queued=table.max_queued,
        max_queued_bytes=table.max_queued_bytes,
        requests_per_minute=table.requests_per_minute,
        tokens_per_minute=table.tokens_per_minute,
        connect_timeout_s=table.connect_timeout_s,
        first_event_timeout_s=first_event,
        event_gap_timeout_s=event_gap,
        memory_limit_mb=table.memory_limit_mb,
        prices={model: Price(**price.model_dump()) for model, price in table.prices.items()},
        aws_bedrock=_aws(table),
    )


def _aws(table: ProviderTable) -> AwsSettings | None:
    if table.kind != "bedrock":
        return None
    if table.aws_bedrock is None:
        return AwsSettings()
    values = table.aws_bedrock.model_dump()
    return AwsSettings(**{**values, "without_prefix": tuple(table.aws_bedrock.without_prefix)})


def _route(kind: str, table: RouteTable, targets: tuple[Target, ...]) -> Route:
    return Route(
        kind=kind,
        targets=targets,
        lane=table.lane or LANE_OF_KIND.get(kind, "normal"),
        deadline_s=table.deadline_s,
        thinking=table.thinking,
        resend=table.resend,
        spill=table.spill,
        park_max_s=table.park_max_s,
        first_event_timeout_s=table.first_event_timeout_s or 0.0,
        event_gap_timeout_s=table.event_gap_timeout_s or 0.0,
    )


def _runtime(table: RuntimeTable) -> RuntimeSettings:
    values = table.model_dump()
    values["allow_users"] = tuple(table.allow_users)
    values["allow_groups"] = tuple(table.allow_groups)
    return RuntimeSettings(**values)


def _standing_first(item: tuple[str, Route]) -> tuple[int, str]:
    kind = item[0]
    return (STANDING_KINDS.index(kind) if kind in STANDING_KINDS else len(STANDING_KINDS), kind)

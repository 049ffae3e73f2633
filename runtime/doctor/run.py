"""All checks at once, each within its time, none able to stop the others; what they need of the machine is handed in.

First the configuration is read and the service asked, because the rest is judged by them; then everything else runs
concurrently. So a run takes at most some multiples of the timeout, whatever hangs: a name server, a proxy, a mount.
Reading the configuration alone has a time of its own (config/child.py), which a short timeout does not cut.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import trio

from loopforge.drivers.errors import TurnError
from loopforge.drivers.registry import has_driver
from loopforge.runtime.blocking import NoAnswer, ask_status
from loopforge.runtime.config import paths
from loopforge.runtime.config.base_url import is_loopback
from loopforge.runtime.config.child import TIME_LIMIT_S, check_in_child
from loopforge.runtime.config.paths import Environment, UnusablePath
from loopforge.runtime.config.values import Checked, Config, RuntimeSettings
from loopforge.runtime.doctor import aws, ollama, reach, systemd
from loopforge.runtime.doctor.clock import Reading, judge_clock
from loopforge.runtime.doctor.dial import Dial, NetworkDial, Progress
from loopforge.runtime.doctor.disk import judge_disk
from loopforge.runtime.doctor.finding import Check, Finding, error
from loopforge.runtime.doctor.keys import judge_keys, spare_providers
from loopforge.runtime.doctor.ollama import FindProgram
from loopforge.runtime.doctor.permissions import Places, judge_permissions
from loopforge.runtime.doctor.programs import RunProgram, run_program
from loopforge.runtime.doctor.report import Report
from loopforge.runtime.doctor.routes import Routed, judge_config, judge_routes, routed
from loopforge.runtime.doctor.service import Service, judge_service

_SHARE = 0.9  # of a check's time: who is asked shall tell of the silence, which says more than that it took too long
_ASKING_SYSTEMCTL = "asking systemctl"

log = logging.getLogger("loopforge")

T = TypeVar("T")
CheckConfig = Callable[[Path, Environment, float], Awaitable[Checked]]
AskStatus = Callable[[Path, float], Mapping[str, Any]]
Aside = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs what may block in the kernel (a mount that hangs, a socket) where it holds up nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What the checks use of the machine. `clock`: wall clock, seconds. `booted`: systemd is the init."""

    env: Environment
    clock: Callable[[], float]
    dial: Dial
    run: RunProgram
    find_program: FindProgram
    check_config: CheckConfig
    ask_status: AskStatus
    aside: Aside
    uid: int
    booted: bool


def real_tools(env: Environment) -> Tools:
    """Those of this machine."""
    return Tools(
        env=env,
        clock=time.time,
        dial=NetworkDial(env=env, clock=time.time),
        run=run_program,
        find_program=lambda name: shutil.which(name, path=env.get("PATH")),
        check_config=_check_config,
        ask_status=lambda path, answer_s: ask_status(path, answer_s=answer_s),
        aside=lambda work: trio.to_thread.run_sync(work, abandon_on_cancel=True),
        uid=os.getuid(),
        booted=systemd.RUNNING.is_dir(),
    )


async def examine(config_option: str | None, tools: Tools, timeout_s: float) -> Report:
    """Check everything. `config_option`: what --config names, or None. Raises nothing that a machine can cause."""
    collected = _Collected(timeout_s, tools.env)
    start = trio.current_time()
    path, checked, service = await _read_first(config_option, tools, collected)
    config = checked.config
    settings = config.runtime if config else RuntimeSettings()
    async with trio.open_nursery() as nursery:
        if config is not None:
            nursery.start_soon(_examine_config, config, service, path, tools, collected)
        files = _aside(tools, _permissions, path, service, settings, tools)
        nursery.start_soon(collected.take, "permissions", files, "looking at the files")
        room = _aside(tools, judge_disk, _home(tools.env) or path.parent, settings.retain_mb)
        nursery.start_soon(collected.take, "disk", room, "looking at the file system")
        unit = partial(systemd.judge_unit, tools.run, tools.booted)
        nursery.start_soon(collected.take, "systemd", unit, _ASKING_SYSTEMCTL)
    return Report(
        config=str(path),
        valid=config is not None,
        findings=tuple(dict.fromkeys(collected.findings)),
        spare=spare_providers(config, routed(config), tools.env) if config else (),
        took_s=trio.current_time() - start,
    )


async def examine_providers(
    config: Config, names: Collection[str], tools: Tools, timeout_s: float
) -> tuple[Finding, ...]:
    """Only what concerns these providers: keys, reachability, models, credentials, clock. No service is asked."""
    collected = _Collected(timeout_s, tools.env)
    targets = routed(config, names)
    collected.judge("keys", judge_keys, targets, tools.env, {})
    await _examine_targets(config, targets, tools, collected)
    return tuple(collected.findings)


@dataclass(slots=True)
class _Collected:
    """Findings so far, and the one place where a check is bounded."""

    timeout_s: float
    env: Environment
    findings: list[Finding] = field(default_factory=list)

    def add(self, findings: Iterable[Finding]) -> None:
        self.findings += findings

    async def take(self, check: Check, work: Callable[[], Awaitable[Iterable[Finding]]], what: str) -> None:
        """Add what `work` finds, or that it took too long. `what`: what it does, in a few words."""
        self.add(await self.within(check, work, partial(self.late, check, what)) or ())

    def late(self, check: Check, what: str) -> Finding:
        told = f"no end of it within {self.timeout_s:g} s: {what}"
        return error(check, told, "see what hangs there, or give it longer with --timeout-ms")

    def judge(self, check: Check, judge: Callable[..., Iterable[Finding]], *arguments: object) -> None:
        """Add what a check finds that waits for nothing."""
        try:
            self.add(list(judge(*arguments)))
        except Exception as exc:  # noqa: BLE001 - as within()
            self._note_bug(check, "", exc)

    async def within(
        self,
        check: Check,
        work: Callable[[], Awaitable[T]],
        late: Callable[[], Finding],
        *,
        subject: str = "",
        limit_s: float | None = None,
    ) -> T | None:
        """What `work` returns; None when it took too long or failed, and a finding says so."""
        try:
            with trio.move_on_after(limit_s or self.timeout_s):
                return await work()
            self.findings.append(late())
        except Exception as exc:  # noqa: BLE001 - a bug in one check shall not cost the others
            self._note_bug(check, subject, exc)
        return None

    def _note_bug(self, check: Check, subject: str, exc: Exception) -> None:
        what = f"this check failed itself ({type(exc).__name__}): a bug of LoopForge runtime"
        step = "report it, with the output of: LOOPFORGE_DEBUG=1 loopforge doctor --json"
        self.findings.append(error(check, what, step, subject=subject))
        if self.env.get("LOOPFORGE_DEBUG", "") not in ("", "0"):
            log.error("the check of %s failed", subject or check, exc_info=exc)


# -- what comes first ------------------------------------------------------------------------------------------------


async def _read_first(option: str | None, tools: Tools, collected: _Collected) -> tuple[Path, Checked, Service]:
    """The configuration and the running service, at the same time."""
    try:
        path = paths.config_path(option, tools.env)
    except UnusablePath as exc:
        what, _, step = str(exc).rpartition("; ")
        collected.add([error("config", what, step)])
        return Path(paths.CONFIG_NAME), Checked(config=None), Service(absent=True)
    presets = not option and not _exists(path)
    answers: dict[str, Any] = {}

    async def read() -> None:
        source = paths.PRESETS if presets else path
        limit_s = max(collected.timeout_s, TIME_LIMIT_S)  # without it hardly anything can be judged
        answers["checked"] = await collected.within(
            "config",
            partial(tools.check_config, source, tools.env, limit_s),
            partial(_late_config, path, limit_s),
            limit_s=limit_s,
        )

    async def ask() -> None:
        answers["service"] = await collected.within(
            "service",
            lambda: _ask_service(path, tools, collected.timeout_s),
            lambda: _late_service(collected.timeout_s),
        )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        nursery.start_soon(ask)
    checked: Checked | None = answers["checked"]
    if checked is not None:
        collected.judge("config", partial(judge_config, there=_exists(path), presets=presets), checked, path)
    service: Service | None = answers["service"]
    if service is not None:
        config = checked.config if checked is not None else None
        collected.judge("service", judge_service, service, path, config)
    return path, checked or Checked(config=None), service or Service()


async def _check_config(path: Path, env: Environment, timeout_s: float) -> Checked:
    return await check_in_child(path, env, time_limit_s=timeout_s)


async def _ask_service(config: Path, tools: Tools, timeout_s: float) -> Service:
    def ask() -> Service:
        try:
            socket = paths.client_socket(config, tools.env)
        except UnusablePath as exc:
            return Service(trouble=str(exc))
        except OSError as exc:
            return Service(trouble=f"{exc.filename}: {exc.strerror}; check LOOPFORGE_HOME and LOOPFORGE_SOCKET")
        try:
            return Service(socket=socket, told=tools.ask_status(socket, timeout_s * _SHARE))
        except TurnError as exc:
            return Service(socket=socket, trouble=f"{exc.what}; {exc.action}")
        except NoAnswer as exc:
            absent = isinstance(exc.__cause__, FileNotFoundError | NotADirectoryError | ConnectionRefusedError)
            return Service(socket=socket, trouble=str(exc), absent=absent)

    found: Service = await tools.aside(ask)
    return found


def _late_config(path: Path, timeout_s: float) -> Finding:
    step = "look at its file system, or give it longer with --timeout-ms"
    return error("config", f"{path} could not be read and checked within {timeout_s:g} s", step)


def _late_service(timeout_s: float) -> Finding:
    return error(
        "service", f"the service does not answer within {timeout_s:g} s", "see its log; if it hangs, restart it"
    )


def _exists(path: Path) -> bool:
    """A file that this account may not even look for is there: reading it says what is wrong."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


# -- the configuration and its providers -----------------------------------------------------------------------------


async def _examine_config(config: Config, service: Service, path: Path, tools: Tools, collected: _Collected) -> None:
    targets = routed(config)
    collected.judge("routes", judge_routes, config)
    served = service.told if service.serves(path) else {}
    collected.judge("keys", judge_keys, targets, tools.env, served)
    await _examine_targets(config, targets, tools, collected)


async def _examine_targets(config: Config, targets: Sequence[Routed], tools: Tools, collected: _Collected) -> None:
    """Each provider in a task of its own, then the clock by what they answered."""
    readings: list[Reading] = []
    asked = [target for target in targets if has_driver(target.settings.kind)]
    async with trio.open_nursery() as nursery:
        for target in asked:
            nursery.start_soon(_examine_target, config, target, tools, collected, readings)
    far = any(not target.settings.base_url or not is_loopback(target.settings.base_url) for target in asked)
    collected.judge("clock", partial(judge_clock, expected=far), readings)


async def _examine_target(
    config: Config, target: Routed, tools: Tools, collected: _Collected, readings: list[Reading]
) -> None:
    name, url = target.settings.name, target.settings.base_url
    if target.settings.kind == "bedrock":
        probed: aws.Probed | None = await collected.within(
            "aws",
            lambda: aws.probe(target, tools.env, tools.run),
            lambda: aws.timed_out(target, collected.timeout_s),
            subject=name,
        )
        if probed is not None:
            collected.findings.append(probed.finding)
            url = probed.endpoint
    if not url:
        return
    progress = Progress()
    reached: reach.Reached | None = await collected.within(
        "reachable",
        lambda: reach.reach(target, url, tools.dial, progress),
        lambda: reach.timed_out(target, progress, collected.timeout_s),
        subject=name,
    )
    if reached is None:
        return
    readings += [reached.reading] if reached.reading else []
    if ollama.is_local_ollama(target.settings):
        await _examine_ollama(config, target, reached, tools, collected)
    else:
        collected.add(reached.findings)


async def _examine_ollama(
    config: Config, target: Routed, reached: reach.Reached, tools: Tools, collected: _Collected
) -> None:
    if reached.failed_at == "connection" and is_loopback(target.settings.base_url):
        found = ollama.absent(target, tools.find_program)
        collected.add([found, *(replace(finding, next_step=found.next_step) for finding in reached.findings)])
        return
    collected.add(reached.findings)
    if reached.contact is None:
        return
    progress = Progress()
    name = target.settings.name
    collected.add(
        await collected.within(
            "ollama",
            lambda: ollama.judge_models(target, tools.dial, progress),
            lambda: replace(reach.timed_out(target, progress, collected.timeout_s), check="ollama"),
            subject=name,
        )
        or ()
    )
    collected.judge("ollama", ollama.judge_parallel, config, target, await _parallel(target, tools, collected))


async def _parallel(target: Routed, tools: Tools, collected: _Collected) -> int | None:
    """None when nothing here says so; Ollama elsewhere has an environment that nobody here can see."""
    if not is_loopback(target.settings.base_url):
        return None
    unit: Mapping[str, str] | None = None
    if tools.booted:
        show = partial(systemd.show_unit, tools.run, "ollama.service", "system", "Environment")
        unit = await collected.within("systemd", show, partial(collected.late, "systemd", _ASKING_SYSTEMCTL))
    return ollama.read_parallel(tools.env, (unit or {}).get("Environment", ""))


# -- the machine -----------------------------------------------------------------------------------------------------


def _aside(
    tools: Tools, judge: Callable[..., Iterable[Finding]], *arguments: object
) -> Callable[[], Awaitable[list[Finding]]]:
    async def work() -> list[Finding]:
        found: list[Finding] = await tools.aside(lambda: list(judge(*arguments)))
        return found

    return work


def _permissions(path: Path, service: Service, settings: RuntimeSettings, tools: Tools) -> Iterable[Finding]:
    home = _home(tools.env)
    if home is None:
        return []  # the check of the configuration says so
    trouble = "" if service.socket is not None else service.trouble
    socket = service.socket or (None if trouble else home / "run" / "loopforge.sock")
    places = Places(home=home, config=path, socket=socket, socket_trouble=trouble)
    return judge_permissions(places, settings, tools.uid)


def _home(env: Environment) -> Path | None:
    try:
        return paths.home(env)
    except UnusablePath:
        return None

"""The systemd unit, if systemd is there and somebody has installed one. A service needs none.

`systemctl show` answers for units that do not exist, too: LoadState=not-found.
https://www.freedesktop.org/software/systemd/man/latest/org.freedesktop.systemd1.html
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from loopforge.runtime.doctor.finding import Finding, error, ok, warn
from loopforge.runtime.doctor.programs import RunProgram

UNIT = "loopforge.service"
RUNNING = Path("/run/systemd/system")  # there when systemd is the init: man 3 sd_booted
Scope = Literal["system", "user"]

_PROPERTIES = "LoadState,ActiveState,SubState,UnitFileState,NeedDaemonReload,Result,NRestarts,ExecMainStatus"


async def judge_unit(run: RunProgram, booted: bool) -> list[Finding]:
    """`booted`: whether systemd is this machine's init."""
    if not booted:
        return [ok("systemd", "systemd does not run this machine")]
    found: list[Finding] = []
    for scope in ("system", "user"):
        shown = await show_unit(run, UNIT, scope, _PROPERTIES)
        if shown.get("LoadState", "not-found") not in ("not-found", ""):
            found += _judge(scope, shown)
    return found or [ok("systemd", f"no unit {UNIT} is installed, and none is needed")]


async def show_unit(run: RunProgram, unit: str, scope: Scope, properties: str) -> dict[str, str]:
    """Properties of a unit by name; empty when systemd does not answer."""
    user = ["--user"] if scope == "user" else []
    said = await run(["systemctl", *user, "--no-pager", "show", unit, f"--property={properties}"])
    if said.status != 0:
        return {}
    return dict(line.split("=", 1) for line in said.out.splitlines() if "=" in line)


def _judge(scope: Scope, shown: Mapping[str, str]) -> Iterator[Finding]:
    name = UNIT if scope == "system" else f"{UNIT} (yours)"
    user = "--user " if scope == "user" else ""
    systemctl = f"{'sudo ' if scope == 'system' else ''}systemctl {user}".strip()
    log = f"journalctl {user}-u {UNIT} -e"
    if shown.get("LoadState") == "masked":
        yield warn("systemd", f"{name} is masked", f"{systemctl} unmask {UNIT}")
        return
    if shown.get("LoadState") != "loaded":
        what = f"{name} cannot be loaded ({shown.get('LoadState')})"
        yield error("systemd", what, f"systemd-analyze {user}verify {UNIT} says why")
        return
    if shown.get("NeedDaemonReload") == "yes":
        yield warn("systemd", f"the file of {name} was changed on disk", f"{systemctl} daemon-reload")
    state = shown.get("ActiveState")
    if state == "failed":
        result, status = shown.get("Result", ""), shown.get("ExecMainStatus", "")
        why = "its configuration has errors" if status == "78" else f"{result}, exit status {status}"
        step = "loopforge config validate" if status == "78" else f"see why: {log}"
        yield error("systemd", f"{name} has failed: {why}", step)
    elif state in ("active", "reloading"):
        restarts = shown.get("NRestarts", "0")
        if restarts.isdecimal() and int(restarts) > 0:
            times = "once" if restarts == "1" else f"{restarts} times"
            yield warn("systemd", f"{name} runs, and was restarted {times} by systemd", f"see why: {log}")
        else:
            yield ok("systemd", f"{name} runs")
    else:
        yield warn("systemd", f"{name} is {state}", f"{systemctl} start {UNIT}")
    if shown.get("UnitFileState") == "disabled":
        yield warn("systemd", f"{name} does not start with the machine", f"{systemctl} enable {UNIT}")

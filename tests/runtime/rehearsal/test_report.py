import json
import re
from typing import Any

import pytest

from loopforge.drivers.registry import ProviderSettings
from loopforge.runtime.config.paths import PRESETS
from loopforge.runtime.config.values import Config, Route, Target
from loopforge.runtime.rehearsal.faults import read_faults
from loopforge.runtime.rehearsal.figures import Entry, Ledger
from loopforge.runtime.rehearsal.play import Incident
from loopforge.runtime.rehearsal.report import conclusion, ok, to_lines, to_plain
from loopforge.runtime.rehearsal.run import Result, Script
from loopforge.runtime.rehearsal.stage import Stage
from loopforge.runtime.rehearsal.workload import typical_load

PROVIDERS = ("ollama", "deepseek", "gemini")
BEGAN_AT = 100.0


def settings(name: str) -> ProviderSettings:
    return ProviderSettings(name=name, kind="gemini" if name == "gemini" else "openai_compatible")


def status(name: str, **members: Any) -> dict[str, Any]:
    return {"name": name, "kind": "openai_compatible", "state": "ready", "pid": 7, "generation": 1, "deaths": 0,
            "last_death": "", "slots": 2, "rss_bytes": 1, "cpu_s": 0.1} | members  # fmt: skip


def result(entries: list[Entry], faults: tuple[str, ...] = (), path: str = "/x/config.toml", **members: Any) -> Result:
    routes = {
        kind: Route(kind=kind, targets=(Target(provider=provider, model="m"),))
        for kind, provider in (("planning", "ollama"), ("coding", "deepseek"), ("review", "gemini"))
    }
    config = Config(path=path, providers={name: settings(name) for name in PROVIDERS}, routes=routes)
    absent = {"gemini": "cannot be rehearsed, there is no driver yet for kind 'gemini'"}
    defaults: dict[str, Any] = {
        "script": Script(
            seconds=10, seed=3, loads=tuple(typical_load(kind, "normal") for kind in routes),
            faults=read_faults(faults, PROVIDERS),
        ),
        "stage": Stage(config=config, absent=absent, patience_s=2.0),
        "entries": entries,
        "incidents": [],
        "providers": [status("ollama"), status("deepseek"), status("gemini", state="stopped", generation=0, pid=None)],
        "late": (),
        "began_at": BEGAN_AT,
        "interrupted": False,
    }  # fmt: skip
    return Result(**(defaults | members))


def played(*, failed: int = 0, lost: int = 0) -> list[Entry]:
    ledger = Ledger()
    for _ in range(4):
        entry = ledger.post("planning", "ollama", BEGAN_AT)
        entry.first_token_at, entry.queued_s, entry.attempts = BEGAN_AT + 0.1, 0.001, 1
        entry.end("done", BEGAN_AT + 0.5)
    for _ in range(failed):
        ledger.post("coding", "deepseek", BEGAN_AT).end(
            "failed", BEGAN_AT + 2, error="StreamBroken", message="deepseek: the answer was cut short; resend this turn"
        )
    for _ in range(lost):
        ledger.post("coding", "deepseek", BEGAN_AT)
    return ledger.entries


def text(outcome: Result, width: int = 120) -> str:
    return "\n".join(to_lines(outcome, width))


def test_the_document_is_json_and_has_every_figure() -> None:
    incident = Incident(at=BEGAN_AT + 5, provider="deepseek", what="SIGKILL to worker 7")
    plain = json.loads(json.dumps(to_plain(result(played(failed=2), ("deepseek=cut",), incidents=[incident]))))
    assert plain["ok"] is True
    assert {name: plain["turns"][name] for name in ("posted", "done", "failed", "lost")} == {
        "posted": 6,
        "done": 4,
        "failed": 2,
        "lost": 0,
    }
    assert [(route["kind"], route["provider"], route["posted"]) for route in plain["routes"]] == [
        ("planning", "ollama", 4),
        ("coding", "deepseek", 2),
    ]
    assert plain["errors"] == {"StreamBroken": "deepseek: the answer was cut short; resend this turn"}
    assert plain["faults"] == {"deepseek": ["cut"]}
    assert plain["incidents"] == [{"at_s": 5.0, "provider": "deepseek", "what": "SIGKILL to worker 7"}]
    assert plain["not_rehearsed"] == {"review": "gemini: cannot be rehearsed, there is no driver yet for kind 'gemini'"}
    assert {provider["name"]: bool(provider["cannot"]) for provider in plain["providers"]} == {
        "ollama": False,
        "deepseek": False,
        "gemini": True,
    }


def test_failed_turns_are_counted_timed_and_explained() -> None:
    said = text(result(played(failed=2), ("deepseek=cut",)))
    assert "6 turns posted, 4 done, 2 failed, 0 lost" in said
    assert "2 of 2 coding turns failed with StreamBroken after 2.00 s: deepseek: the answer was cut short;" in said


def test_a_kind_that_cannot_be_rehearsed_stands_in_the_table_with_the_reason() -> None:
    (line,) = (line for line in text(result(played())).splitlines() if line.startswith("review"))
    assert line.split(maxsplit=1)[1] == "gemini: cannot be rehearsed, there is no driver yet for kind 'gemini'"


def test_the_presets_are_not_called_somebodys_file() -> None:
    assert text(result(played(), path=str(PRESETS))).startswith("Rehearsed the presets (there is no config.toml yet)")


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_is_longer_than_the_terminal_is_wide(width: int) -> None:
    lines = to_lines(result(played(failed=2), ("deepseek=cut", "ollama=kill-worker")), width)
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize(
    ("outcome", "said", "fine"),
    [
        (
            result(played()),
            r"answered\. Not rehearsed: review \(the table says why\)\. Next, see what a fault .* ollama=kill-worker",
            True,
        ),
        (
            result(played(failed=1), ("deepseek=cut",)),
            r"With deepseek=cut some coding turns failed; planning did not notice\. Next: --fault ollama=kill-worker",
            True,
        ),
        (
            result(played(), ("ollama=kill-worker",)),
            "With ollama=kill-worker no turn failed. Next: --fault ollama=stall",
            True,
        ),
        (result(played(lost=2)), "2 turns never got an outcome: that is a bug .* --seed 3", False),
        (result([]), "No turn was posted, so nothing was learned", False),
        (result(played(), late=("ollama",)), "worker of ollama was not ready in time", True),
    ],
)
def test_it_ends_with_what_was_learned_and_the_next_step(outcome: Result, said: str, *, fine: bool) -> None:
    assert re.search(said, conclusion(outcome))
    assert ok(outcome) is fine

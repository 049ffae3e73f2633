"""A local Ollama: there or not, its models pulled or not, and how many turns it runs at once."""

from __future__ import annotations

import json

import pytest

from loopforge.runtime.doctor import ollama
from loopforge.runtime.doctor.dial import NoContact, Progress
from loopforge.runtime.doctor.routes import Routed, routed
from tests.fakes.dial import FakeDial, answer
from tests.runtime.config.checking import OLLAMA, accepted
from tests.runtime.doctor.asking import target, told

URL = "http://127.0.0.1:11434/v1"
BEHIND = "planning waits behind one running turn of coding, summary"
TAGS = "http://127.0.0.1:11434/api/tags"


def local(*models: str, base_url: str = URL) -> Routed:
    return target("ollama", models=models or ("llama3.2",), base_url=base_url, vendor="ollama")


def listing(*names: str) -> bytes:
    return json.dumps({"models": [{"name": name, "size": 2_000_000_000} for name in names]}).encode()


async def models(target: Routed, status: int, body: bytes) -> list[tuple[str, str]]:
    return told(await ollama.judge_models(target, FakeDial({TAGS: answer(status, body=body)}), Progress()))


async def test_every_routed_model_is_looked_for() -> None:
    assert await models(local("llama3.2", "qwen3:4b"), 200, listing("llama3.2:latest", "phi4:latest")) == [
        ("ok", "llama3.2 is pulled"),
        ("error", "the model qwen3:4b is not pulled; pulled are llama3.2:latest, phi4:latest"),
    ]


async def test_a_newcomers_empty_ollama_is_told_what_to_pull() -> None:
    dial = FakeDial({TAGS: answer(body=listing())})
    (found,) = await ollama.judge_models(local(), dial, Progress())
    assert (found.status, found.next_step) == ("error", "ollama pull llama3.2")
    assert found.what.endswith("no model is pulled yet")


@pytest.mark.parametrize(
    ("status", "body"), [(404, b""), (200, b"<html>"), (200, b"[]"), (200, b'{"models": 3}'), (200, b"[" * 100_000)]
)
async def test_another_server_on_that_port_is_told_as_such(status: int, body: bytes) -> None:
    ((found, what),) = await models(local(), status, body)
    assert (found, "does not list models as Ollama does" in what) == ("warn", True)


async def test_a_connection_that_breaks_now_leaves_the_models_unknown() -> None:
    gone = NoContact("answer", "it closed the connection", "try again later")
    (found,) = await ollama.judge_models(local(), FakeDial({TAGS: gone}), Progress())
    assert (found.status, found.next_step) == ("warn", "try again later")


@pytest.mark.parametrize(
    ("model", "pulled", "there"),
    [
        ("llama3.2", {"llama3.2:latest"}, True),
        ("llama3.2:latest", {"llama3.2:latest"}, True),
        ("Llama3.2", {"llama3.2:LATEST"}, True),
        ("llama3.2:1b", {"llama3.2:latest"}, False),
        ("hf.co/a/b", {"hf.co/a/b:latest"}, True),
        ("localhost:5000/a", {"localhost:5000/a:latest"}, True),
        ("llama3", {"llama3.2:latest"}, False),
    ],
)
def test_a_name_without_a_tag_means_its_latest(model: str, pulled: set[str], there: bool) -> None:
    assert ollama.is_pulled(model, pulled) is there


@pytest.mark.parametrize(
    ("base_url", "local_one"),
    [(URL, True), ("http://10.0.0.5:11434/v1", True), ("https://ollama.com/v1", False), ("https://x.test/v1", False)],
)
def test_an_ollama_of_ones_own_is_told_from_the_cloud(base_url: str, local_one: bool) -> None:
    config = accepted(f'[providers.ollama]\nbase_url = "{base_url}"\ndefault_model = "m"\n')
    assert ollama.is_local_ollama(config.providers["ollama"]) is local_one


def test_the_list_of_models_stands_beside_the_compatible_path() -> None:
    assert ollama.tags_url("http://h:1/v1/") == "http://h:1/api/tags"
    assert ollama.tags_url("http://h:1/ollama/v1") == "http://h:1/ollama/api/tags"


def test_an_absent_ollama_is_to_be_installed_or_to_be_started() -> None:
    assert ollama.absent(local(), lambda _name: None).next_step == (
        "install Ollama from https://ollama.com/download, then ollama pull llama3.2"
    )
    assert ollama.absent(local(), lambda name: f"/usr/bin/{name}").next_step == "start Ollama: ollama serve"
    elsewhere = local("a", "b", base_url="http://127.0.0.1:9999/v1")
    host = "OLLAMA_HOST=127.0.0.1:9999 "
    assert ollama.absent(elsewhere, lambda name: name).next_step == f"start Ollama: {host}ollama serve"
    assert ollama.absent(elsewhere, lambda _name: None).next_step.endswith(
        f"then {host}ollama pull a and {host}ollama pull b"
    )


# -- turns at once ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parallel", "status", "what"),
    [
        (
            None,
            "ok",
            f"unless OLLAMA_NUM_PARALLEL says more, Ollama runs one turn at a time: {BEHIND}",
        ),
        (1, "warn", f"OLLAMA_NUM_PARALLEL is 1: {BEHIND}"),
        (4, "ok", "runs 4 turns at once, is sent 2 to begin with, then what it keeps up with"),
    ],
)
def test_planning_waits_behind_one_turn_where_ollama_has_one_slot(parallel: int | None, status: str, what: str) -> None:
    config = accepted(OLLAMA)
    (only,) = routed(config)
    (found,) = ollama.judge_parallel(config, only, parallel)
    assert (found.status, found.what) == (status, what)
    assert ("OLLAMA_NUM_PARALLEL=2" in found.next_step) == (parallel != 4)


def test_a_number_that_somebody_wrote_down_is_the_most_that_ollama_is_sent() -> None:
    config = accepted(OLLAMA + "max_concurrency = 3\n")
    (found,) = ollama.judge_parallel(config, routed(config)[0], 4)
    assert found.what == "runs 4 turns at once, is sent at most 3"


def test_where_nothing_shares_ollama_nobody_waits() -> None:
    config = accepted(
        OLLAMA + '[providers.x]\nbase_url = "https://x"\ndefault_model = "m"\n'
        '[router.coding]\nprovider = "x"\n[router.summary]\nprovider = "x"\n'
    )
    assert list(ollama.judge_parallel(config, routed(config, ["ollama"])[0], None)) == []


@pytest.mark.parametrize(
    ("env", "unit", "parallel"),
    [
        ({}, "", None),
        ({"OLLAMA_NUM_PARALLEL": "3"}, "", 3),
        ({"OLLAMA_NUM_PARALLEL": "3"}, "PATH=/bin OLLAMA_NUM_PARALLEL=2 A=b", 2),
        ({"OLLAMA_NUM_PARALLEL": "many"}, "", None),
    ],
)
def test_the_slots_are_read_where_they_can_be_seen(env: dict[str, str], unit: str, parallel: int | None) -> None:
    assert ollama.read_parallel(env, unit) == parallel

"""The check in a process of its own: the same answer, no key handed over, and nothing that it does can hurt."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from loopforge.runtime.config.child import CHILD, check_in_child, check_in_child_blocking
from loopforge.runtime.config.load import check
from loopforge.runtime.config.values import Checked
from tests.runtime.config.checking import OLLAMA


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def write(path: Path, text: str) -> None:
    path.write_text(text)


async def both_ways(path: Path, env: dict[str, str], command: Sequence[str], time_limit_s: float = 30.0) -> Checked:
    """What both entry points say; they must agree."""
    checked = await check_in_child(path, env, command=command, time_limit_s=time_limit_s)
    assert check_in_child_blocking(path, env, command=command, time_limit_s=time_limit_s) == checked
    return checked


def script(code: str) -> list[str]:
    """A command that runs `code` in place of the check; sys.argv[1] is the config's path."""
    return [sys.executable, "-c", code]


async def test_a_child_says_what_the_check_says(path: Path) -> None:
    write(
        path,
        OLLAMA
        + '[providers.d]\nbase_url = "https://api.deepseek.com"\napi_key_env = "D_KEY"\nextra_body = { a = [1, "é"] }\n'
        + '[router.coding]\nprovider = "d"\nmodel = "m"\n[llm]\n',
    )
    for env in ({}, {"D_KEY": "k"}, {"D_KEY": ""}):
        checked = await both_ways(path, {**os.environ, **env}, CHILD)
        assert checked == check(path, env)
        assert checked.config is not None
        assert len(checked.config.warnings) == (1 if env.get("D_KEY") else 2)


async def test_a_child_tells_problems(path: Path) -> None:
    write(path, "a = 1\n[b]\n")
    checked = await both_ways(path, dict(os.environ), CHILD)
    assert checked == check(path, {})
    assert len(checked.problems) == 3


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("raise SystemExit(3)", "exit status 3: without a word"),
        ("import sys; sys.exit('worse\\nand worse')", "exit status 1: and worse"),
        ("import os; os.kill(os.getpid(), 11)", "signal 11"),
        ("import os; os.kill(os.getpid(), 64)", "signal 64"),
        ("", "cannot be read"),
        ("print('hello')", "cannot be read"),
        ("import sys; sys.stdout.buffer.write(b'\\x80')", "cannot be read"),
        ("import sys; sys.stdout.buffer.write(b'\\x82\\xa6config\\xc0\\xa8problems\\xa1x')", "cannot be read"),
        ("import sys; sys.stdout.buffer.write(b'\\x91' * 100_000)", "cannot be read"),
        ("while True: print('x' * 100_000)", "File too large"),
        ("import sys\nwhile True: sys.stderr.write('x' * 100_000)", "exit status 1"),
    ],
)
async def test_a_child_that_crashes_or_answers_garbage_is_one_problem(path: Path, code: str, problem: str) -> None:
    checked = await both_ways(path, dict(os.environ), script(code))
    assert checked.config is None
    (found,) = checked.problems
    assert problem in found.problem
    assert found.file == str(path)
    assert len(str(found)) < 1000


async def test_a_child_that_hangs_is_stopped(path: Path) -> None:
    checked = await both_ways(path, dict(os.environ), script("import time; time.sleep(1000)"), time_limit_s=0.2)
    assert ["took longer than 0.2 s" in problem.problem for problem in checked.problems] == [True]


async def test_cancelling_a_check_leaves_no_child(path: Path) -> None:
    os.mkfifo(path)
    command = script(
        "import os, sys, time\nwith open(sys.argv[1], 'w') as file: file.write(str(os.getpid()))\ntime.sleep(1000)"
    )
    started = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: check_in_child(path, dict(os.environ), command=command))
            await trio.lowlevel.wait_readable(started)
            pid = int(os.read(started, 100))
            nursery.cancel_scope.cancel()
    finally:
        os.close(started)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_check_holds_up_nobody_on_the_loop(path: Path) -> None:
    write(path, OLLAMA)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        checked = await check_in_child(path, dict(os.environ))
        nursery.cancel_scope.cancel()
    assert checked.config is not None
    assert turns > 10


def test_a_child_learns_the_names_of_variables_and_no_value(path: Path) -> None:
    seen = path.with_suffix(".json")
    command = script(
        "import json, os, sys\n"
        "with open(sys.argv[1].replace('.toml', '.json'), 'w') as file:\n"
        "    json.dump([dict(os.environ), sys.argv, sys.stdin.read().split('\\n')], file)"
    )
    secrets = {
        "OPENAI_API_KEY": "hunter2",
        "PYTHON_TOKEN": "hunter2",
        "LD_KEY": "hunter2",
        "EMPTY": "",
        "AWS_X": "hunter2",
    }
    check_in_child_blocking(path, {**os.environ, **secrets}, command=command)
    assert "hunter2" not in seen.read_text()
    _, _, names = json.loads(seen.read_text())
    assert set(secrets) - set(names) == {"EMPTY"}


def test_the_asking_process_loads_neither_pydantic_nor_a_toml_parser(path: Path) -> None:
    path.write_text(OLLAMA)
    code = (
        "import os, pathlib, sys\nfrom loopforge.runtime.config.child import check_in_child_blocking\n"
        "checked = check_in_child_blocking(pathlib.Path(sys.argv[1]), os.environ)\n"
        "print(checked.config is not None, *{'pydantic', 'tomli', 'tomlkit', 'trio', 'click'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("True\n", "")


def test_the_module_checks_by_hand_with_the_callers_own_variables(path: Path) -> None:
    path.write_text(OLLAMA)
    module = [sys.executable, "-m", "loopforge.runtime.config"]
    assert subprocess.run([*module, path], capture_output=True).stdout.startswith(b"\x81\xa6config")
    wrong = subprocess.run(module, capture_output=True, text=True)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("usage: ")


def test_code_in_the_current_folder_is_not_run(path: Path) -> None:
    for name in ("loopforge.py", "msgpack.py", "tomli.py", "pydantic.py"):
        path.with_name(name).write_text("raise SystemExit('not this one')")
    path.write_text(OLLAMA)
    run = subprocess.run((*CHILD, str(path)), cwd=path.parent, input=b"", capture_output=True)
    assert run.returncode == 0, run.stderr

"""The simulator as its own process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from loopforge.drivers.registry import KINDS, has_simulator
from loopforge.drivers.simulator.wires import has_wire
from loopforge.runtime.rehearsal.simulator import SimulatorFailed, open_simulators


def children() -> set[int]:
    return {int(pid) for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()}


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def environment(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


async def ask(base_url: str, request: bytes) -> bytes:
    host, _, rest = base_url.removeprefix("http://").partition(":")
    stream = await trio.open_tcp_stream(host, int(rest.partition("/")[0]))
    async with stream:
        await stream.send_all(request)
        said = b""
        while (data := await stream.receive_some()) and b"\r\n" not in said:
            said += data
    return said


async def test_it_plays_the_providers_of_its_profiles_and_is_gone_with_the_block() -> None:
    before = children()
    async with open_simulators({"good": {}, "bad": {"fault": "500"}}) as base_urls:
        (pid,) = children() - before
        assert set(base_urls) == {"good", "bad"}
        path = base_urls["good"].partition("/good/")[2]
        answer = await ask(base_urls["good"], f"GET /good/{path}/models HTTP/1.0\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 200")
    assert children() == before
    assert not exists(pid)


async def test_each_group_has_a_process_of_its_own_and_an_empty_one_has_none() -> None:
    before = children()
    async with open_simulators({"good": {}}, {}, {"bad": {"fault": "500"}}) as base_urls:
        assert len(children() - before) == 2
        assert base_urls["good"].partition("/good")[0] != base_urls["bad"].partition("/bad")[0]
    assert children() == before


async def test_it_is_gone_even_when_the_block_is_left_by_a_cancel() -> None:
    before = children()
    with trio.CancelScope() as scope:
        async with open_simulators({"good": {}}):
            scope.cancel()
            await trio.sleep_forever()
    assert children() == before


async def test_no_key_of_the_caller_reaches_it() -> None:
    os.environ["DEEPSEEK_API_KEY"] = "sk-not-for-the-simulator"
    before = children()
    try:
        async with open_simulators({"deepseek": {}}):
            (pid,) = children() - before
            assert b"sk-not-for" not in environment(pid)
            assert b"PATH=" in environment(pid)
    finally:
        del os.environ["DEEPSEEK_API_KEY"]


async def test_ctrl_c_in_the_terminal_is_not_for_it() -> None:
    before = children()
    async with open_simulators({"good": {}}):
        (pid,) = children() - before
        assert os.getpgid(pid) == pid != os.getpgrp()


async def test_profiles_that_it_does_not_take_are_told_in_its_own_words() -> None:
    before = children()
    with pytest.raises(SimulatorFailed, match=r"the simulator did not start: (.|\n)*cloud\.fault"):
        async with open_simulators({"good": {}}, {"cloud": {"fault": "no-such-fault"}}):
            pass
    assert children() == before


@pytest.mark.parametrize("kind", [*KINDS, "server", "no_such_kind"])
def test_who_rehearses_and_who_simulates_agree_on_what_can_be_simulated(kind: str) -> None:
    assert has_simulator(kind) == has_wire(kind)

"""What holds for every test: no network, none of the caller's variables, a home of its own, nothing left behind.

The rules are in tests/guard/. Here they are put in force: for the session before anything is collected, then around
each test. Also hypothesis' profiles and the place of the recorded provider traffic. The one exception is a run of smoke
tests alone: tests/guard/smoke.py.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Generator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.guard import environment, leaks, namespace, smoke
from tests.guard.on_path import sitecustomize as network
from tests.recorded import MISSING, recordings_folder

# No deadline and no too_slow: the machine is shared, and what an example took says nothing. In CI the same examples on
# every run, so that a failure there is the change's own; elsewhere each run looks further and .hypothesis/ keeps finds.
settings.register_profile("dev", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True, database=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

_FOLDER = pytest.StashKey[Path]()
_OWN_NETWORK = pytest.StashKey[bool]()
_SURROUNDINGS = pytest.StashKey[environment.Surroundings]()
_BEFORE_CALL = pytest.StashKey[leaks.Held]()
_PASSED = pytest.StashKey[bool]()
_SMOKE_ALONE = pytest.StashKey[bool]()
_LEFT_OUT = pytest.StashKey[bool]()
_homes = count()


def pytest_configure(config: pytest.Config) -> None:
    folder = Path(tempfile.mkdtemp(prefix="lf-"))  # short: a Unix socket's path under a test's home ends at 107 bytes
    config.stash[_FOLDER] = folder
    config.stash[_SMOKE_ALONE] = smoke.is_alone(config.option.markexpr)
    kept = {**environment.kept(os.environ), "HOME": str(folder), network.REFUSALS: str(folder / "refusals")}
    if config.stash[_SMOKE_ALONE]:
        environment.replace(kept | smoke.kept(os.environ))
        config.stash[_OWN_NETWORK] = False
    else:
        environment.replace(kept | {"PYTHONPATH": str(Path(network.__file__).parent)})
        config.stash[_OWN_NETWORK] = namespace.enter_own_network()
        network.install()
    leaks.adopt_orphans()


@pytest.hookimpl(trylast=True)  # after -m and -k have chosen
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.stash[_SMOKE_ALONE]:
        return
    left_out = [item for item in items if item.get_closest_marker(smoke.MARK)]
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
    config.stash[_LEFT_OUT] = bool(left_out) and not items


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(config.stash[_FOLDER], ignore_errors=True)


def pytest_report_header(config: pytest.Config) -> list[str]:
    network_is = "the machine's, and only Python processes are kept off it"
    if config.stash[_OWN_NETWORK]:
        network_is = "its own, loopback alone"
    elif config.stash[_SMOKE_ALONE]:
        network_is = "the world, to ask real providers"
    return [
        f"network: {network_is}",
        f"recordings: {recordings_folder() or 'none'}",
    ]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if terminalreporter.config.stash.get(_LEFT_OUT, False):
        terminalreporter.write_line(smoke.HINT)
    if started := os.environ.get("LOOPFORGE_TEST_STARTED"):  # in microseconds, by scripts/test
        terminalreporter.write_line(f"scripts/test: {time.time() - int(started) / 1e6:.0f} s in all")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    home = item.config.stash[_FOLDER] / str(next(_homes))
    home.mkdir()
    os.environ["HOME"] = str(home)
    item.stash[_SURROUNDINGS] = environment.surroundings()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    # After the fixtures' set-up, because a module's fixtures live longer than one test.
    item.stash[_BEFORE_CALL] = leaks.held_now()
    result = yield
    item.stash[_PASSED] = True
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    result = yield
    problems = [f"network: {line}" for line in network.take_refusals()]
    problems += item.stash[_SURROUNDINGS].restore()
    if before := item.stash.get(_BEFORE_CALL, None):
        problems += leaks.stop_left_children(before)
        if item.stash.get(_PASSED, False):  # a failure's traceback keeps the test's variables, and so their files
            problems += leaks.left_files(before)
    if problems:
        pytest.fail("this test left its bounds (tests/guard/):\n" + "\n".join(problems), pytrace=False)
    return result


@pytest.fixture
def home() -> Path:
    """This test's own, empty home folder: what HOME names."""
    return Path(os.environ["HOME"])


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The folder of recorded provider traffic; skips where there is none."""
    folder = recordings_folder()
    if folder is None:
        pytest.skip(MISSING)
    return folder

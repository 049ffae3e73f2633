"""Wheel, wheel from the sdist, and editable install: each built, installed in a clean environment, and run from there.

Packages come from the folder of locked wheels that scripts/check-slow fetches: tests have no network. An environment
holds what scripts/locks/runtime.txt lists, so an import that pyproject.toml does not ask for fails here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path, PurePosixPath

import pytest

import loopforge
from tests.packaging.tree import PACKAGES, ROOT, project_files

pytestmark = pytest.mark.slow

WHEELS = ROOT / ".tmp" / "wheels"
NOT_IN_SDIST = {".gitignore", ".ci"}
NAME = f"loopforge_runtime-{loopforge.__version__}"


@dataclass(frozen=True)
class Artefacts:
    """What was built: from the checkout, and from the unpacked sdist."""

    sdist: Path
    wheel: Path
    wheel_from_sdist: Path


@dataclass(frozen=True)
class Installed:
    """A clean environment with the project in it. `run` works in a folder of its own, far from the checkout."""

    environment: Path
    folder: Path

    def run(self, *command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        own = {"PATH": f"{self.environment / 'bin'}:/usr/bin:/bin", "HOME": str(self.folder), **variables}
        return subprocess.run(command, cwd=self.folder, env=own, capture_output=True, text=True)

    def output(self, *command: str | Path, **variables: str) -> str:
        done = self.run(*command, **variables)
        assert done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> Artefacts:
    first, unpacked, second = (tmp_path_factory.mktemp(name) for name in ("first", "unpacked", "second"))
    build = (sys.executable, "-m", "build", "--no-isolation")
    run(*build, "--sdist", "--wheel", "--outdir", first)
    with tarfile.open(first / f"{NAME}.tar.gz") as sdist:
        sdist.extractall(unpacked, filter="data")
    run(*build, "--wheel", "--outdir", second, cwd=unpacked / NAME)
    wheel = f"{NAME}-py3-none-any.whl"
    return Artefacts(first / f"{NAME}.tar.gz", first / wheel, second / wheel)


def files_of(wheel: Path) -> Mapping[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def test_the_sdist_holds_every_file_of_the_project_and_no_symlink(artefacts: Artefacts) -> None:
    with tarfile.open(artefacts.sdist) as sdist:
        members = sdist.getmembers()
    assert all(member.isfile() for member in members), [member.name for member in members if not member.isfile()]
    held = {PurePosixPath(member.name).relative_to(NAME) for member in members}
    expected = {path for path in project_files() if path.parts[0] not in NOT_IN_SDIST}
    assert held - {PurePosixPath("PKG-INFO"), PurePosixPath(".gitignore")} == expected


def test_a_script_in_the_sdist_can_still_be_run(artefacts: Artefacts) -> None:
    with tarfile.open(artefacts.sdist) as sdist:
        assert sdist.getmember(f"{NAME}/scripts/demo").mode & 0o111


def test_the_wheel_holds_the_three_packages_and_no_symlink(artefacts: Artefacts) -> None:
    expected = {f"loopforge/{path}" for path in project_files() if path.parts[0] in PACKAGES}
    expected |= {"loopforge/__init__.py", "loopforge/py.typed"}
    data = {
        f"{NAME}.dist-info/{name}" for name in ["METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"]
    }
    assert files_of(artefacts.wheel).keys() == expected | data
    with zipfile.ZipFile(artefacts.wheel) as archive:  # the high bits are the file's Unix type: 0o12 is a symlink
        assert not [info.filename for info in archive.infolist() if info.external_attr >> 28 == 0o12]


def test_the_sdist_builds_the_same_wheel_as_the_checkout(artefacts: Artefacts) -> None:
    assert files_of(artefacts.wheel_from_sdist) == files_of(artefacts.wheel)


def test_the_metadata_says_what_a_person_looks_for(artefacts: Artefacts) -> None:
    told = Parser().parsestr(files_of(artefacts.wheel)[f"{NAME}.dist-info/METADATA"].decode())
    assert told["Version"] == loopforge.__version__
    assert told["License-Expression"] == "MIT"
    assert told["Description-Content-Type"] == "text/markdown"
    assert str(told.get_payload()).strip() == (ROOT / "README.md").read_text().strip()


# ---- installed -------------------------------------------------------------------------------------------------------


def clean_environment(folder: Path, *install: str | Path, locks: Sequence[str] = ("runtime.txt",)) -> Installed:
    """A new environment with the locked packages, then whatever `install` tells pip."""
    if not WHEELS.is_dir():
        pytest.fail(f"{WHEELS} is not there: run scripts/check-slow, which fetches the locked wheels", pytrace=False)
    environment = folder / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    pip = (
        sys.executable,
        "-m",
        "pip",
        "--python",
        environment / "bin" / "python",
        "--disable-pip-version-check",
        "--quiet",
    )
    offline = ("--no-index", "--find-links", WHEELS)
    for lock in locks:
        run(*pip, "install", *offline, "--require-hashes", "--requirement", ROOT / "scripts" / "locks" / lock)
    run(*pip, "install", *offline, "--no-deps", *install)
    run(*pip, "check")
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    return Installed(environment, elsewhere)


@pytest.fixture(scope="module", params=["wheel", "wheel_from_sdist", "editable"])
def installed(
    request: pytest.FixtureRequest, artefacts: Artefacts, tmp_path_factory: pytest.TempPathFactory
) -> Installed:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "editable":  # pip has the backend at hand only in the environment itself: nothing is fetched
        how = ("--no-build-isolation", "--editable", ROOT)
        return clean_environment(folder, *how, locks=("runtime.txt", "build.txt"))
    return clean_environment(folder, getattr(artefacts, request.param))


def test_imports_come_from_where_the_project_was_installed(
    installed: Installed, request: pytest.FixtureRequest
) -> None:
    code = "import loopforge.drivers.turn as a, loopforge.workers as b, loopforge.runtime as c"
    code += "; print(*(module.__file__ for module in (a, b, c)), sep='\\n')"
    places = [Path(place) for place in installed.output("python", "-c", code).splitlines()]
    editable = request.node.callspec.params["installed"] == "editable"
    home = ROOT / "src" if editable else installed.environment
    assert all(place.is_relative_to(home) for place in places), places


def test_no_folder_of_ours_lies_outside_the_package(installed: Installed) -> None:
    code = "import importlib.util as u, sys; print([name for name in sys.argv[1:] if u.find_spec(name)])"
    assert installed.output("python", "-c", code, *PACKAGES, "tests", "bench").strip() == "[]"


def test_the_command_is_there_and_explains_itself(installed: Installed) -> None:
    assert "rehearse" in installed.output("loopforge", "--help")
    assert loopforge.__version__ in installed.output("loopforge", "--version")


def test_a_config_is_written_and_checked(installed: Installed, tmp_path: Path) -> None:
    installed.output("loopforge", "init", LOOPFORGE_HOME=str(tmp_path / "home"))
    installed.output("loopforge", "config", "validate", LOOPFORGE_HOME=str(tmp_path / "home"))


def test_a_rehearsal_runs_with_real_workers(installed: Installed, tmp_path: Path) -> None:
    installed.output("loopforge", "init", LOOPFORGE_HOME=str(tmp_path / "home"))
    installed.output("loopforge", "rehearse", "--seconds", "3", LOOPFORGE_HOME=str(tmp_path / "home"))


CONSUMER = """
import loopforge
from loopforge import Turn, user
from loopforge.drivers.errors import TurnError

turn: Turn = Turn(kind="planning", messages=(user("hello"),))
reveal_type(turn.kind)

def told(error: TurnError) -> str:
    return error.action
"""
MISTAKEN = """import loopforge
loopforge.Turn(kind=1, messages=())
loopforge.Trun
"""


def test_type_checkers_see_the_types_of_the_installed_package(installed: Installed) -> None:
    (installed.folder / "consumer.py").write_text(CONSUMER)
    (installed.folder / "mistaken.py").write_text(MISTAKEN)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--config-file", os.devnull]
    mypy += ["--python-executable", str(installed.environment / "bin" / "python")]
    assert re.search(r'Revealed type is "(builtins\.)?str"', installed.output(*mypy, "consumer.py"))
    mistaken = installed.run(*mypy, "mistaken.py")
    assert mistaken.returncode == 1
    assert 'mistaken.py:2: error: Argument "kind" to "Turn" has incompatible type "int"' in mistaken.stdout
    assert 'mistaken.py:3: error: Module has no attribute "Trun"' in mistaken.stdout

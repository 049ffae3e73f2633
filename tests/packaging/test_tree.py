"""The shape of the source tree: short files with a subject, true maps, nothing of the machine it was written on."""

from __future__ import annotations

import ast
import re
import tomllib
from importlib.metadata import metadata, version
from pathlib import PurePosixPath

import pytest
from packaging.requirements import Requirement

import loopforge
from tests.packaging.tree import PACKAGES, ROOT, project_files, python_files

MAX_LINES = 600

# Split, so that this file does not name what it looks for.
INDEXES = [
    "py" + "pi.org",
    "python" + "hosted.org",
    "registry.np" + "mjs.org",
    "deb.debian" + ".org",
    "conda." + "anaconda.org",
]
INDEX_OPTIONS = ["index" + "-url"]
MACHINE_PATHS = re.compile(
    r"""(?:^|[\s"'`=(:,])(/(?:work|farm|root|opt/pypi|opt/wheels|home/[a-z]\w*|Users/\w+|tmp/lf)/)""", re.MULTILINE
)


def test_the_tree_has_been_found() -> None:
    assert {PurePosixPath("pyproject.toml"), PurePosixPath("drivers/turn.py"), PurePosixPath(".ci/run")} - set(
        project_files()
    ) <= {
        PurePosixPath(".ci/run")  # not in an sdist
    }


def test_no_file_is_too_long_to_have_one_subject() -> None:
    code = [path for path in project_files() if path.suffix in {".py", ""}]
    lengths = {str(path): len((ROOT / path).read_bytes().splitlines()) for path in code}
    assert not {name: lines for name, lines in lengths.items() if lines > MAX_LINES}


def test_every_module_is_named_for_its_subject() -> None:
    nameless = {"common", "helper", "helpers", "misc", "shared", "stuff", "util", "utils"}
    assert not [path for path in python_files() if nameless & {path.stem, *path.parts[:-1]}]


def test_no_file_names_a_package_index_or_a_path_of_one_machine() -> None:
    found = []
    for path in project_files():
        text = (ROOT / path).read_text(errors="replace")
        found += [f"{path}: {word}" for word in [*INDEXES, *INDEX_OPTIONS] if word in text]
        found += [f"{path}: {place}" for place in MACHINE_PATHS.findall(text)]
    assert not found


# In these, @ stands for a slash, or this file would fail its own test.
@pytest.mark.parametrize(
    "text", ["cd @root@x", 'PATH="@home@me@bin"', "(@work@main@a.py)", "@opt@wheels@torch.whl", "at:@Users@me@x"]
)
def test_a_path_of_one_machine_is_recognised(text: str) -> None:
    assert MACHINE_PATHS.search(text.replace("@", "/"))


@pytest.mark.parametrize(
    "text", ["https:@@host@root@x", "~@work@x", "docs@home@page@", "@run@loopforge@a.sock", "@tmp@x@"]
)
def test_other_paths_are_not_taken_for_one(text: str) -> None:
    assert not MACHINE_PATHS.search(text.replace("@", "/"))


def packages() -> list[PurePosixPath]:
    return [path.parent for path in python_files(*PACKAGES, "bench") if path.name == "__init__.py"]


@pytest.mark.parametrize("package", packages(), ids=str)
def test_a_packages_docstring_is_a_true_map_of_it(package: PurePosixPath) -> None:
    docstring = ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text())) or ""
    named = re.findall(r"^([\w.-]+\.\w+|[\w-]+/)(?= {2,}\S)", docstring, re.MULTILINE)
    inside = [path.relative_to(package) for path in project_files() if path.is_relative_to(package)]
    there = {path.name if len(path.parts) == 1 else f"{path.parts[0]}/" for path in inside} - {"__init__.py"}
    assert sorted(there - set(named)) == [], "modules that the map does not name"
    assert sorted(set(named) - there) == [], "names on the map that are no module"
    assert len(named) == len(set(named))


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {path.parent for path in python_files(*PACKAGES, "bench", "tests")}
    assert not [folder for folder in folders if not (ROOT / folder / "__init__.py").exists()]


# ---- the project's own data ------------------------------------------------------------------------------------------


def test_the_version_has_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" in project["dynamic"]
    assert "version" not in project
    assert version("loopforge-runtime") == loopforge.__version__
    assigned = [
        path for path in python_files() if re.search(r"^__version__\s*[:=]", (ROOT / path).read_text(), re.MULTILINE)
    ]
    assert assigned == [PurePosixPath("src/loopforge/__init__.py")]


def test_what_the_package_index_is_told() -> None:
    told = metadata("loopforge-runtime")
    assert told["License-Expression"] == "MIT"
    assert told.get_all("License-File") == ["LICENSE"]
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
    assert told["Requires-Python"] == ">=3.11"
    classifiers = told.get_all("Classifier") or []
    assert "Programming Language :: Python :: 3.11" in classifiers  # the oldest one, which the lock is made with
    assert "Typing :: Typed" in classifiers
    assert not [
        classifier for classifier in classifiers if classifier.startswith("License ::")
    ]  # License-Expression says it


def test_type_checkers_are_told_that_the_package_is_typed() -> None:
    assert (ROOT / "src/loopforge/py.typed").read_bytes() == b""


# ---- locks -----------------------------------------------------------------------------------------------------------

LOCKS = sorted(path for path in project_files() if path.match("scripts/locks/*.txt"))


def pins(lock: PurePosixPath) -> dict[str, str]:
    """NAME: VERSION of a lock file."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / lock).read_text(), re.MULTILINE))


@pytest.mark.parametrize("lock", LOCKS, ids=str)
def test_every_line_of_a_lock_is_a_pin_with_hashes(lock: PurePosixPath) -> None:
    text = re.sub(r"^(?: *#.*)?\n", "", (ROOT / lock).read_text(), flags=re.MULTILINE)
    assert re.fullmatch(
        r"(?:[a-z0-9-]+==\S+ \\\n(?:    --hash=sha256:[0-9a-f]{64} \\\n)*    --hash=sha256:[0-9a-f]{64}\n)+", text
    )


def test_the_locks_agree_and_hold_what_pyproject_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    runtime, dev, build = (pins(PurePosixPath(f"scripts/locks/{name}.txt")) for name in ("runtime", "dev", "build"))
    assert runtime.items() <= dev.items()
    assert build.items() <= dev.items()
    asked = {
        "runtime": (runtime, project["project"]["dependencies"]),
        "dev": (dev, project["dependency-groups"]["dev"]),
        "build": (build, project["build-system"]["requires"]),
    }
    for lock, requirements in asked.values():
        for requirement in map(Requirement, requirements):
            assert requirement.specifier.contains(lock[requirement.name])

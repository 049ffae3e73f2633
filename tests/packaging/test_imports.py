"""Importing a package is cheap, its lazy names are true, and imports run runtime -> workers -> drivers.

`lint-imports` checks the layers; here are the rules that need names: who may import what of the layer below.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import PurePosixPath

import pytest

import loopforge
from tests.packaging.tree import PACKAGES, ROOT, python_files

LIBRARIES = {
    "trio",
    "httpx2",
    "httpcore2",
    "h11",
    "pydantic",
    "tomli",
    "tomlkit",
    "msgpack",
    "click",
    "rich",
    "asyncio",
    "ssl",
}


def modules_after(statement: str) -> set[str]:
    """What sys.modules holds in a fresh, isolated interpreter after `statement`."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(list(sys.modules)))"
    run = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return set(json.loads(run.stdout))


@pytest.mark.parametrize("package", ["loopforge", *(f"loopforge.{name}" for name in PACKAGES)])
def test_importing_a_package_loads_nothing_else(package: str) -> None:
    loaded = modules_after(f"import {package}")
    assert {name for name in loaded if name.split(".")[0] == "loopforge"} == {"loopforge", package}
    assert not loaded & LIBRARIES


@pytest.mark.parametrize(
    ("module", "never"),
    [
        # The supervisor's process: config is checked in a child, HTTP is spoken in workers.
        ("loopforge.runtime.supervisor", {"httpx2", "h11", "pydantic", "tomli", "tomlkit", "click", "rich"}),
        # A program that embeds the library, or talks to the service.
        ("loopforge.runtime.client", {"httpx2", "h11", "pydantic", "tomli", "tomlkit", "click", "rich"}),
        # The commands that only ask the service: a blocking socket is enough.
        ("loopforge.runtime.blocking", {"trio", "httpx2", "h11", "pydantic", "tomli", "tomlkit", "click", "rich"}),
        # Readers and request builders are pure.
        ("loopforge.drivers.openai_compatible.driver", {"trio", "httpx2", "h11", "pydantic"}),
    ],
)
def test_a_module_loads_no_library_that_its_process_can_do_without(module: str, never: set[str]) -> None:
    assert not modules_after(f"import {module}") & never


def test_every_public_name_is_there_and_comes_from_where_type_checkers_are_told() -> None:
    tree = ast.parse((ROOT / "src/loopforge/__init__.py").read_text())
    (told,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    homes = {alias.name: node.module for node in told.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert sorted(homes) == sorted(loopforge.__all__)
    for name, home in homes.items():
        assert home is not None
        assert getattr(loopforge, name) is getattr(import_module(home), name)


def test_an_unknown_name_is_an_attribute_error_that_tells_it() -> None:
    with pytest.raises(AttributeError, match=r"'loopforge'.*'open_runtme'"):
        getattr(loopforge, "open_runtme")  # noqa: B009  # the type checker knows that it is not there


# ---- who imports what ------------------------------------------------------------------------------------------------

# What a layer may take from the layer below: messages, not machinery.
TAKEN = {
    ("runtime", "workers"): {"channel", "frame_types", "framing", "messages", "packing"},
    ("runtime", "drivers"): {"capabilities", "errors", "fold", "registry", "turn"},
    ("workers", "runtime"): set(),
    ("drivers", "runtime"): set(),
    ("drivers", "workers"): set(),
}
# The places a third-party library is imported at, where they are counted.
HOMES = {
    "httpx2": {"drivers/transport.py"},
    "aiobotocore": {"drivers/aws_chain.py"},
    "botocore": {"drivers/aws_chain.py", "drivers/bedrock/frames.py"},
    "pydantic_settings": set(),
    "httpx": set(),
    "requests": set(),
}


def imports_of(path: PurePosixPath) -> Iterator[str]:
    """Dotted names of all that a file imports, inside functions too; `from a import b` gives a and a.b."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(("layer", "below"), TAKEN)
def test_a_layer_takes_only_the_modules_that_carry_messages(layer: str, below: str) -> None:
    taken = {
        (str(path), name.split(".")[2])
        for path in python_files(layer)
        for name in imports_of(path)
        if name.startswith(f"loopforge.{below}.")
    }
    assert not {(path, module) for path, module in taken if module not in TAKEN[layer, below]}


def test_wire_formats_know_neither_each_other_nor_the_network() -> None:
    kinds = set(import_module("loopforge.drivers.registry").KINDS)
    for path in python_files("drivers"):
        if (own := path.parts[1].removesuffix(".py")) in kinds:
            others = {f"loopforge.drivers.{name}" for name in (kinds | {"transport", "run", "simulator"}) - {own}}
            assert not {name for name in imports_of(path) if ".".join(name.split(".")[:3]) in others}, path


def test_a_library_that_must_have_one_home_has_it() -> None:
    found: dict[str, set[str]] = {library: set() for library in HOMES}
    for path in python_files(*PACKAGES):
        for library in {name.split(".")[0] for name in imports_of(path)} & HOMES.keys():
            found[library].add(str(path))
    assert found == HOMES

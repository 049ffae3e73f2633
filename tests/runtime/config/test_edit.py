"""Editing a config.toml: what was asked for changes, and not one other character."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from loopforge.runtime.config.edit import CannotEdit, routed_kinds, set_route
from loopforge.runtime.config.paths import PRESETS

KINDS = ("planning", "coding", "summary", "review-2")
NAMES = st.text("abc019_-", min_size=1, max_size=6)
MODELS = st.one_of(
    st.just("default"),
    st.sampled_from(["llama3.2", "claude/x:1", 'a"b', "back\\slash", "é'", "#no", "\t", "[x]"]),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
)


@dataclass(frozen=True)
class Document:
    """`text`: in lines that end in \\n. `form`: how its routes are written."""

    text: str
    form: str


@st.composite
def comments(draw: st.DrawFn) -> str:
    return "".join(draw(st.lists(st.sampled_from(["\n", "# a = 1\n", "  # [router.x]\n", "\t\n", "#\n"]), max_size=3)))


@st.composite
def ends(draw: st.DrawFn) -> str:
    return draw(st.sampled_from(["\n", "  # why\n", "# [x]\n", " \n"]))


@st.composite
def assignments(draw: st.DrawFn) -> list[tuple[str, str]]:
    """Keys of one route with their values as written, in some order; more often than not with a provider."""
    values = {
        "provider": draw(st.sampled_from(['"ollama"', "'x'", '"""\\\n  y"""', "'''z'''"])),
        "model": draw(st.sampled_from(['"default"', "'m#'", '"a\\"b"'])),
        "fallbacks": draw(st.sampled_from(['["a", "b/c"]', '[\n  "a", # one\n\n  "b",\n]', "[]"])),
        "lane": '"normal"',
        "deadline_s": draw(st.sampled_from(["1", "1_0.5", "nan"])),
    }
    keys = draw(st.lists(st.sampled_from(sorted(values)), unique=True, max_size=5))
    return [(key, values[key]) for key in keys]


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """Routes in one of the forms that TOML has for them, with tables of others and comments around."""
    form = draw(st.sampled_from(["headers", "members", "dotted", "all dotted", "inline", "one inline"]))
    kinds = draw(st.lists(st.sampled_from(KINDS[:3]), unique=True, min_size=1))
    space = draw(st.sampled_from(["", " "]))
    quote = draw(st.sampled_from(["", '"', "'"]))
    other = "[providers.{}]{}base_url = 'http://x'{}{}"

    def line(prefix: str, key: str, value: str) -> str:
        return f"{prefix}{quote}{key}{quote}{space}={space}{value}{draw(ends())}"

    def inline(items: list[tuple[str, str]]) -> str:
        return "{" + ", ".join(f"{key} = {value}" for key, value in items if "\n" not in value) + "}"

    routes = {kind: draw(assignments()) for kind in kinds}
    parts: list[str] = []
    if form == "headers":
        for kind, items in routes.items():
            head = f"[router.{quote}{kind}{quote}]{draw(ends())}"
            parts.append(head + "".join(draw(comments()) + line("", *item) for item in items))
    elif form == "members":
        parts.append("[router]\n" + "".join(line("", kind, inline(items)) for kind, items in routes.items()))
    elif form == "dotted":
        parts.append(
            "[router]\n" + "".join(line(f"{kind}.", *item) for kind, items in routes.items() for item in items)
        )
    elif form == "all dotted":
        first = [line(f"router.{kind}.", *item) for kind, items in routes.items() for item in items]
        return Document(draw(comments()) + "".join(first) + other.format("a", "\n", "\n", draw(comments())), form)
    elif form == "inline":
        members = ", ".join(f"{kind} = {inline(items)}" for kind, items in routes.items())
        return Document(f"router = {{{members}}}{draw(ends())}" + other.format("a", "\n", "\n", ""), form)
    else:
        parts.append(f"[router]\n{line('', kinds[0], inline(routes[kinds[0]]))}")
        parts += [
            f"[router.{kind}]\n" + "".join(line("", *item) for item in items)
            for kind, items in routes.items()
            if kind != kinds[0]
        ]
    parts += [other.format(name, draw(ends()), draw(ends()), draw(comments())) for name in ("a", "b")]
    return Document(draw(comments()) + "".join(draw(st.permutations(parts))) + draw(comments()), form)


def expected(text: str, kind: str, provider: str, model: str) -> dict[str, Any]:
    document = copy.deepcopy(tomli.loads(text))
    route = document.setdefault("router", {}).setdefault(kind, {})
    route["provider"] = provider
    if model != "default" or "model" in route:
        route["model"] = model
    return document


@given(documents(), st.sampled_from(KINDS), NAMES, MODELS)
def test_the_text_means_what_it_meant_with_the_route_changed(
    document: Document, kind: str, provider: str, model: str
) -> None:
    changed = set_route(document.text, kind, provider, model)
    assert repr(sorted_deep(tomli.loads(changed))) == repr(
        sorted_deep(expected(document.text, kind, provider, model))
    ), changed


def sorted_deep(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: sorted_deep(value[key]) for key in sorted(value)}
    return value


@given(documents(), st.sampled_from(KINDS), NAMES, MODELS)
def test_every_line_that_holds_none_of_the_changed_values_stays_as_it_was(
    document: Document, kind: str, provider: str, model: str
) -> None:
    after = iter(set_route(document.text, kind, provider, model).split("\n"))
    kept = [line for line in document.text.split("\n") if not may_change(line, kind)]
    assert all(any(line == found for found in after) for line in kept), "each, in their order"


def may_change(line: str, kind: str) -> bool:
    """Whether the line may hold a provider or model of this route, or the route whole."""
    inline = "{" in line and (kind in line or line.startswith("router"))
    return inline or (("provider" in line or "model" in line) and "[" not in line.partition("#")[0]) or 'y"""' in line


@given(documents(), st.sampled_from(KINDS), NAMES, MODELS, st.booleans())
def test_line_ends_and_the_byte_order_mark_stay(
    document: Document, kind: str, provider: str, model: str, marked: bool
) -> None:
    text = ("\ufeff" if marked else "") + document.text.replace("\n", "\r\n")
    changed = set_route(text, kind, provider, model)
    assert changed.count("\n") == changed.count("\r\n")
    assert changed.startswith("\ufeff") is marked
    assert changed.replace("\r\n", "\n").removeprefix("\ufeff") == set_route(document.text, kind, provider, model)


@given(documents(), st.sampled_from(KINDS), NAMES, MODELS)
def test_setting_what_is_set_already_changes_nothing(document: Document, kind: str, provider: str, model: str) -> None:
    once = set_route(document.text, kind, provider, model)
    assert set_route(once, kind, provider, model) == once


def test_the_presets_change_in_the_values_alone() -> None:
    before = PRESETS.read_text()
    after = set_route(before, "planning", "anthropic", "claude-x")
    changed = [pair for pair in zip(before.splitlines(), after.splitlines(), strict=True) if pair[0] != pair[1]]
    assert changed == [
        ('provider = "ollama"', 'provider = "anthropic"'),
        (
            'model = "default"              # the provider\'s default_model, or any model it serves',
            'model = "claude-x"              # the provider\'s default_model, or any model it serves',
        ),
    ]


def test_a_new_kind_stands_behind_the_other_routes_and_not_among_the_comments_of_what_follows() -> None:
    before = PRESETS.read_text()
    after = set_route(before, "review", "deepseek")
    added = '\n[router.review]\nprovider = "deepseek"\n'
    place = after.index(added)
    assert before == after.replace(added, "")
    assert before[:place].rstrip().endswith('model = "default"')
    assert before[place:].lstrip().startswith("# ---- Providers.")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            '[router.planning]\nprovider = "a"\n# below\n\n# of coding\n[router.coding]\n',
            '[router.planning]\nprovider = "x"\nmodel = "m"\n# below\n\n# of coding\n[router.coding]\n',
        ),
        (
            "[router.planning] # c\n[providers.a]\n",
            '[router.planning] # c\nprovider = "x"\nmodel = "m"\n[providers.a]\n',
        ),
        (
            '  [router.planning]\n  lane = "normal"\n',
            '  [router.planning]\n  provider = "x"\n  model = "m"\n  lane = "normal"\n',
        ),
        (
            "[router]\nplanning.lane='normal'",
            '[router]\nplanning.provider = "x"\nplanning.model = "m"\nplanning.lane=\'normal\'',
        ),
        ("", '[router.planning]\nprovider = "x"\nmodel = "m"\n'),
    ],
)
def test_a_key_that_is_missing_is_put_where_a_person_would(before: str, after: str) -> None:
    assert set_route(before, "planning", "x", "m") == after


def test_what_cannot_be_changed_is_refused_with_the_lines_to_write() -> None:
    text = "[[router]]\n"  # TOML, but no configuration
    with pytest.raises(CannotEdit, match=r'by hand: \[router\.planning\] provider = "x"; model = "m"'):
        set_route(text, "planning", "x", "m")


def test_the_kinds_that_a_text_routes_are_told() -> None:
    assert routed_kinds("\ufeff[router.review]\n[providers.a]\n") == ("review",)
    assert routed_kinds("") == ()


def test_the_presets_are_the_file_that_people_edit_first(tmp_path: Path) -> None:
    text = PRESETS.read_text()
    for kind in routed_kinds(text):
        text = set_route(text, kind, "bedrock", "us.model:0")
    assert all(
        route == {"provider": "bedrock", "model": "us.model:0"} for route in tomli.loads(text)["router"].values()
    )

"""Keys: only those that routes need can be an error, and none is ever repeated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from loopforge.runtime.doctor.keys import judge_keys, spare_providers, trouble_with_key
from loopforge.runtime.doctor.routes import routed
from tests.runtime.config.checking import accepted
from tests.runtime.doctor.asking import target, told, two_providers

KEY = "sk-0123456789abcdef"


def served(done: int, *, by_another_key: int = 0) -> dict[str, Any]:
    """`by_another_key`: turns that were done before the provider's account was changed."""

    def row(name: str, done: int, before: int = 0, **members: Any) -> dict[str, Any]:
        return {"name": name, "outcomes": {"done": done + before}, "traffic": {"done": done}, **members}

    rows = [row("acme", done, by_another_key), row("other", 9)]
    if by_another_key:
        rows.append(row("acme", by_another_key, done, state="retiring"))
    return {"providers": rows}


def test_a_missing_key_that_a_route_needs_is_an_error_with_its_kinds() -> None:
    (found,) = judge_keys([target(api_key_env="ACME_KEY", kinds=("planning", "coding"))], {}, {})
    assert (found.status, found.subject) == ("error", "acme")
    assert found.what == "ACME_KEY is not set, and planning, coding turns go to acme"
    assert found.next_step == "set the key of acme where the service runs: export ACME_KEY=…"


def test_of_providers_that_no_route_names_nothing_is_said() -> None:
    config = two_providers('[providers.idle]\nbase_url = "https://x"\napi_key_env = "IDLE_KEY"\n')
    assert told(list(judge_keys(routed(config), {"ACME_KEY": KEY}, {}))) == [
        ("ok", "ACME_KEY is set"),
        ("ok", "ollama: no key variable to set"),
    ]


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        (KEY, ""),
        (f"{KEY}\n", "a blank or a line break"),
        (f"Bearer {KEY}", "a blank or a line break"),
        (f'"{KEY}"', "the quotes around the key"),
        (f"{KEY}\u2026", "a character that no API key has"),
    ],
)
def test_a_key_that_cannot_be_sent_is_told_without_the_key(key: str, wrong: str) -> None:
    (found,) = judge_keys([target(api_key_env="ACME_KEY")], {"ACME_KEY": key}, {})
    assert (found.status == "error") == bool(wrong)
    assert wrong in found.what
    assert KEY not in repr(found)
    assert bool(trouble_with_key(key)) == bool(wrong)


def test_a_key_in_a_folder_of_credentials_counts(tmp_path: Path) -> None:
    (tmp_path / "ACME_KEY").write_text(KEY)
    (found,) = judge_keys([target(api_key_env="ACME_KEY")], {"CREDENTIALS_DIRECTORY": str(tmp_path)}, {})
    assert (found.status, found.what) == ("ok", "ACME_KEY is there, in the folder of credentials")


def test_a_service_whose_provider_has_answered_has_the_key_whatever_this_shell_has() -> None:
    needs = [target(api_key_env="ACME_KEY")]
    assert [found.status for found in judge_keys(needs, {}, served(done=1))] == ["ok"]
    assert [found.status for found in judge_keys(needs, {}, served(done=0))] == ["error"]
    assert [found.status for found in judge_keys(needs, {}, served(done=0, by_another_key=3))] == ["error"]


def test_a_provider_that_nothing_uses_and_whose_key_is_there_is_offered() -> None:
    config = accepted(
        '[providers.ollama]\nbase_url = "http://127.0.0.1:11434/v1"\ndefault_model = "m"\n'
        '[providers.a]\nbase_url = "https://a"\napi_key_env = "A_KEY"\ndefault_model = "m"\n'
        '[providers.b]\nbase_url = "https://b"\napi_key_env = "B_KEY"\n'
    )
    env = {"A_KEY": KEY, "B_KEY": KEY}
    assert spare_providers(config, routed(config), env) == ("a",)  # b has no model to begin with
    assert spare_providers(config, routed(config), {"A_KEY": "two words"}) == ()
    assert spare_providers(config, routed(config, ["a"]), env) == ()

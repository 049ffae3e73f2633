"""Which AWS credentials win: told by the driver's own look-up, in a process of its own."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from loopforge.drivers.registry import AwsSettings
from loopforge.runtime.doctor.aws import BEARER_VARIABLE, probe, timed_out
from loopforge.runtime.doctor.programs import Said, run_program
from loopforge.runtime.doctor.routes import Routed
from tests.runtime.doctor.asking import target

SECRET = "wJalrXUtnFEMI/K7MDENG"


def bedrock(*, profile: str = "", base_url: str = "", api_key_env: str = "") -> Routed:
    aws = AwsSettings(region="eu-west-1", profile=profile)
    return target("bedrock", kind="bedrock", base_url=base_url, api_key_env=api_key_env, aws_bedrock=aws)


class Probe:
    """Answers as the look-up does; notes how it was called."""

    def __init__(self, out: str) -> None:
        self._out = out
        self.argv: Sequence[str] = ()
        self.env: Mapping[str, str] = {}

    async def __call__(self, argv: Sequence[str], env: Mapping[str, str] | None = None) -> Said:
        self.argv, self.env = argv, env or {}
        return Said(0, self._out)


FOUND = json.dumps({"region": "eu-west-1", "endpoint": "https://bedrock.test", "source": "sso"})


async def test_the_source_is_told_in_words_and_the_endpoint_is_where_requests_go() -> None:
    run = Probe(FOUND)
    probed = await probe(
        bedrock(profile="work"), {"HOME": "/h", "AWS_X": "1", "OTHER_KEY": SECRET, "PATH": "/bin"}, run
    )
    assert (probed.finding.status, probed.finding.what) == (
        "ok",
        "credentials come from an SSO login; region eu-west-1",
    )
    assert probed.endpoint == "https://bedrock.test"
    assert list(run.argv[-3:]) == ["bedrock", "eu-west-1", "work"]
    assert run.env == {"HOME": "/h", "AWS_X": "1", "PATH": "/bin"}  # what its worker would see


async def test_a_base_url_is_the_endpoint() -> None:
    probed = await probe(bedrock(base_url="https://vpce.test"), {}, Probe(FOUND))
    assert probed.endpoint == "https://vpce.test"


async def test_a_bedrock_key_wins_and_no_credentials_are_looked_for() -> None:
    run = Probe(FOUND)
    for provider, env, variable in [
        (bedrock(), {BEARER_VARIABLE: SECRET}, BEARER_VARIABLE),
        (bedrock(api_key_env="MY_KEY"), {"MY_KEY": SECRET}, "MY_KEY"),
    ]:
        probed = await probe(provider, env, run)
        assert probed.finding.what == f"the Bedrock key in {variable} wins over all credentials; region eu-west-1"
        assert run.argv[-1] == "--endpoint-only"
        assert SECRET not in repr(run.argv)


@pytest.mark.parametrize("out", ["", "Traceback", "[]"])
async def test_a_look_up_that_ends_without_a_word_is_an_error(out: str) -> None:
    probed = await probe(bedrock(), {}, Probe(out))
    assert (probed.finding.status, "report" in probed.finding.next_step) == ("error", True)


def test_a_look_up_that_takes_too_long_names_what_may_not_answer() -> None:
    found = timed_out(bedrock(), 2.0)
    assert (found.status, "metadata service" in found.what, "--timeout-ms" in found.next_step) == ("error", True, True)


# -- the real look-up ------------------------------------------------------------------------------------------------


def aws_home(folder: Path, **variables: str) -> dict[str, str]:
    """An account with these variables, on a machine that has no role."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "AWS_EC2_METADATA_DISABLED": "true",
        **{name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ},
        **variables,
    }


async def test_the_variables_of_the_environment_are_found_and_do_not_show(tmp_path: Path) -> None:
    env = aws_home(tmp_path, AWS_ACCESS_KEY_ID="AKIAIOSFODNN7EXAMPLE", AWS_SECRET_ACCESS_KEY=SECRET)
    probed = await probe(bedrock(), env, run_program)
    assert probed.finding.status == "ok", probed
    assert probed.finding.what.startswith("credentials come from the variables AWS_ACCESS_KEY_ID and")
    assert probed.endpoint == "https://bedrock-runtime.eu-west-1.amazonaws.com"
    assert SECRET not in repr(probed)
    assert "AKIA" not in repr(probed)


async def test_a_profiles_file_is_found(tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(f"[work]\naws_access_key_id = A\naws_secret_access_key = {SECRET}\n")
    probed = await probe(bedrock(profile="work"), aws_home(tmp_path), run_program)
    assert probed.finding.what == "credentials come from the credentials file (~/.aws/credentials); region eu-west-1"


@pytest.mark.parametrize(("profile", "told"), [("", "no AWS credentials were found"), ("gone", "gone")])
async def test_none_and_a_profile_that_is_not_there_are_errors_with_the_next_step(
    tmp_path: Path, profile: str, told: str
) -> None:
    probed = await probe(bedrock(profile=profile), aws_home(tmp_path), run_program)
    assert (probed.finding.status, told in probed.finding.what, bool(probed.finding.next_step)) == ("error", True, True)


async def test_the_look_up_says_how_it_is_called(tmp_path: Path) -> None:
    said = await run_program([sys.executable, "-m", "loopforge.drivers.aws_probe"], aws_home(tmp_path))
    assert (said.status, said.out) == (2, "")

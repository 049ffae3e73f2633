"""Which AWS credentials a Bedrock provider will sign with, and where its requests go.

The look-up is the driver's own (drivers/aws_probe.py), in a short-lived process with the worker's environment: what it
finds is what the worker will find. Its words for sources are botocore's, told here in a person's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loopforge.drivers.registry import AwsSettings
from loopforge.runtime.config.paths import Environment
from loopforge.runtime.doctor.finding import Finding, error, ok
from loopforge.runtime.doctor.programs import RunProgram
from loopforge.runtime.doctor.routes import Routed
from loopforge.runtime.process import worker_environment

BEARER_VARIABLE = "AWS_BEARER_TOKEN_BEDROCK"
_PROBE = "loopforge.drivers.aws_probe"
_SOURCES: Mapping[str, str] = {
    "env": "the variables AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "shared-credentials-file": "the credentials file (~/.aws/credentials)",
    "config-file": "the config file (~/.aws/config)",
    "custom-process": "the credential_process of the profile",
    "assume-role": "a role that the profile assumes",
    "assume-role-with-web-identity": "a role, by a web identity token",
    "sso": "an SSO login",
    "login": "a login of the AWS command line",
    "container-role": "the container's role",
    "iam-role": "this machine's role (instance metadata)",
}


@dataclass(frozen=True, slots=True)
class Probed:
    """`endpoint`: where requests go, "" when that is not known."""

    finding: Finding
    endpoint: str = ""


async def probe(target: Routed, env: Environment, run: RunProgram) -> Probed:
    """Look for credentials as the worker of this provider would."""
    settings = target.settings
    aws = settings.aws_bedrock or AwsSettings()
    key = settings.api_key_env or (BEARER_VARIABLE if env.get(BEARER_VARIABLE) else "")
    argv = [sys.executable, "-P", "-m", _PROBE, settings.name, aws.region, aws.profile]
    said = await run([*argv, *(["--endpoint-only"] if key else [])], worker_environment(settings, env))
    told = _read(said.out)
    endpoint = settings.base_url or str(told.get("endpoint", ""))
    return Probed(_judge(target, told, key), endpoint)


def _judge(target: Routed, told: Mapping[str, Any], key: str) -> Finding:
    name = target.settings.name
    if wrong := told.get("error"):
        return error("aws", str(wrong.get("what", "")), str(wrong.get("action", "")), subject=name)
    if not told:
        step = "run it with LOOPFORGE_DEBUG=1 and report what it says: loopforge doctor"
        return error("aws", "the look-up of AWS credentials ended without an answer", step, subject=name)
    region = told.get("region")
    if key:
        return ok("aws", f"the Bedrock key in {key} wins over all credentials; region {region}", subject=name)
    source = str(told.get("source", ""))
    return ok("aws", f"credentials come from {_SOURCES.get(source, source)}; region {region}", subject=name)


def timed_out(target: Routed, timeout_s: float) -> Finding:
    """For a look-up that took too long: a role or a login service does not answer."""
    what = f"no AWS credentials within {timeout_s:g} s: a role, login or metadata service does not answer"
    step = "try aws sts get-caller-identity, or give it longer with --timeout-ms"
    return error("aws", what, step, subject=target.settings.name)


def _read(text: str) -> dict[str, Any]:
    try:
        told = json.loads(text)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}

"""What a worker's process is given: its own key and no other, by environment or by one descriptor."""

from __future__ import annotations

import os
from pathlib import Path

from loopforge.drivers.registry import ProviderSettings
from loopforge.runtime.process import open_credential, worker_environment

OURS = ProviderSettings(name="deepseek", kind="openai_compatible", api_key_env="DEEPSEEK_API_KEY")
BEDROCK = ProviderSettings(name="bedrock", kind="bedrock", api_key_env="AWS_BEARER_TOKEN_BEDROCK")
ENVIRON = {
    "PATH": "/bin",
    "HOME": "/home/me",
    "LC_ALL": "C.UTF-8",
    "HTTPS_PROXY": "http://127.0.0.1:3128",
    "SSL_CERT_FILE": "/etc/ca.pem",
    "TZ": "UTC",
    "DEEPSEEK_API_KEY": "ours",
    "ANTHROPIC_API_KEY": "another's",
    "AWS_SECRET_ACCESS_KEY": "another's",
    "AWS_PROFILE": "work",
    "GITHUB_TOKEN": "nobody's business",
    "PYTHONPATH": "/tmp/evil",
    "LD_PRELOAD": "/tmp/evil.so",
}


def test_a_worker_sees_path_locale_proxy_ca_time_zone_and_its_own_key() -> None:
    assert worker_environment(OURS, ENVIRON) == {
        name: ENVIRON[name] for name in ("PATH", "LC_ALL", "HTTPS_PROXY", "SSL_CERT_FILE", "TZ", "DEEPSEEK_API_KEY")
    }


def test_only_bedrock_gets_home_and_the_aws_variables() -> None:
    seen = worker_environment(BEDROCK, ENVIRON)
    assert {"HOME", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"} <= seen.keys()
    assert not {"DEEPSEEK_API_KEY", "ANTHROPIC_API_KEY", "GITHUB_TOKEN", "PYTHONPATH"} & seen.keys()


def test_a_provider_without_a_key_variable_gets_no_key() -> None:
    local = ProviderSettings(name="ollama", kind="openai_compatible")
    assert not any(name.endswith(("KEY", "TOKEN")) for name in worker_environment(local, ENVIRON))


def test_of_a_credentials_folder_only_the_one_file_is_opened(tmp_path: Path) -> None:
    (tmp_path / "DEEPSEEK_API_KEY").write_text("ours")
    (tmp_path / "ANTHROPIC_API_KEY").write_text("another's")
    fd = open_credential(OURS, {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert fd is not None
    with os.fdopen(fd) as file:
        assert file.read() == "ours"


def test_without_a_folder_or_a_file_there_is_no_descriptor(tmp_path: Path) -> None:
    assert open_credential(OURS, {}) is None
    assert open_credential(OURS, {"CREDENTIALS_DIRECTORY": str(tmp_path)}) is None
    outside = ProviderSettings(name="x", kind="openai_compatible", api_key_env="../secret")
    assert open_credential(outside, {"CREDENTIALS_DIRECTORY": str(tmp_path)}) is None

"""A certificate authority of the test's own, by the openssl command: nothing that anybody else trusts."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

_EC = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


@dataclass(frozen=True)
class Authority:
    """`file`: its certificate, what a client is to trust."""

    file: Path
    _key: Path

    def issue(self, host: str, *, days: int = 2) -> Path:
        """A certificate for this host with its key, in one file. Fewer than 0 days: it has expired."""
        stem = self.file.parent / host.replace("*", "_").replace(":", "_")
        key, request, crt = stem.with_suffix(".key"), stem.with_suffix(".csr"), stem.with_suffix(".crt")
        extra = stem.with_suffix(".ext")
        kind = "IP" if host.replace(".", "").isdigit() else "DNS"
        extra.write_text(f"subjectAltName={kind}:{host}\n")
        _run(["openssl", "req", *_EC, "-keyout", key, "-out", request, "-subj", f"/CN={host}"])
        signing = ["-CA", self.file, "-CAkey", self._key, "-CAcreateserial", "-days", days, "-extfile", extra]
        _run(["openssl", "x509", "-req", "-in", request, "-out", crt, *signing])
        both = stem.with_suffix(".pem")
        both.write_bytes(key.read_bytes() + crt.read_bytes())
        return both


def make_authority(folder: Path) -> Authority:
    """Skips the test where openssl is not installed."""
    key, crt = folder / "ca.key", folder / "ca.crt"
    try:
        _run(["openssl", "req", "-x509", *_EC, "-keyout", key, "-out", crt, "-subj", "/CN=test CA", "-days", 2])
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    return Authority(crt, key)


def _run(command: list[object]) -> None:
    subprocess.run([str(word) for word in command], check=True, capture_output=True)

"""The service's workers as the kernel lists them: asking the service itself would be a load on what is measured."""

from __future__ import annotations

from pathlib import Path


def worker_processes(service_pid: int, provider: str = "") -> list[int]:
    """Pids of its workers, or of the one of this provider."""
    children = Path(f"/proc/{service_pid}/task/{service_pid}/children").read_text().split()
    return [int(pid) for pid in children if _is_worker(pid, provider)]


def _is_worker(pid: str, provider: str) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:  # gone
        return False
    return b"loopforge.workers" in words and (not provider or provider.encode() in words)

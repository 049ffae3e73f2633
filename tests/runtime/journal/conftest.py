"""Fixtures of the journal's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes.recording_disk import RecordingDisk, recording_disk


@pytest.fixture
def disk() -> Iterator[RecordingDisk]:
    with recording_disk() as found:
        if found is None:
            pytest.skip("this Python's SQLite cannot be reached through ctypes")
        yield found

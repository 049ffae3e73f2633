"""What several tests of the runtime start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.journal.sample import open_store
from tests.runtime.recovering import Disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with open_store(tmp_path / "journal.db") as store:
        yield Disk(store)

import json
import os
from pathlib import Path

import pytest

from loopforge.runtime.rehearsal.document import to_json, write_json


def test_the_file_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    file.write_text("old and much longer than what replaces it" * 100)
    write_json(file, {"lost": 0, "name": "é"})
    assert json.loads(file.read_text("utf-8")) == {"lost": 0, "name": "é"}
    assert list(tmp_path.iterdir()) == [file]


def test_the_file_has_the_mode_that_any_new_file_has(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_json(tmp_path / "out.json", {})
    assert (tmp_path / "out.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_document_that_json_cannot_carry_leaves_the_old_file_alone(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    file.write_text("old")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(file, {"latency": float("nan")})
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_device_is_written_to_as_it_is() -> None:
    reading, writing = os.pipe()
    try:
        write_json(Path(f"/dev/fd/{writing}"), {"lost": 0})
        assert json.loads(os.read(reading, 4096)) == {"lost": 0}
    finally:
        os.close(reading)
        os.close(writing)


def test_a_document_ends_with_its_line() -> None:
    assert to_json({}) == "{}\n"

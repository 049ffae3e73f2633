"""Each preset's real endpoint: a text, a stream and a tool call. pytest -m smoke tests/smoke [-k glm]"""

from __future__ import annotations

import pytest

from loopforge.runtime.smoke.cases import CASES, CaseName
from tests.runtime.smoke.playing import presets
from tests.smoke.asking import result_of, target_of, why_not


@pytest.mark.smoke
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", presets())
def test_the_preset_answers(name: str, case: CaseName) -> None:
    if reason := why_not(target_of(name)):
        pytest.skip(reason)
    result = result_of(name, case)
    assert result.status == "ok", f"{result.error}: {result.reason}; {result.next_step}"

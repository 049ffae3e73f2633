"""Each provider kind, by the first of its presets that can be asked."""

from __future__ import annotations

import pytest

from loopforge.drivers.registry import KINDS
from loopforge.runtime.smoke.cases import CASES
from tests.runtime.smoke.playing import presets
from tests.smoke.asking import result_of, target_of, why_not


@pytest.mark.smoke
@pytest.mark.parametrize("kind", KINDS)
def test_a_provider_of_the_kind_answers_with_text_a_stream_and_a_tool_call(kind: str) -> None:
    reasons = {name: why_not(target_of(name)) for name, settings in presets().items() if settings.kind == kind}
    name = next((name for name, reason in reasons.items() if not reason), None)
    if name is None:
        pytest.skip("; ".join(dict.fromkeys(reasons.values())))
    results = [result_of(name, case) for case in CASES]
    assert [f"{result.place}: {result.error}: {result.reason}" for result in results if result.status != "ok"] == []

"""What several things promise alike, as tests that each of them inherits."""

import pytest

# Before they are imported: else a failing assert in a suite says no more than that it failed.
pytest.register_assert_rewrite(
    *(f"{__name__}.{suite}" for suite in ("channel", "conformance", "transport", "whole_turns"))
)

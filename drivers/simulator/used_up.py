"""How vendors say that a plan's quota is used up and when it is whole again. Pure.

MiniMax and GLM sell plans on several wires and say it in the same words on each; whose model it is shows in its name.
Words: error bodies as clients of these vendors report them. Vendors that tell no time have nothing here.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime

from loopforge.drivers.error_text import CHINA

GLM_CODE = "1308"
MINIMAX_CODE = 2056


def is_minimax(model: str) -> bool:
    return "minimax" in model.lower()


def is_glm(model: str) -> bool:
    return "glm" in model.lower()


def minimax_words(resets_at: float) -> str:
    """Without the code in brackets that the message ends in. `resets_at`: unix seconds, told in whole ones."""
    moment = datetime.fromtimestamp(math.ceil(resets_at), CHINA).isoformat()
    plan = "5-hour usage limit reached for Token Plan Plus (6596000/6596000 used)"
    return f"usage limit exceeded, {plan}, resets at {moment}"


def glm_words(resets_at: float) -> str:
    """In China's time, which it does not name."""
    moment = datetime.fromtimestamp(math.ceil(resets_at), CHINA)
    return f"Usage limit reached for 5 hour. Your limit will reset at {moment:%Y-%m-%d %H:%M:%S}"


def claude_words(resets_at: float) -> str:
    """To the minute: such limits end with a month."""
    moment = datetime.fromtimestamp(math.ceil(resets_at / 60) * 60, UTC)
    return (
        "You have reached your specified API usage limits. "
        f"You will regain access on {moment:%Y-%m-%d} at {moment:%H:%M} UTC."
    )

"""Turns that a route's first model refuses go to one that takes them, by the whole runtime; the reply says so."""

from __future__ import annotations

from dataclasses import replace

import pytest
from trio.testing import MockClock

from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import Image, Tool, assistant, user
from loopforge.runtime.config.carrying import with_lacks
from loopforge.runtime.config.values import Config, Route, Target
from loopforge.runtime.errors import NoRoute
from tests.runtime.core import config, open_core, provider, turn

BLIND = replace(provider("blind"), vendor="deepseek", default_model="deepseek-chat")
SEEING = replace(provider("seeing"), vendor="openai", default_model="gpt-5.1")
TEXT_ONLY = ProviderSettings(name="text", kind="bedrock", default_model="amazon.titan-text-express-v1")
PNG = Image(data=b"\x89PNG", media_type="image/png")


def routed(*providers: ProviderSettings) -> Config:
    """planning goes to these, as the checked configuration would say it."""
    made = config(*providers)
    targets = tuple(Target(provider=item.name, model=item.default_model) for item in providers)
    planning = with_lacks(Route(kind="planning", targets=targets, lane="interactive"), made.providers)
    return replace(made, routes={**made.routes, "planning": planning})


async def test_a_question_about_an_image_goes_to_the_fallback_that_sees_and_text_stays(
    autojump_clock: MockClock,
) -> None:
    async with open_core(routed(BLIND, SEEING)) as core:
        about_an_image = await core.runtime.ask(replace(turn(), messages=(user("What is this?", PNG),)))
        text = await core.runtime.ask(turn())
    assert (about_an_image.provider, text.provider) == ("seeing", "blind")
    assert about_an_image.warnings == ("blind was passed over: it cannot carry new images",)
    assert text.warnings == ()


async def test_an_image_of_long_ago_keeps_no_turn_from_a_model_that_leaves_it_out(autojump_clock: MockClock) -> None:
    history = (user("What is this?", PNG), assistant("A cat."), user("And why?"))
    async with open_core(routed(BLIND, SEEING)) as core:
        assert (await core.runtime.ask(replace(turn(), messages=history))).provider == "blind"


async def test_tools_that_nobody_takes_are_refused_before_a_worker_starts(autojump_clock: MockClock) -> None:
    async with open_core(routed(TEXT_ONLY)) as core:
        with pytest.raises(NoRoute, match=r"cannot carry what the turn asks for \(text: tools\)"):
            await core.runtime.ask(replace(turn(), tools=(Tool(name="look"),)))
        assert (await core.runtime.ask(replace(turn(), tools=(Tool(name="look"),), tool_choice="none"))).text

"""What capabilities_of says of a model is what its driver does: each feature, for a model of every family.

A turn with the feature is sent without a notice, with one, or refused; a notice counts when the same turn without the
feature has none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pytest

from loopforge.drivers import claude_models
from loopforge.drivers.anthropic import profiles as anthropic
from loopforge.drivers.bedrock import families as bedrock
from loopforge.drivers.capabilities import Capabilities, When, capabilities_of
from loopforge.drivers.claude_models import generation
from loopforge.drivers.dashscope_native import profiles as dashscope
from loopforge.drivers.errors import TurnRefused
from loopforge.drivers.gemini import profiles as gemini
from loopforge.drivers.minimax_native import profiles as minimax
from loopforge.drivers.registry import AwsSettings, ProviderSettings, open_driver
from loopforge.drivers.turn import (
    Audio,
    Document,
    Effort,
    Image,
    JsonSchema,
    Message,
    NamedTool,
    Part,
    Text,
    Tool,
    Turn,
    system,
    user,
)
from loopforge.drivers.vendors import PROFILES
from loopforge.drivers.zhipu_native import profiles as zhipu
from tests.drivers import every_family as families
from tests.drivers.every_family import every_family, settings_of

PNG = b"\x89PNG\r\n\x1a\n"
PDF = Document(data=b"%PDF-1.4", media_type="application/pdf")
PDF_BY_URL = Document(url="https://example.com/a.pdf", media_type="application/pdf")
SIZE = {"type": "object", "properties": {"size": {"type": "integer"}}, "required": ["size"],
        "additionalProperties": False}  # fmt: skip
LOOK, KNOCK = (Tool(name=name, description="A tool.", parameters=SIZE) for name in ("look", "knock"))
BUDGET = 4000
ROOMY = 20_000  # max_output_tokens that leave room for it
EFFORTS: tuple[Effort, ...] = ("off", "low", "medium", "high")
PLAIN = Turn(kind="coding", messages=(user("hello"),), provider="acme")

What = Literal["sent", "noted", "refused"]
CASES = [
    pytest.param(settings, model, id=f"{settings.kind}-{settings.vendor or 'its own'}-{model}-{number}")
    for number, (settings, model) in enumerate(every_family())
]
each_family = pytest.mark.parametrize(("settings", "model"), CASES)


def happens(settings: ProviderSettings, turn: Turn, *, beside: Turn | None = None) -> What:
    """What becomes of the turn. `beside`: the turn without the feature; its own notices do not count."""
    driver = open_driver(settings)
    try:
        driver.build_request(turn)
    except TurnRefused:
        return "refused"
    known = set(driver.notices(beside)) if beside else set()
    return "noted" if set(driver.notices(turn)) - known else "sent"


def asking(model: str, *parts: Part, **members: Any) -> Turn:
    messages: tuple[Message, ...] = (user("look at this", *parts),)
    return replace(PLAIN, model=model, messages=messages, **members)


def noted_unless(carried: bool) -> What:
    return "sent" if carried else "noted"


def refused_unless(carried: bool) -> What:
    return "sent" if carried else "refused"


@each_family
def test_tools_and_media_are_sent_or_refused_as_the_registry_says(settings: ProviderSettings, model: str) -> None:
    can = capabilities_of(settings, model)
    parts: dict[str, tuple[Part, bool]] = {
        "image": (Image(data=PNG, media_type="image/png"), can.images),
        "image by URL": (Image(url="https://example.com/cat.png"), can.image_urls),
        "document": (PDF, can.documents),
        "document by URL": (PDF_BY_URL, can.document_urls),
        "sound": (Audio(data=b"RIFF", media_type="audio/wav"), can.audio),
    }
    told = {name: refused_unless(carried) for name, (_, carried) in parts.items()}
    done = {name: happens(settings, asking(model, part)) for name, (part, _) in parts.items()}
    assert done == told


@each_family
def test_what_the_registry_calls_refused_is_refused_in_every_form(settings: ProviderSettings, model: str) -> None:
    forms: dict[str, list[Turn]] = {
        "tools": [asking(model, tools=(LOOK,))],
        "new images": [
            asking(model, Image(data=PNG, media_type="image/png")),
            asking(model, Image(url="https://example.com/cat.png")),
        ],
        "new documents": [
            asking(model, PDF),
            asking(model, PDF_BY_URL),
        ],
        "new audio": [asking(model, Audio(data=b"RIFF", media_type="audio/wav"))],
    }
    refused = {name for name, turns in forms.items() if all(happens(settings, turn) == "refused" for turn in turns)}
    assert capabilities_of(settings, model).refuses == refused


@each_family
def test_a_document_of_text_is_always_taken(settings: ProviderSettings, model: str) -> None:
    assert happens(settings, asking(model, Document(data=b"a,b", media_type="text/plain"))) == "sent"


@each_family
def test_thinking_is_asked_for_as_the_registry_says(settings: ProviderSettings, model: str) -> None:
    can = capabilities_of(settings, model)

    def done(wanted: Effort | int) -> What:
        # some have no room for it in a short answer, others take no length beside it
        plain = [replace(PLAIN, model=model, max_output_tokens=tokens) for tokens in (None, ROOMY)]
        found = {happens(settings, replace(turn, thinking=wanted), beside=turn) for turn in plain}
        return "sent" if "sent" in found else found.pop()

    assert {wanted: done(wanted) for wanted in (*EFFORTS, BUDGET)} == {
        wanted: noted_unless(can.does(wanted)) for wanted in (*EFFORTS, BUDGET)
    }
    assert can.does(0) == can.does("off")
    assert can.does(None)
    plain = replace(PLAIN, model=model)
    asked = replace(plain, thinking="low")
    changed = open_driver(settings).build_request(plain).body != open_driver(settings).build_request(asked).body
    if can.thinking != "always":  # where nothing can be said nothing is, to those that think and those that do not
        assert changed == can.thinks


@each_family
def test_tools_are_offered_as_the_registry_says(settings: ProviderSettings, model: str) -> None:
    can = capabilities_of(settings, model)
    if not can.tools:
        assert happens(settings, asking(model, tools=(LOOK,))) == "refused"
        return
    plain = replace(PLAIN, model=model, stream=False)
    tools = replace(plain, tools=(LOOK, KNOCK))
    assert happens(settings, replace(tools, thinking="off"), beside=replace(plain, thinking="off")) == "sent"
    thinking = replace(tools, thinking="high"), replace(plain, thinking="high")
    assert happens(settings, thinking[0], beside=thinking[1]) == noted_unless(can.thinks_with_tools)
    assert happens(settings, replace(tools, stream=True), beside=tools) == noted_unless(can.streaming == "yes")
    assert happens(settings, replace(tools, parallel_tool_calls=False), beside=tools) == noted_unless(can.one_call)
    strict = replace(tools, tools=(replace(LOOK, strict=True),))
    assert happens(settings, strict, beside=tools) == noted_unless(can.strict_tools)
    check(settings, can.named_tool, tools, lambda turn: replace(turn, tool_choice=NamedTool(name="look")))
    check(settings, can.required_tool, tools, lambda turn: replace(turn, tool_choice="required"))


def check(settings: ProviderSettings, rule: When, turn: Turn, ask: Callable[[Turn], Turn]) -> None:
    """`rule` against a turn that is told to think, and one that is told not to."""
    thinking, not_thinking = (replace(turn, thinking=wanted) for wanted in (BUDGET, "off"))
    while_thinking = happens(settings, ask(thinking), beside=thinking)
    else_ = happens(settings, ask(not_thinking), beside=not_thinking)
    match rule:
        case "yes":
            assert (while_thinking, else_) == ("sent", "sent")
        case "not_thinking":
            assert (while_thinking, else_) == ("noted", "sent")
        case "unsure" | "no":
            assert (while_thinking, else_) == ("noted", "noted")


@each_family
def test_an_answer_of_a_schema_is_asked_for_as_the_registry_says(settings: ProviderSettings, model: str) -> None:
    can = capabilities_of(settings, model)
    plain = replace(PLAIN, model=model)

    def ask(turn: Turn) -> Turn:
        return replace(turn, output=JsonSchema(schema=SIZE))

    rule: When = "not_thinking" if can.schema == "not_thinking" else "yes" if can.schema == "enforced" else "no"
    check(settings, rule, plain, ask)
    body = open_driver(settings).build_request(ask(plain)).body
    as_a_tool = any(word in body for word in (b'"tool_choice"', b'"toolChoice"'))
    assert as_a_tool == (can.schema == "tool")
    if can.tools:
        tools = replace(plain, tools=(LOOK,), thinking="off", stream=False)
        with_tools = happens(settings, ask(tools), beside=tools)
        assert with_tools == noted_unless(can.schema in ("enforced", "not_thinking") and can.schema_with_tools)


@each_family
def test_marks_seeds_stops_and_temperatures_are_sent_as_the_registry_says(
    settings: ProviderSettings, model: str
) -> None:
    can = capabilities_of(settings, model)
    plain = replace(PLAIN, model=model)
    marked = replace(plain, messages=(user(Text(text="hello", cache="5m")),))
    assert happens(settings, marked, beside=plain) == noted_unless(can.cache_marks)
    assert happens(settings, replace(plain, seed=7), beside=plain) == noted_unless(can.seed)
    kind = replace(plain, messages=(system("Be kind."), *plain.messages))
    assert happens(settings, kind, beside=plain) == noted_unless(can.system)
    check(settings, can.temperature, plain, lambda turn: replace(turn, temperature=0.5))
    for count in (1, 2, 5, 6, 50):
        stops = tuple(f"stop {number}" for number in range(count))
        taken = can.stops is None or count <= can.stops
        assert happens(settings, replace(plain, stop=stops), beside=plain) == noted_unless(taken)


# -- what the registry is made of --------------------------------------------------------------------------------------


def test_a_provider_of_an_unknown_driver_kind_is_told() -> None:
    unknown = replace(settings_of("gemini"), kind="telepathy")  # type: ignore[arg-type] # as an old file may say
    with pytest.raises(Exception, match="no driver for kind 'telepathy'"):
        capabilities_of(unknown, "m")


def test_the_header_that_names_a_version_without_sampling_counts() -> None:
    newest = replace(settings_of("anthropic", "anthropic"), headers={"Anthropic-Version": "2026-10-21"})
    assert capabilities_of(newest, "claude-3-7-sonnet").temperature == "no"
    turn = replace(PLAIN, model="claude-3-7-sonnet", temperature=0.5)
    assert happens(newest, turn) == "noted"


def test_the_model_behind_an_arn_is_the_one_that_counts() -> None:
    arn = "arn:aws:bedrock:us-east-1:1:application-inference-profile/x"
    aws = AwsSettings(base_models={arn: "amazon.titan-text-express-v1"})
    settings = replace(settings_of("bedrock"), aws_bedrock=aws)
    assert not capabilities_of(settings, arn).tools
    assert happens(settings, replace(PLAIN, model=arn, tools=(LOOK,))) == "refused"


@pytest.mark.parametrize(
    ("can", "thinking"),
    [
        (Capabilities(), "none"),
        (Capabilities(thinks=True), "switch"),
        (Capabilities(thinks=True, levels=()), "always"),
        (Capabilities(thinks=True, levels=("high",)), "always"),
        (Capabilities(thinks=True, levels=("low", "high")), "effort"),
        (Capabilities(thinks=True, levels=("off", "low", "medium", "high")), "effort"),
        (Capabilities(thinks=True, levels=(), budgets=True), "budget"),
    ],
)
def test_the_finest_word_for_thinking_is_told(can: Capabilities, thinking: str) -> None:
    assert can.thinking == thinking


# Each row of the kinds' tables is one that some model above is found by: a new one wants a model here.


def test_every_vendor_and_rule_of_the_chat_completions_profiles_is_tried() -> None:
    assert set(families.OPENAI_COMPATIBLE) == set(PROFILES)
    for vendor, profile in PROFILES.items():
        if vendor == "azure":
            continue  # OpenAI's own rows, and one before them
        tried = [profile.for_model(model) for model in families.OPENAI_COMPATIBLE[vendor]]
        assert len(set(map(repr, tried))) >= len({repr(rule.changes) for rule in profile.models}), vendor


def test_every_gateway_and_generation_of_the_messages_wire_is_tried() -> None:
    assert set(families.ANTHROPIC) == set(anthropic.PROFILES)
    tried = [generation(model) for model in families.ANTHROPIC["anthropic"]]
    assert all(row.changes in tried for row in claude_models._GENERATIONS)


@pytest.mark.parametrize(
    ("rows", "models", "clean"),
    [
        (gemini._FAMILIES, families.GEMINI, str.lower),
        (bedrock._PATTERNS, families.BEDROCK, lambda model: model.removeprefix("us.")),
        (dashscope._FAMILIES, families.DASHSCOPE_NATIVE, str.lower),
        (zhipu._FAMILIES, families.ZHIPU_NATIVE, str.lower),
        (minimax._FAMILIES, families.MINIMAX_NATIVE, str),
    ],
    ids=["gemini", "bedrock", "dashscope_native", "zhipu_native", "minimax_native"],
)
def test_every_row_of_a_kinds_families_is_the_first_that_fits_some_model(
    rows: Any, models: tuple[str, ...], clean: Callable[[str], str]
) -> None:
    found = {
        next((number for number, (pattern, _) in enumerate(rows) if pattern.search(clean(model))), -1)
        for model in models
    }
    assert [pattern.pattern for number, (pattern, _) in enumerate(rows) if number not in found] == [], "add a model"
    assert -1 in found, "no model is unknown"

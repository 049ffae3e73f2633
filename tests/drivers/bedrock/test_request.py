"""What a turn asks for, as each family of models takes it: tools, forms of answers, thinking, sampling, places."""

from __future__ import annotations

import json
from typing import Any

import pytest

from loopforge.drivers.bedrock import open_driver
from loopforge.drivers.bedrock.families import family_of
from loopforge.drivers.bedrock.model_ids import addressed, bare_id, has_geo, path_of
from loopforge.drivers.errors import TurnRefused
from loopforge.drivers.registry import AWS_DECIDES, AwsSettings, ProviderSettings
from loopforge.drivers.turn import JsonSchema, NamedTool, Tool, Turn, assistant, system, tool_result, user
from tests.drivers.bedrock.asking import (
    CALL,
    CLAUDE,
    HI,
    LLAMA,
    LOOK,
    NOVA,
    QWEN,
    TITAN,
    ask,
    body_of,
    driver_for,
    noted,
    notices_of,
    written,
)

OPUS_47, OPUS_55 = "us.anthropic.claude-opus-4-7-v1:0", "global.anthropic.claude-opus-5-5-v1:0"
OPUS_46 = "us.anthropic.claude-opus-4-6-v1"
SONNET_37 = "us.anthropic.claude-3-7-sonnet-20250219-v1:0"
DEEPSEEK, GPT, NOVA_2 = "deepseek.v3-v1:0", "openai.gpt-oss-120b-1:0", "us.amazon.nova-2-lite-v1:0"
TOOLS: dict[str, Any] = {"tools": (LOOK,)}
POINT = Tool(name="point")
ANSWER = JsonSchema(
    schema={
        "type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False,
    },
    name="result",
    description="What it is.",
)  # fmt: skip


def refused(turn: Turn) -> TurnRefused:
    with pytest.raises(TurnRefused) as caught:
        driver_for().build_request(turn)
    return caught.value


# -- tools ------------------------------------------------------------------------------------------------------------


def test_a_tool_is_a_spec() -> None:
    assert written(**TOOLS)["toolConfig"] == {
        "tools": [
            {
                "toolSpec": {
                    "name": "look", "description": "Looks.",
                    "inputSchema": {"json": {"type": "object", "properties": {"at": {"type": "integer"}}}},
                }
            }
        ]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("model", "choice", "sent", "told"),
    [
        (CLAUDE, "required", {"any": {}}, ""),
        (CLAUDE, NamedTool(name="look"), {"tool": {"name": "look"}}, ""),
        (CLAUDE, "auto", None, ""),
        (NOVA, NamedTool(name="look"), {"tool": {"name": "look"}}, ""),
        (DEEPSEEK, "required", {"any": {}}, ""),
        (DEEPSEEK, NamedTool(name="look"), {"any": {}}, "only 'look' was offered"),
        (QWEN, "required", None, "cannot be forced to call a tool"),
        (QWEN, NamedTool(name="look"), None, "only 'look' was offered"),
        (OPUS_55, "required", None, "cannot be forced to call a tool"),
        (OPUS_55, NamedTool(name="look"), None, "only 'look' was offered"),
    ],
)
def test_calls_are_forced_as_far_as_the_model_can_be(model: str, choice: Any, sent: Any, told: str) -> None:
    members: dict[str, Any] = {"tools": (LOOK, POINT), "tool_choice": choice}
    config = written(model, **members)["toolConfig"]
    assert config.get("toolChoice") == sent
    assert told in noted(model, **members)
    names = [tool["toolSpec"]["name"] for tool in config["tools"]]
    assert names == (["look"] if "only" in told else ["look", "point"])


def test_tools_that_may_not_be_called_are_not_offered_unless_the_history_needs_them() -> None:
    assert "toolConfig" not in written(tool_choice="none", **TOOLS)
    assert noted(tool_choice="none", **TOOLS) == ""
    talk = (HI, assistant(CALL), tool_result(CALL, "x"))
    assert written(messages=talk, tool_choice="none", **TOOLS)["toolConfig"]["tools"]
    assert "cannot forbid calls" in noted(messages=talk, tool_choice="none", **TOOLS)


@pytest.mark.parametrize(
    "turn",
    [
        ask(HI, model=TITAN, tools=(LOOK,)),
        ask(HI, tool_choice="required"),
        ask(HI, tools=(LOOK,), tool_choice=NamedTool(name="other")),
        ask(HI, tools=(LOOK, LOOK)),
        ask(HI, tools=(Tool(name="files.read"),)),
        ask(HI, tools=(Tool(name="x" * 65),)),
        ask(HI, model=""),
        ask(HI, tools=(Tool(name="t", parameters={"type": "object", "properties": {"x": {"a", "b"}}}),)),
        ask(HI, provider_options={"bedrock": {"x": float("nan")}}),
    ],
)
def test_what_cannot_be_asked_is_refused_with_what_to_do(turn: Turn) -> None:
    assert refused(turn).action


def test_a_schema_that_is_enforced_is_closed_and_one_that_cannot_be_is_named() -> None:
    strict = Tool(name="look", strict=True, parameters={"type": "object", "properties": {"a": {"type": "string"}}})
    spec = written(tools=(strict,))["toolConfig"]["tools"][0]["toolSpec"]
    assert (spec["strict"], spec["inputSchema"]["json"]["additionalProperties"]) == (True, False)
    assert "strict" not in written(NOVA, tools=(strict,))["toolConfig"]["tools"][0]["toolSpec"]
    assert "strict was not sent" in noted(NOVA, tools=(strict,))


def test_a_schema_that_combines_others_is_described() -> None:
    tool = Tool(name="look", parameters={"anyOf": [{"type": "object", "properties": {"a": {}}}]})
    spec = written(tools=(tool,))["toolConfig"]["tools"][0]["toolSpec"]
    assert spec["inputSchema"]["json"]["type"] == "object"
    assert "anyOf" in spec["description"]


def test_calls_one_at_a_time_and_a_seed_are_named() -> None:
    told = noted(parallel_tool_calls=False, seed=1, **TOOLS)
    assert "parallel_tool_calls was not sent" in told
    assert "no seed" in told


# -- the answer's form ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [CLAUDE, OPUS_47, QWEN, DEEPSEEK, GPT])
def test_a_schema_goes_in_the_wires_own_field(model: str) -> None:
    described = written(model, output=ANSWER)["outputConfig"]["textFormat"]["structure"]["jsonSchema"]
    assert (described["name"], described["description"]) == ("result", "What it is.")
    assert json.loads(described["schema"]) == ANSWER.schema
    assert noted(model, output=ANSWER) == ""


def test_a_schema_is_a_tool_where_the_wire_has_no_field_for_the_model() -> None:
    config = written(NOVA, output=ANSWER)["toolConfig"]
    assert config["toolChoice"] == {"tool": {"name": "result"}}
    assert config["tools"][0]["toolSpec"]["inputSchema"]["json"] == ANSWER.schema
    with_tools = written(NOVA, output=ANSWER, tools=(LOOK, Tool(name="result")))["toolConfig"]
    assert with_tools["toolChoice"] == {"any": {}}
    assert [tool["toolSpec"]["name"] for tool in with_tools["tools"]] == ["look", "result", "result_"]
    assert "a tool asks for it" in noted(NOVA, output=ANSWER)


@pytest.mark.parametrize(
    ("model", "members"),
    [
        (LLAMA, {"output": ANSWER}),
        (TITAN, {"output": ANSWER}),
        (CLAUDE, {"output": "json"}),
        (SONNET_37, {"output": ANSWER, "thinking": 2000}),
        (NOVA, {"output": ANSWER, "tools": (LOOK,), "tool_choice": NamedTool(name="look")}),
        (CLAUDE, {"output": JsonSchema(schema={"type": "object", "properties": {"a": {"$ref": "#"}}})}),
        (CLAUDE, {"output": ANSWER, "messages": (HI, assistant("{"))}),
    ],
)
def test_else_the_form_is_asked_for_in_words(model: str, members: dict[str, Any]) -> None:
    body = written(model, **members)
    where = json.dumps(body["messages"] if model == TITAN else body["system"])
    assert "Answer with" in where
    assert "outputConfig" not in body
    assert "not enforced" in noted(model, **members)


# -- thinking, sampling, length ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "wanted", "fields", "told"),
    [
        (CLAUDE, None, None, ""),
        (CLAUDE, "high", {"thinking": {"type": "enabled", "budget_tokens": 16384}}, ""),
        (CLAUDE, 500, {"thinking": {"type": "enabled", "budget_tokens": 1024}}, "smallest thinking budget"),
        (CLAUDE, "off", {"thinking": {"type": "disabled"}}, ""),
        (OPUS_46, 5000, {"thinking": {"type": "enabled", "budget_tokens": 5000}}, ""),
        (OPUS_46, "low", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, ""),
        (OPUS_47, 5000, {"thinking": {"type": "adaptive"}, "output_config": {"effort": "medium"}}, "no thinking"),
        (OPUS_55, "high", {"output_config": {"effort": "high"}}, ""),
        (OPUS_55, "off", {"output_config": {"effort": "low"}}, "cannot stop thinking"),
        ("anthropic.claude-3-haiku-20240307-v1:0", "high", None, "not known to take a thinking effort"),
        (QWEN, "medium", {"reasoning_config": "high"}, "low and high"),
        (QWEN, "low", {"reasoning_config": "low"}, ""),
        (QWEN, "off", None, ""),
        (GPT, "medium", {"reasoning_effort": "medium"}, ""),
        (GPT, "off", {"reasoning_effort": "low"}, "cannot stop thinking"),
        (NOVA_2, "low", {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "low"}}, ""),
        (NOVA_2, "off", None, ""),
        (NOVA, "high", None, "not known to take a thinking effort"),
        (LLAMA, "off", None, ""),
    ],
)  # fmt: skip
def test_each_family_is_asked_to_think_in_its_own_way(model: str, wanted: Any, fields: Any, told: str) -> None:
    assert written(model, thinking=wanted).get("additionalModelRequestFields") == fields
    notices = noted(model, thinking=wanted)
    assert told in notices
    assert bool(told) == bool(notices)


def test_a_model_does_not_think_when_it_continues_a_message() -> None:
    talk = (HI, assistant("So"))
    assert written(SONNET_37, messages=talk, thinking="high")["additionalModelRequestFields"] == {
        "thinking": {"type": "disabled"}
    }
    assert "continues an assistant message" in noted(SONNET_37, messages=talk, thinking="high")


@pytest.mark.parametrize(
    ("model", "asked", "sent", "told"),
    [
        (CLAUDE, (None, None), (None, None), ""),
        (CLAUDE, (None, 100), (100, None), ""),
        (CLAUDE, (None, 100_000), (64_000, None), "at most 64000 tokens"),
        (CLAUDE, (5000, 100), (5100, 5000), "maxTokens counts the thinking"),
        (CLAUDE, (5000, 9000), (9000, 5000), ""),
        (CLAUDE, (200_000, None), (64_000, 61_952), "thinking budget was made 61952"),
        (CLAUDE, (63_000, 2000), (64_000, 62_000), "thinking budget was made 62000"),
        (OPUS_47, ("high", 100), (100, None), ""),
        (NOVA, (None, 100), (100, None), ""),
    ],
)
def test_length_leaves_room_for_the_thinking(model: str, asked: Any, sent: Any, told: str) -> None:
    """`asked`: thinking and length of the turn; `sent`: length and budget."""
    members = {"thinking": asked[0], "max_output_tokens": asked[1]}
    body = written(model, **members)
    budget = body.get("additionalModelRequestFields", {}).get("thinking", {}).get("budget_tokens")
    assert (body.get("inferenceConfig", {}).get("maxTokens"), budget) == sent
    assert told in noted(model, **members)


def test_a_nova_that_thinks_hard_sets_length_and_sampling_itself() -> None:
    members: dict[str, Any] = {"thinking": "high", "max_output_tokens": 9, "temperature": 0.5, "top_p": 0.5}
    assert "inferenceConfig" not in written(NOVA_2, **members)
    told = noted(NOVA_2, **members)
    for what in ("max_output_tokens", "temperature", "top_p"):
        assert what in told


@pytest.mark.parametrize(
    ("model", "members", "sent", "told"),
    [
        (NOVA, {"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "topP": 0.9}, ""),
        (CLAUDE, {"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5}, "not both"),
        (CLAUDE, {"temperature": 2}, {"temperature": 1}, "from 0 to 1"),
        (OPUS_47, {"temperature": 0.5, "top_p": 0.9}, None, "no such temperature"),
        (CLAUDE, {"temperature": 0.5, "thinking": 2000}, None, "no such temperature"),
        (CLAUDE, {"top_p": 0.97, "thinking": 2000}, {"topP": 0.97}, ""),
        (NOVA, {"stop": ("END", " ", "")}, {"stopSequences": ["END"]}, "white space alone"),
    ],
)
def test_sampling_is_sent_as_the_model_takes_it(model: str, members: dict[str, Any], sent: Any, told: str) -> None:
    assert written(model, **members).get("inferenceConfig") == sent
    assert told in noted(model, **members)


# -- models -----------------------------------------------------------------------------------------------------------

ARN = "arn:aws:bedrock:us-east-1:123456789012:"


@pytest.mark.parametrize(
    ("model", "cross_region", "sent"),
    [
        ("anthropic.claude-x", "us", "us.anthropic.claude-x"),
        ("anthropic.claude-x", "us.", "us.anthropic.claude-x"),
        ("anthropic.claude-x", "", "anthropic.claude-x"),
        ("eu.anthropic.claude-x", "us", "eu.anthropic.claude-x"),
        ("us-gov.anthropic.claude-x", "us", "us-gov.anthropic.claude-x"),
        ("mars.anthropic.claude-x", "us", "mars.anthropic.claude-x"),
        (f"{ARN}provisioned-model/x", "us", f"{ARN}provisioned-model/x"),
        ("ai21.jamba-1-5", "us", "us.ai21.jamba-1-5"),
    ],
)
def test_the_prefix_is_put_before_ids_that_have_none(model: str, cross_region: str, sent: str) -> None:
    assert addressed(model, cross_region) == sent


def test_models_without_a_profile_and_those_that_are_named_get_no_prefix() -> None:
    aws = AwsSettings(cross_region="us", without_prefix=("anthropic.claude-y",))

    def asked(model: str) -> str:
        return driver_for(aws=aws).build_request(ask(HI, model=model, stream=False)).url.rpartition("/model/")[2]

    assert asked("anthropic.claude-3-7-x") == "us.anthropic.claude-3-7-x/converse"
    assert asked("anthropic.claude-y") == "anthropic.claude-y/converse"
    assert asked(TITAN) == f"{TITAN}/converse"
    assert asked(QWEN) == "qwen.qwen3-32b-v1%3A0/converse"


def test_an_arn_is_encoded_in_the_path_and_told_by_what_it_stands_for() -> None:
    profile = f"{ARN}application-inference-profile/a1"
    assert path_of(profile, stream=True) == (
        "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Aapplication-inference-profile%2Fa1/converse-stream"
    )
    assert family_of(bare_id(profile, {})).name == "unknown"
    assert family_of(bare_id(profile, {profile: "us.amazon.nova-pro-v1:0"})).name == "Amazon Nova"
    assert family_of(bare_id(f"{ARN}inference-profile/us.anthropic.claude-x", {})).name == "Anthropic"
    assert family_of(bare_id("arn:aws:bedrock:us-east-1::foundation-model/meta.llama3-3-70b", {})).name == "Meta Llama"


@pytest.mark.parametrize("model", ["", "x", "a.b", "US.anthropic.x", "global."])
def test_any_id_has_a_family(model: str) -> None:
    assert family_of(bare_id(model, {})).name
    assert has_geo(model) in (True, False)


def test_the_generations_of_claude_count_here_too() -> None:
    by_id = {
        model: family_of(bare_id(model, {})) for model in (CLAUDE, OPUS_47, OPUS_55, SONNET_37, "anthropic.claude-v2:1")
    }
    assert [family.thinking for family in by_id.values()] == ["manual", "adaptive", "always", "manual", "none"]
    assert [family.long_marks for family in by_id.values()] == [True, True, True, False, False]
    assert [family.tools for family in by_id.values()] == [True, True, True, True, False]


def test_a_stored_prompt_brings_its_own_settings() -> None:
    prompt = f"{ARN}prompt/P1:1"
    options: dict[str, Any] = {"bedrock": {"promptVariables": {"a": {"text": "b"}}}}
    turn = ask(system("s"), HI, model=prompt, temperature=0.5, provider_options=options)
    assert body_of(turn).keys() == {"messages", "promptVariables"}
    assert "brings its system text itself" in notices_of(turn)
    assert "brings sampling and length itself" in notices_of(turn)


# -- what a person puts in --------------------------------------------------------------------------------------------


def test_raw_fields_of_a_person_win() -> None:
    options: dict[str, Any] = {"bedrock": {"inferenceConfig": {"maxTokens": 7}, "serviceTier": {"type": "flex"}}}
    turn = ask(HI, max_output_tokens=9, temperature=0.5, provider_options=options)
    body = body_of(turn, extra_body={"inferenceConfig": {"maxTokens": 8}, "requestMetadata": {"a": "b"}})
    assert body["inferenceConfig"] == {"maxTokens": 7, "temperature": 0.5}
    assert (body["serviceTier"], body["requestMetadata"]) == ({"type": "flex"}, {"a": "b"})
    assert "inferenceConfig" not in body_of(
        ask(HI, temperature=1, provider_options={"bedrock": {"inferenceConfig": None}})
    )


def test_headers_name_what_is_accepted_and_hold_no_key() -> None:
    request = driver_for(headers={"X-Trace": "1"}).build_request(ask(HI))
    assert request.headers == {
        "content-type": "application/json", "accept": "application/vnd.amazon.eventstream", "x-trace": "1",
    }  # fmt: skip
    assert driver_for().build_request(ask(HI, stream=False)).headers["accept"] == "application/json"


def test_without_a_base_url_aws_decides_on_the_endpoint() -> None:
    driver = open_driver(ProviderSettings(name="acme", kind="bedrock"))
    assert driver.build_request(ask(HI, model="m")).url == f"{AWS_DECIDES}/model/m/converse-stream"


def test_letters_of_all_kinds_are_sent_as_they_are() -> None:
    assert "é😀".encode() in driver_for().build_request(ask(user("é😀"))).body
    assert b"?" in driver_for().build_request(ask(user("\ud83d"))).body


def test_prefixes_are_the_same_bytes_as_a_conversation_grows() -> None:
    messages = [system("Be brief."), user("a"), assistant("b", CALL), tool_result(CALL, "c"), user("d")]
    bodies = [driver_for().build_request(ask(*messages[:end], tools=(LOOK,))).body for end in (2, 4)]
    prefix = bodies[0][: bodies[0].index(b'"text":"a"') + 10]
    assert bodies[1].startswith(prefix)

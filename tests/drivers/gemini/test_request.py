"""What the driver sends for a turn, and what it says that it will not send."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from loopforge.drivers.errors import TurnRefused
from loopforge.drivers.turn import (
    Audio,
    Document,
    Image,
    JsonSchema,
    Message,
    NamedTool,
    Opaque,
    OpaquePart,
    Part,
    Refusal,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
    assistant,
    system,
    user,
)
from tests.drivers.gemini.asking import FLASH_2, FLASH_2_5, MODEL, Json, ask, body_of, driver_for, notices_of, opaque

NO_SIGNATURE = base64.b64encode(b"skip_thought_signature_validator").decode()
PRO_2_5, PRO_3 = "gemini-2.5-pro", "gemini-3.1-pro-preview"
CITY: Json = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
LOOK = Tool(name="look", description="Look there.", parameters=CITY)
PIXELS = base64.b64encode(b"\x89PNG").decode()


def hello(**members: Any) -> Turn:
    return ask(user("hello"), **members)


def url_of(base_url: str, model: str = MODEL, *, stream: bool = True, **changes: Any) -> str:
    return driver_for(base_url, **changes).build_request(hello(model=model, stream=stream)).url


def contents_of(*messages: Message, model: str = MODEL) -> list[Json]:
    contents: list[Json] = body_of(ask(*messages, model=model))["contents"]
    return contents


def refusal_of(turn: Turn) -> str:
    assert driver_for().notices(turn) == ()
    with pytest.raises(TurnRefused) as caught:
        driver_for().build_request(turn)
    return str(caught.value)


# -- where it goes --------------------------------------------------------------------------------------------------

GOOGLE = "https://generativelanguage.googleapis.com"
VERTEX = "https://us-east5-aiplatform.googleapis.com/v1/projects/p/locations/us-east5"


@pytest.mark.parametrize(
    ("base_url", "model", "url"),
    [
        (GOOGLE, "m", f"{GOOGLE}/v1beta/models/m"),
        (f"{GOOGLE}/", "models/m", f"{GOOGLE}/v1beta/models/m"),
        (f"{GOOGLE}/v1beta", "m", f"{GOOGLE}/v1beta/models/m"),
        (f"{GOOGLE}/v1beta/models/", "m", f"{GOOGLE}/v1beta/models/m"),
        (f"{GOOGLE}/v1", "tunedModels/t", f"{GOOGLE}/v1/tunedModels/t"),
        (f"{GOOGLE}/v1alpha", "a b?", f"{GOOGLE}/v1alpha/models/a%20b%3F"),
        ("http://localhost:3000/router/google", "m", "http://localhost:3000/router/google/v1beta/models/m"),
        (VERTEX, "m", f"{VERTEX}/publishers/google/models/m"),
        (VERTEX, "publishers/meta/models/llama", f"{VERTEX}/publishers/meta/models/llama"),
        (f"{VERTEX}/publishers/google", "m", f"{VERTEX}/publishers/google/models/m"),
        (
            "https://aiplatform.googleapis.com", "m",
            "https://aiplatform.googleapis.com/v1/publishers/google/models/m",
        ),
    ],
)  # fmt: skip
def test_the_path_is_made_of_base_url_and_model(base_url: str, model: str, url: str) -> None:
    assert url_of(base_url, model) == f"{url}:streamGenerateContent?alt=sse"
    assert url_of(base_url, model, stream=False) == f"{url}:generateContent"


def test_a_query_of_the_base_url_stays() -> None:
    assert url_of(f"{GOOGLE}/v1beta?trace=1").endswith(":streamGenerateContent?trace=1&alt=sse")


def test_the_persons_own_headers_and_fields_win() -> None:
    driver = driver_for(headers={"X-Team": "a"}, extra_body={"generationConfig": {"topK": 3, "temperature": None}})
    turn = hello(temperature=1, provider_options={"gemini": {"generationConfig": {"topK": 4}, "labels": {"a": "b"}}})
    request = driver.build_request(turn)
    assert request.headers["x-team"] == "a"
    body = json.loads(request.body)
    assert (body["generationConfig"], body["labels"]) == ({"topK": 4}, {"a": "b"})


def test_an_unknown_vendor_is_named() -> None:
    assert "'gogle' is not known" in notices_of(hello(), vendor="gogle")


# -- messages -------------------------------------------------------------------------------------------------------


def test_a_plain_turn_is_one_content() -> None:
    assert body_of(hello()) == {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}


def test_system_messages_stand_in_the_instruction() -> None:
    turn = ask(system("Be kind."), system("Be brief."), user("hello"))
    body = body_of(turn)
    assert body["systemInstruction"] == {"parts": [{"text": "Be kind."}, {"text": "Be brief."}]}
    assert notices_of(turn) == ""


def test_a_later_system_message_moves_to_the_front_with_a_notice() -> None:
    turn = ask(system("Be kind."), user("hello"), system("Be brief."))
    assert len(body_of(turn)["systemInstruction"]["parts"]) == 2
    assert "later ones were moved" in notices_of(turn)


@pytest.mark.parametrize("model", ["gemma-4-31b", "gemini-2.5-flash-image", "gemini-3-pro-image-preview"])
def test_a_model_without_system_instruction_gets_it_before_the_first_user_text(model: str) -> None:
    turn = ask(system("Be kind."), user("hello"), model=model)
    body = body_of(turn)
    assert "systemInstruction" not in body
    assert body["contents"][0]["parts"] == [{"text": "Be kind."}, {"text": "hello"}]
    assert "takes no system instruction" in notices_of(turn)


def test_equal_roles_in_a_row_are_merged_and_empty_texts_left_out() -> None:
    contents = contents_of(user("a", ""), user("b"), assistant("c"), assistant("", "d"), user("e"))
    said = [(content["role"], [part["text"] for part in content["parts"]]) for content in contents]
    assert said == [("user", ["a", "b"]), ("model", ["c", "d"]), ("user", ["e"])]


def test_a_conversation_that_the_assistant_opens_gets_a_user_message_first() -> None:
    turn = ask(assistant("hello"), user("hi"))
    assert [content["role"] for content in body_of(turn)["contents"]] == ["user", "model", "user"]
    assert "one was put before" in notices_of(turn)


@pytest.mark.parametrize("messages", [(), (system("a"),), (user(""),), (assistant("a"),)])
def test_a_turn_that_asks_nothing_is_refused(messages: tuple[Message, ...]) -> None:
    assert refusal_of(ask(*messages))


def test_a_refusal_goes_back_as_text() -> None:
    said = Message(role="assistant", content=(Refusal(text="No."),))
    assert contents_of(user("a"), said, user("b"))[1]["parts"] == [{"text": "No."}]


# -- media ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "sent"),
    [
        (Image(data=b"\x89PNG", media_type="image/png"), {"inlineData": {"mimeType": "image/png", "data": PIXELS}}),
        (Image(data=b"\x89PNG"), {"inlineData": {"mimeType": "image/png", "data": PIXELS}}),
        (
            Image(url="https://x.example/a.JPG"),
            {"fileData": {"mimeType": "image/jpeg", "fileUri": "https://x.example/a.JPG"}},
        ),
        (Image(url="https://x.example/a"), {"fileData": {"fileUri": "https://x.example/a"}}),
        (
            Document(data=b"%PDF", media_type="application/pdf"),
            {"inlineData": {"mimeType": "application/pdf", "data": base64.b64encode(b"%PDF").decode()}},
        ),
        (Document(data=b"a,b", media_type="text/csv", name="t.csv"), {"text": "[t.csv]\na,b"}),
        (
            Document(url="gs://bucket/a.pdf"),
            {"fileData": {"mimeType": "application/pdf", "fileUri": "gs://bucket/a.pdf"}},
        ),
        (
            Audio(data=b"RIFF", media_type="audio/x-wav"),
            {"inlineData": {"mimeType": "audio/wav", "data": base64.b64encode(b"RIFF").decode()}},
        ),
        (Audio(data=b"x", media_type="audio/midi", transcript="la"), {"text": "la"}),
    ],
)
def test_media_are_sent_as_data_or_by_url(part: Part, sent: Json) -> None:
    assert contents_of(user("see", part))[0]["parts"] == [{"text": "see"}, sent]


@pytest.mark.parametrize(
    "part",
    [
        Image(data=b"GIF8", media_type="image/gif"), Document(data=b"x", media_type="application/zip"),
        Audio(data=b"x", media_type="audio/midi"), Image(),
    ],
)  # fmt: skip
def test_media_that_the_turn_is_about_are_refused_and_older_ones_left_out(part: Part) -> None:
    assert "takes no" in refusal_of(ask(user(part)))
    turn = ask(user("a", part), assistant("b"), user("c"))
    assert "left out]" in body_of(turn)["contents"][0]["parts"][1]["text"]
    assert "was left out" in notices_of(turn)


def test_older_models_take_no_urls_but_those_of_google() -> None:
    assert "URL" in refusal_of(ask(user(Image(url="https://x.example/a.png")), model=FLASH_2))
    assert contents_of(user(Document(url="https://www.youtube.com/watch?v=1")), model=FLASH_2)


def test_pictures_of_a_model_that_draws_go_back_with_their_signature() -> None:
    model = "gemini-3-pro-image-preview"
    drawn = Message(
        role="assistant",
        content=(
            Image(data=b"\x89PNG", media_type="image/png"),
            OpaquePart(opaque=opaque(model=model, on_previous="S")),
        ),
    )
    parts = contents_of(user("draw"), drawn, user("redder"), model=model)[1]["parts"]
    assert parts == [{"inlineData": {"mimeType": "image/png", "data": PIXELS}, "thoughtSignature": "S"}]
    assert "image part of an assistant message was left out" in notices_of(ask(user("draw"), drawn, user("a")))


# -- calls and results ----------------------------------------------------------------------------------------------


def made(call_id: str, name: str = "look", own: Opaque | None = None, **members: Any) -> ToolCall:
    return ToolCall(id=call_id, name=name, arguments='{"city":"Rome"}', opaque=own, **members)


def result(call_id: str, *content: Text | Image | Document, is_error: bool = False) -> Message:
    return Message(role="tool", content=(ToolResult(call_id=call_id, content=content, is_error=is_error),))


def test_results_stand_in_one_content_in_the_order_of_the_calls() -> None:
    contents = contents_of(
        user("a"),
        assistant(made("1", "look"), made("2", "point")),
        result("2", Text(text="there"), is_error=True),
        result("1", Text(text="here")),
        user("and?"),
        model=FLASH_2_5,
    )
    assert contents[2:] == [
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"name": "look", "response": {"output": "here"}}},
                {"functionResponse": {"name": "point", "response": {"error": "there"}}},
            ],
        },
        {"role": "user", "parts": [{"text": "and?"}]},
    ]


def test_ids_of_the_wire_go_back_on_both_sides_and_others_on_neither() -> None:
    for flags, expected in (((True, True), ["1", "2"]), ((True, False), [None, None]), ((False, False), [None, None])):
        calls = [made(str(n), own=opaque(id=True) if flag else None) for n, flag in enumerate(flags, 1)]
        contents = contents_of(user("a"), assistant(*calls), result("1"), result("2"))
        assert [part["functionCall"].get("id") for part in contents[1]["parts"]] == expected
        assert [part["functionResponse"].get("id") for part in contents[2]["parts"]] == expected


def test_a_call_of_another_model_carries_the_stand_in_for_a_signature() -> None:
    foreign = Opaque(provider="another", model=MODEL, data={"wire": "gemini", "signature": "SECRET", "id": True})
    messages = (user("a"), assistant(made("1", own=foreign), made("2")), result("1"), result("2"))
    parts = contents_of(*messages)[1]["parts"]
    assert [part.get("thoughtSignature") for part in parts] == [NO_SIGNATURE, None]
    assert "signatures of another" in notices_of(ask(*messages))
    assert "thoughtSignature" not in json.dumps(contents_of(*messages, model=FLASH_2_5))


def test_its_own_signature_stays_on_its_call() -> None:
    own = opaque(signature="S", id=True)
    parts = contents_of(user("a"), assistant(made("1", own=own), made("2")), result("1"), result("2"))[1]["parts"]
    assert [part.get("thoughtSignature") for part in parts] == ["S", None]


def test_a_name_that_the_wire_does_not_take_is_changed_on_both_sides() -> None:
    messages = (user("a"), assistant(made("1", "9 lives!")), result("1"))
    contents = contents_of(*messages)
    assert contents[1]["parts"][0]["functionCall"]["name"] == "_9_lives_"
    assert contents[2]["parts"][0]["functionResponse"]["name"] == "_9_lives_"
    assert "was called '_9_lives_'" in notices_of(ask(*messages))


def test_images_of_a_result_stand_inside_it_or_behind_it() -> None:
    image = {"inlineData": {"mimeType": "image/png", "data": PIXELS}}
    messages = (user("a"), assistant(made("1")), result("1", Image(data=b"\x89PNG", media_type="image/png")))
    (inside,) = contents_of(*messages)[2]["parts"]
    assert inside["functionResponse"]["parts"] == [image]
    behind = contents_of(*messages, model=FLASH_2_5)[2]["parts"]
    assert behind[1] == image
    assert "behind" in behind[0]["functionResponse"]["response"]["output"]


def test_arguments_that_are_no_json_go_back_as_text() -> None:
    broken = ToolCall(id="1", name="look", arguments='{"city": ', invalid=True)
    messages = (user("a"), assistant(broken), result("1"))
    assert contents_of(*messages)[1]["parts"][0]["functionCall"]["args"] == {"invalid_json": '{"city": '}
    assert "invalid_json" in notices_of(ask(*messages))


def test_results_without_calls_and_calls_without_results_are_refused() -> None:
    assert "answers no call" in refusal_of(ask(user("a"), result("1")))
    assert "has no result" in refusal_of(ask(user("a"), assistant(made("1")), user("b")))


def test_thinking_goes_back_only_where_it_was_signed_and_here() -> None:
    own, signed = Thinking(text="hm", opaque=opaque()), Thinking(text="hmm", opaque=opaque(signature="S"))
    turn = ask(user("a"), assistant(own, signed, "b"), user("c"))
    thought = {"text": "hmm", "thought": True, "thoughtSignature": "S"}
    assert body_of(turn)["contents"][1]["parts"] == [thought, {"text": "b"}]
    assert notices_of(turn) == ""
    foreign = ask(user("a"), assistant(Thinking(text="hm"), "b"), user("c"))
    assert body_of(foreign)["contents"][1]["parts"] == [{"text": "b"}]
    assert "earlier thinking" in notices_of(foreign)


def test_opaque_parts_of_another_origin_are_named_and_left_out() -> None:
    part = OpaquePart(opaque=Opaque(provider="another", model=MODEL, data={"wire": "gemini", "part": {"toolCall": {}}}))
    turn = ask(user("a"), assistant("b", part), user("c"))
    assert body_of(turn)["contents"][1]["parts"] == [{"text": "b"}]
    assert "opaque parts of another" in notices_of(turn)


# -- sampling and thinking ------------------------------------------------------------------------------------------


def test_sampling_has_this_wires_names() -> None:
    turn = hello(max_output_tokens=9, temperature=0.5, top_p=0.9, stop=("a",), seed=7)
    assert body_of(turn)["generationConfig"] == {
        "maxOutputTokens": 9, "temperature": 0.5, "topP": 0.9, "stopSequences": ["a"], "seed": 7,
    }  # fmt: skip
    assert notices_of(turn) == ""


def test_what_is_out_of_range_is_named() -> None:
    turn = hello(temperature=3, stop=tuple("abcdef"), seed=2**40, parallel_tool_calls=False, tools=(LOOK,))
    config = body_of(turn)["generationConfig"]
    assert config == {"temperature": 2, "stopSequences": list("abcde")}
    for said in ("temperatures from 0 to 2", "5 stop strings", "seed of 32 bits", "parallel tool calls"):
        assert said in notices_of(turn)


@pytest.mark.parametrize(
    ("model", "thinking", "sent", "notice"),
    [
        (FLASH_2_5, None, None, ""),
        (FLASH_2_5, "off", {"thinkingBudget": 0}, ""),
        (FLASH_2_5, "low", {"includeThoughts": True, "thinkingBudget": 1024}, ""),
        (FLASH_2_5, 512, {"includeThoughts": True, "thinkingBudget": 512}, ""),
        (FLASH_2_5, -1, {"includeThoughts": True, "thinkingBudget": -1}, ""),
        (FLASH_2_5, 90_000, {"includeThoughts": True, "thinkingBudget": 24_576}, "from 1 to 24576"),
        (PRO_2_5, "off", {"thinkingBudget": 128}, "cannot stop thinking"),
        (PRO_2_5, 7, {"includeThoughts": True, "thinkingBudget": 128}, "from 128 to 32768"),
        (MODEL, "medium", {"includeThoughts": True, "thinkingLevel": "MEDIUM"}, ""),
        (MODEL, "off", {"thinkingLevel": "MINIMAL"}, "'minimal', its lowest"),
        (PRO_3, 0, {"thinkingLevel": "LOW"}, "'low', its lowest"),
        ("gemini-3.7-flash", "off", {"thinkingLevel": "LOW"}, "'low', its lowest"),
        (PRO_3, 6400, {"includeThoughts": True, "thinkingBudget": 6400}, ""),
        (FLASH_2, "high", None, "not known to think"),
        (FLASH_2, "off", None, ""),
        ("gemini-2.5-flash-image", "high", None, "not known to think"),
    ],
)
def test_thinking_is_asked_for_as_the_family_takes_it(model: str, thinking: Any, sent: Any, notice: str) -> None:
    turn = hello(model=model, thinking=thinking)
    assert body_of(turn).get("generationConfig", {}).get("thinkingConfig") == sent
    assert notice in notices_of(turn)
    assert bool(notice) == bool(notices_of(turn))


def test_cache_marks_are_named_and_not_sent() -> None:
    turn = ask(user(Text(text="a", cache="5m")), tools=(Tool(name="look", cache="1h"),))
    assert "cache marks were not sent" in notices_of(turn)
    assert "cache" not in json.dumps(body_of(turn))


# -- tools ----------------------------------------------------------------------------------------------------------


def test_tools_are_declared_with_plain_json_schema_where_it_is_taken() -> None:
    declared = {"name": "look", "description": "Look there."}
    assert body_of(hello(tools=(LOOK,)))["tools"] == [
        {"functionDeclarations": [{**declared, "parametersJsonSchema": CITY}]}
    ]
    subset = {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}, "required": ["city"]}
    assert body_of(hello(tools=(LOOK,), model=FLASH_2))["tools"] == [
        {"functionDeclarations": [{**declared, "parameters": subset}]}
    ]


@pytest.mark.parametrize("parameters", [{}, {"type": "object"}, {"type": "object", "properties": {}}])
def test_a_tool_without_parameters_declares_none(parameters: Json) -> None:
    body = body_of(hello(tools=(Tool(name="look", parameters=parameters),)))
    assert body["tools"] == [{"functionDeclarations": [{"name": "look"}]}]


@pytest.mark.parametrize(
    ("choice", "strict", "sent"),
    [
        ("auto", None, None),
        ("auto", True, {"mode": "VALIDATED"}),
        ("none", None, {"mode": "NONE"}),
        ("required", None, {"mode": "ANY"}),
        (NamedTool(name="look"), None, {"mode": "ANY", "allowedFunctionNames": ["look"]}),
    ],
)
def test_tool_choice_is_a_mode(choice: Any, strict: bool | None, sent: Json | None) -> None:
    turn = hello(tools=(Tool(name="look", strict=strict),), tool_choice=choice)
    assert body_of(turn).get("toolConfig", {}).get("functionCallingConfig") == sent
    assert notices_of(turn) == ""


@pytest.mark.parametrize(
    "members",
    [
        {"tool_choice": "required"},
        {"tool_choice": NamedTool(name="gone"), "tools": (LOOK,)},
        {"tools": (Tool(name="9"),)},
        {"tools": (Tool(name="a" * 65),)},
        {"tools": (LOOK, LOOK)},
        {"tools": (LOOK,), "model": "gemma-3-27b-it"},
        {"tools": tuple(Tool(name=f"t{n}") for n in range(129)), "model": FLASH_2},
    ],
)
def test_tools_that_cannot_be_offered_are_refused(members: Json) -> None:
    assert refusal_of(hello(**members))


def test_a_strict_tool_where_nothing_enforces_it_is_named() -> None:
    assert "does not enforce" in notices_of(hello(tools=(Tool(name="look", strict=True),), model=FLASH_2))


def test_the_providers_own_tools_come_beside_functions() -> None:
    turn = hello(tools=(LOOK,), provider_options={"gemini": {"tools": [{"googleSearch": {}}]}})
    body = body_of(turn)
    assert [list(tool) for tool in body["tools"]] == [["functionDeclarations"], ["googleSearch"]]
    assert body["toolConfig"] == {"includeServerSideToolInvocations": True}
    assert "toolConfig" not in body_of(turn, vendor="vertex")


def test_what_a_cached_content_holds_is_not_sent_beside_it() -> None:
    options = {"gemini": {"cachedContent": "cachedContents/1"}}
    turn = ask(system("a"), user("b"), tools=(LOOK,), tool_choice="none", provider_options=options)
    assert body_of(turn).keys() == {"contents", "cachedContent"}
    assert "systemInstruction, tools, toolConfig" in notices_of(turn)


# -- structured output ----------------------------------------------------------------------------------------------


def test_a_schema_is_asked_for_in_the_form_the_family_takes() -> None:
    output = JsonSchema(schema=CITY)
    config = body_of(hello(output=output))["generationConfig"]
    assert config == {"responseMimeType": "application/json", "responseJsonSchema": CITY}
    config = body_of(hello(output=output, model=FLASH_2))["generationConfig"]
    assert config["responseSchema"]["type"] == "OBJECT"
    assert body_of(hello(output="json"))["generationConfig"] == {"responseMimeType": "application/json"}


def test_a_schema_beside_tools_is_sent_to_gemini_3_and_becomes_a_function_before_it() -> None:
    turn = hello(output=JsonSchema(schema=CITY, name="look"), tools=(LOOK,))
    assert "responseJsonSchema" in body_of(turn)["generationConfig"]
    older = hello(output=JsonSchema(schema=CITY, name="look"), tools=(LOOK,), model=FLASH_2_5)
    body = body_of(older)
    assert "generationConfig" not in body
    assert [item["name"] for item in body["tools"][0]["functionDeclarations"]] == ["look", "look_"]
    assert body["toolConfig"]["functionCallingConfig"] == {"mode": "ANY"}
    assert "as a call of 'look_'" in notices_of(older)


def test_with_tools_that_may_not_be_called_only_the_answers_function_may() -> None:
    turn = hello(output=JsonSchema(schema=CITY), tools=(LOOK,), tool_choice="none", model=FLASH_2_5)
    calling = body_of(turn)["toolConfig"]["functionCallingConfig"]
    assert calling == {"mode": "ANY", "allowedFunctionNames": ["answer"]}


@pytest.mark.parametrize(
    "members",
    [
        {"output": "json", "tools": (LOOK,), "model": FLASH_2_5},
        {"output": JsonSchema(schema=CITY), "tools": (LOOK,), "tool_choice": "required", "model": FLASH_2_5},
        {"output": JsonSchema(schema=CITY), "model": "gemma-3-27b-it"},
        {
            "output": JsonSchema(schema={"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}}),
            "model": FLASH_2,
        },
    ],
)
def test_what_no_field_can_ask_for_is_asked_in_words(members: Json) -> None:
    turn = hello(**members)
    assert "nothing else" in json.dumps(body_of(turn))
    assert "not enforced" in notices_of(turn)


def test_a_turn_that_cannot_be_json_is_refused() -> None:
    assert "cannot be written as JSON" in refusal_of_build(hello(temperature=float("nan")))


def refusal_of_build(turn: Turn) -> str:
    with pytest.raises(TurnRefused) as caught:
        driver_for().build_request(turn)
    return str(caught.value)

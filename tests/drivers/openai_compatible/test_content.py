"""Text, reasoning and media of an answer."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from loopforge.drivers.turn import (
    Audio,
    Image,
    OpaquePart,
    Text,
    TextDelta,
    Thinking,
)
from tests.drivers.openai_compatible.bodies import chunk, opaque, read_body, sse, text, whole


def test_only_the_first_choice_counts() -> None:
    def choice(index: int, content: str, finish: str | None = None) -> dict[str, Any]:
        return {"index": index, "delta": {"content": content}, "finish_reason": finish}

    body = sse(
        {"choices": [choice(0, "a"), choice(1, "x")]},
        {"choices": [choice(1, "y", "length")]},
        {"choices": [choice(0, "b", "stop")]},
    )
    reply = read_body(body).reply
    assert reply is not None
    assert (reply.text, reply.finish) == ("ab", "stop")
    messages = [{"index": i, "message": {"content": c}, "finish_reason": "stop"} for i, c in enumerate("ab")]
    reply = read_body(json.dumps({"choices": messages}).encode()).reply
    assert reply is not None
    assert reply.text == "a"


@pytest.mark.parametrize("vendor", ["minimax", "ollama", "generic", "llamacpp"])
@pytest.mark.parametrize(
    ("content", "thinking", "answer"),
    [
        ("<think>\nwhy\n</think>\n\nbecause", "\nwhy\n", "because"),
        ("  \n<think>why</think>because", "why", "because"),
        ("<think></think>\r\n\nbecause", "", "because"),
        ("<think>never closed </thin", "never closed </thin", ""),
        ("<think>a</think>b</think>c<think>d", "a", "b</think>c<think>d"),
        ("a <think>b</think>", "", "a <think>b</think>"),
        ("<thinking>a", "", "<thinking>a"),
        ("<thin", "", "<thin"),
        (" \n ", "", " \n "),
        ("</think>a", "", "</think>a"),
    ],
)
def test_think_tags_in_front_of_the_answer_are_reasoning(content: str, thinking: str, answer: str, vendor: str) -> None:
    if vendor == "minimax":
        answer = answer.lstrip("\n")
    for size in (1, 2, 3, 5, 100):
        pieces = [text(content[i : i + size]) for i in range(0, len(content), size)]
        reply = read_body(sse(*pieces, chunk({}, "stop")), vendor).reply
        assert reply is not None
        assert (reply.message.thinking, reply.text) == (thinking, answer), size
        if thinking:
            assert reply.message.content[0] == Thinking(text=thinking, opaque=opaque(vendor, field="think"))
    reply = read_body(whole({"content": content}), vendor).reply
    assert reply is not None
    assert (reply.message.thinking, reply.text) == (thinking, answer)


def test_vendors_that_take_tags_out_themselves_mean_the_tags_they_send() -> None:
    reply = read_body(sse(text("<think>a</think>b", "stop")), "openai").reply
    assert reply is not None
    assert reply.text == "<think>a</think>b"


def test_tags_are_text_where_reasoning_has_a_field() -> None:
    reply = read_body(sse(chunk({"reasoning_content": "why"}), text("<think>x</think>y", "stop")), "vllm").reply
    assert reply is not None
    assert (reply.message.thinking, reply.text) == ("why", "<think>x</think>y")


def test_endless_white_space_is_not_held_back() -> None:
    for size in (1, 700, 5000):
        content = " " * 5000 + "<think>a</think>"
        pieces = [text(content[i : i + size]) for i in range(0, len(content), size)]
        reply = read_body(sse(*pieces, chunk({}, "stop")), "generic").reply
        assert reply is not None
        assert reply.text == content


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 100])
@pytest.mark.parametrize(
    ("content", "answer"),
    [
        ("\n\n<|begin_of_box|>42<|end_of_box|>", "42"),
        ("<|begin_of_box|>\n42<|end_of_box|>.\n", "42.\n"),
        ("a<|b", "a<|b"),
        ("<|begin_<|begin_of_box|>of_box|>", "<|begin_of_box|>"),
        ("a < b | c", "a < b | c"),
        ("\n\n", ""),
        ("<think>\n<|begin_of_box|>x</think>\ny", "y"),
    ],
)
def test_glms_marks_and_leading_line_feeds_go(content: str, answer: str, size: int) -> None:
    pieces = [text(content[i : i + size]) for i in range(0, len(content), size)]
    reply = read_body(sse(*pieces, chunk({}, "stop")), "glm").reply
    assert reply is not None
    assert reply.text == answer


def test_one_reasoning_field_counts_and_the_others_repeat_it() -> None:
    both = {"reasoning_content": "a", "reasoning": "a", "reasoning_details": [{"type": "reasoning.text", "text": "a"}]}
    later = {"reasoning": "b", "reasoning_content": "b"}
    reply = read_body(sse(chunk(both), chunk(later), chunk({"reasoning": "only here"}), text("x", "stop"))).reply
    assert reply is not None
    assert reply.message.thinking == "ab"
    assert reply.message.content[0] == Thinking(text="ab", opaque=opaque("openai", field="reasoning_content"))


def test_reasoning_items_are_put_together_and_kept_to_be_sent_back() -> None:
    def details(*items: dict[str, Any]) -> dict[str, Any]:
        return chunk({"reasoning_details": list(items)})

    body = sse(
        details({"type": "reasoning.text", "text": "so", "index": 0, "format": None}),
        details({"type": "reasoning.text", "text": " what", "index": 0, "format": "claude"}),
        details({"type": "reasoning.text", "signature": "sig", "index": 0}),
        details({"type": "reasoning.encrypted", "data": "AB", "index": 1, "id": "rs_1"}),
        details({"type": "reasoning.encrypted", "data": "CD", "index": 1, "id": "rs_1"}),
        details({"type": "reasoning.encrypted", "data": "EF", "index": 1, "id": "rs_2"}),
        text("x", "stop"),
    )
    reply = read_body(body, "openrouter").reply
    assert reply is not None
    assert reply.message.content == (
        Thinking(text="so what", opaque=opaque("openrouter", field="reasoning_details")),
        Text(text="x"),
        OpaquePart(
            opaque=opaque(
                "openrouter",
                reasoning_details=[
                    {"type": "reasoning.text", "text": "so what", "index": 0, "format": "claude", "signature": "sig"},
                    {"type": "reasoning.encrypted", "data": "ABCD", "index": 1, "id": "rs_1"},
                    {"type": "reasoning.encrypted", "data": "EF", "index": 1, "id": "rs_2"},
                ],
            )
        ),
    )


def test_reasoning_items_of_a_whole_answer_are_left_as_they_are() -> None:
    items = [{"type": "reasoning.summary", "summary": "a"}, {"type": "reasoning.summary", "summary": "b"}]
    reply = read_body(whole({"content": "x", "reasoning_details": items}), "openrouter").reply
    assert reply is not None
    assert reply.message.thinking == "ab"
    assert reply.message.content[-1] == OpaquePart(opaque=opaque("openrouter", reasoning_details=items))


def test_content_as_a_list_holds_text_and_thinking_in_streams_too() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "why"}, {"type": "text", "text": "?"}]}
    body = sse(
        chunk({"content": [thinking]}),
        chunk({"content": [{"type": "text", "text": "so"}, {"type": "reference", "reference_ids": [1]}]}),
        chunk({}, "stop"),
    )
    reply = read_body(body, "mistral").reply
    assert reply is not None
    assert (reply.message.thinking, reply.text) == ("why?", "so")
    assert reply.warnings == ("a part of type 'reference' of the answer was not read",)


def test_a_message_beside_its_deltas_is_not_read_twice() -> None:
    first = chunk({"content": "Hel"})
    first["choices"][0]["message"] = {"content": "Hel"}
    summary = {"object": "chat.completion", "choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]}
    for end in (chunk({}, "stop"), {**summary, "usage": {"prompt_tokens": 4, "completion_tokens": 1}}):
        reply = read_body(sse(first, text("lo"), end, done=False), "minimax").reply
        assert reply is not None
        assert (reply.text, reply.finish) == ("Hello", "stop")


def test_a_whole_answer_in_one_event_is_one() -> None:
    reply = read_body(sse({"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]})).reply
    assert reply is not None
    assert reply.text == "Hello"


def test_hits_of_a_server_side_search_are_not_the_answer() -> None:
    hits = chunk({"role": "tool", "content": "hits"}, "stop")
    reply = read_body(sse(hits, text("answer", "stop"), done=False), "minimax").reply
    assert reply is not None
    assert reply.text == "answer"


def test_half_surrogates_become_the_replacement_character_and_whole_ones_stay() -> None:
    body = b'data: {"choices":[{"delta":{"content":"\\ud83d\\ude00 \\ud83d \\uDE00"},"finish_reason":"stop"}]}\n\n'
    reply = read_body(body).reply
    assert reply is not None
    assert reply.text == "\U0001f600 \ufffd \ufffd"


def test_a_transcript_is_the_text_of_an_answer_in_sound() -> None:
    sound = base64.b64encode(b"RIFF....").decode()
    assert read_body(whole({"content": "Hi", "audio": {"transcript": "Hi"}})).deltas.count(TextDelta("Hi")) == 1
    bodies = [
        whole({"content": None, "audio": {"id": "a", "data": sound, "transcript": "Hello"}}),
        sse(
            chunk({"audio": {"id": "a", "transcript": "Hel"}}),
            chunk({"audio": {"transcript": "lo"}}),
            chunk({"audio": {"data": base64.b64encode(b"RIFF").decode()}}),
            chunk({"audio": {"data": base64.b64encode(b"....").decode()}}),
            chunk({}, "stop"),
        ),
    ]
    for body in bodies:
        reply = read_body(body).reply
        assert reply is not None
        assert reply.message.content == (Text(text="Hello"), Audio(data=b"RIFF...."))


def test_an_image_in_an_answer_is_a_part() -> None:
    images = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAEC"}},
              {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]  # fmt: skip
    reply = read_body(sse(text("Here:"), chunk({"images": images}, "stop")), "openrouter").reply
    assert reply is not None
    assert reply.message.content == (
        Text(text="Here:"),
        Image(data=b"\x00\x01\x02", media_type="image/png"),
        Image(url="https://example.com/a.png"),
    )

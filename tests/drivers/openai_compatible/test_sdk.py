"""What leaves for a conversation is what the vendor's own SDK sends for it.

The SDK holds each conversation in a process and an environment of its own (scripts/locks/sdk-openai.txt) against a
server on loopback that plays scripted answers and keeps the requests. The same answers go through our reader, and the
messages that come of them into the next turn: so the second request of a tool loop is compared, too. Compared as JSON
without what means nothing (`bare`).

The environment, and why the tests need no network: tests/drivers/sdks.py.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from loopforge.drivers.fold import Fold
from loopforge.drivers.openai_compatible import OpenAICompatible, open_driver
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import (
    Audio,
    Document,
    Image,
    JsonSchema,
    Message,
    NamedTool,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
    assistant,
    system,
    user,
)
from tests.drivers.openai_compatible.bodies import call, chunk, sse, text, usage, whole
from tests.drivers.sdks import run, sdk_python

pytestmark = pytest.mark.slow

CLIENT = Path(__file__).with_name("sdk_client.py")

LOOK_SCHEMA = {
    "type": "object",
    "properties": {"at": {"type": "string"}, "closely": {"type": "boolean"}},
    "required": ["at", "closely"],
    "additionalProperties": False,
}
LOOK_AS_PYDANTIC_SAYS = {
    "description": "Look at it.",
    "properties": {"at": {"title": "At", "type": "string"}, "closely": {"title": "Closely", "type": "boolean"}},
    "required": ["at", "closely"],
    "title": "Look",
    "type": "object",
}
LOOK = Tool(name="look", description="Look at it.", parameters=LOOK_SCHEMA)
LOOK_WIRE = {"type": "function", "function": {"name": "look", "description": "Look at it.", "parameters": LOOK_SCHEMA}}
ARGUMENTS = '{"at": "it", "closely": true}'
CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": ARGUMENTS}}
POINT_CALL = {"id": "call_2", "type": "function", "function": {"name": "point", "arguments": "{}"}}
PNG = "data:image/png;base64,iVBORw=="


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """One conversation, in the SDK's words and in ours.

    `how`: the SDK's method. `options`: its keyword arguments. `turn`: the first turn. `answers`: what the server plays,
    one for each request; after each, results of its calls are added, then `then`.
    """

    name: str
    how: str = "create"
    messages: list[dict[str, Any]]
    options: dict[str, Any]
    turn: Turn
    answers: list[bytes] = field(default_factory=lambda: [whole({"content": "Hello"})])
    results: dict[str, str] = field(default_factory=dict)
    then: list[dict[str, Any]] = field(default_factory=list)
    our_then: tuple[Message, ...] = ()


def turn(*messages: Message, stream: bool = False, model: str = "gpt-4o", **members: Any) -> Turn:
    made = Turn(kind="coding", messages=messages, provider="sdk", model=model, stream=stream)
    return replace(made, **members)


HI = [{"role": "user", "content": "Hi"}]
CONVERSATIONS = [
    Conversation(name="plain", messages=HI, options={"model": "gpt-4o"}, turn=turn(user("Hi"))),
    Conversation(
        name="sampling",
        messages=[{"role": "system", "content": "Be kind."}, *HI],
        options={"model": "gpt-4o", "max_completion_tokens": 9, "temperature": 0.5, "top_p": 0.9, "stop": ["a", "b"],
                 "seed": 7},
        turn=turn(system("Be kind."), user("Hi"), max_output_tokens=9, temperature=0.5, top_p=0.9, stop=("a", "b"),
                  seed=7),
    ),
    Conversation(
        name="reasoning",
        messages=[{"role": "developer", "content": "Be kind."}, *HI],
        options={"model": "gpt-5.1", "reasoning_effort": "high"},
        turn=turn(system("Be kind."), user("Hi"), model="gpt-5.1", thinking="high"),
    ),
    Conversation(
        name="streamed",
        how="stream",
        messages=HI,
        options={"model": "gpt-4o"},
        turn=turn(user("Hi"), stream=True),
        answers=[sse(text("Hel"), text("lo", "stop"), usage(prompt_tokens=1, completion_tokens=2, total_tokens=3))],
    ),
    Conversation(
        name="media",
        messages=[{"role": "user", "content": [
            {"type": "text", "text": "What?"},
            {"type": "image_url", "image_url": {"url": PNG}},
            {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}},
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="}},
            {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        ]}],
        options={"model": "gpt-4o"},
        turn=turn(user("What?", Image(data=b"\x89PNG", media_type="image/png"),
                       Image(url="https://example.com/a.png", detail="low"),
                       Document(data=b"%PDF", media_type="application/pdf", name="a.pdf"),
                       Audio(data=b"RIFF", media_type="audio/wav"))),
    ),
    Conversation(
        name="tool-loop",
        messages=[{"role": "system", "content": "Use tools."}, {"role": "user", "content": "Look"}],
        options={"model": "gpt-4o", "tools": [LOOK_WIRE, {"type": "function", "function": {
            "name": "point", "parameters": {"type": "object", "properties": {}}}}], "parallel_tool_calls": True},
        turn=turn(system("Use tools."), user("Look"), tools=(LOOK, Tool(name="point")), parallel_tool_calls=True),
        answers=[
            whole({"content": "I look.", "tool_calls": [CALL, POINT_CALL]}, "tool_calls"),
            whole({"content": None, "tool_calls": [{**CALL, "id": "call_3"}]}, "tool_calls"),
            whole({"content": "A tree."}),
        ],
        results={"look": "a tree", "point": ""},
    ),
    Conversation(
        name="streamed-tool-loop",
        how="stream",
        messages=HI,
        options={"model": "gpt-4o", "tools": [LOOK_WIRE], "tool_choice": "required"},
        turn=turn(user("Hi"), tools=(LOOK,), tool_choice="required", stream=True),
        answers=[
            sse(
                chunk({"role": "assistant", "content": None}),
                call(index=0, id="call_1", type="function", function={"name": "look", "arguments": ""}),
                call(index=0, function={"arguments": ARGUMENTS[:9]}),
                call(index=0, function={"arguments": ARGUMENTS[9:]}),
                call(index=1, id="call_2", type="function", function={"name": "look", "arguments": ARGUMENTS}),
                chunk({}, "tool_calls"),
            ),
            sse(text("A tree.", "stop")),
        ],
        results={"look": "a tree"},
    ),
    Conversation(
        name="chat",
        messages=HI,
        options={"model": "gpt-4o"},
        turn=turn(user("Hi")),
        answers=[whole({"content": "Hello"}), whole({"content": None, "refusal": "No."}), whole({"content": "Fine"})],
        then=[{"role": "user", "content": "And?"}],
        our_then=(user("And?"),),
    ),
    Conversation(
        name="forced",
        messages=HI,
        options={"model": "gpt-4o", "tools": "Look", "tool_choice": {"type": "function", "function": {"name": "look"}}},
        turn=turn(
            user("Hi"),
            tools=(replace(LOOK, parameters=LOOK_AS_PYDANTIC_SAYS, strict=True),),
            tool_choice=NamedTool(name="look"),
        ),
    ),
    Conversation(
        name="schema",
        how="parse",
        messages=HI,
        options={"model": "gpt-4o"},
        turn=turn(
            user("Hi"),
            output=JsonSchema(
                name="Point",
                schema={"properties": {"x": {"title": "X", "type": "integer"}, "y": {"title": "Y", "type": "integer"}},
                        "required": ["x", "y"], "title": "Point", "type": "object"},
            ),
        ),
        answers=[whole({"content": '{"x": 1, "y": 2}'})],
    ),
    Conversation(
        name="json",
        messages=[{"role": "user", "content": "As JSON"}],
        options={"model": "gpt-4o", "response_format": {"type": "json_object"}},
        turn=turn(user("As JSON"), output="json"),
    ),
    Conversation(name="azure", how="azure", messages=HI, options={"model": "gpt-4o"}, turn=turn(user("Hi"))),
]  # fmt: skip
BY_NAME = {conversation.name: conversation for conversation in CONVERSATIONS}


@dataclass(frozen=True)
class Asked:
    """A request as the server saw it."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


class Script(BaseHTTPRequestHandler):
    """Answers each request to /NAME/... with the next of that conversation's answers, and keeps the request."""

    asked: dict[str, list[Asked]]

    def do_POST(self) -> None:
        name = self.path.split("/")[1]
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        asked = self.asked.setdefault(name, [])
        answer = BY_NAME[name].answers[len(asked)]
        headers = {header.lower(): value for header, value in self.headers.items()}
        asked.append(Asked(self.path, headers, body))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream" if answer.startswith(b"data:") else "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def scripted_server() -> Iterator[tuple[str, dict[str, list[Asked]]]]:
    asked: dict[str, list[Asked]] = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Script,), {"asked": asked}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass(frozen=True)
class Held:
    """What the SDK sent, by conversation, and what it says of the bodies that it was given."""

    sent: dict[str, list[Asked]]
    problems: dict[str, list[str]]


@pytest.fixture(scope="module")
def held() -> Held:
    python = sdk_python("openai")
    with scripted_server() as (base_url, asked):
        conversations = [
            {
                "name": item.name,
                "how": item.how,
                "messages": item.messages,
                "options": item.options,
                "rounds": len(item.answers),
                "results": item.results,
                "then": item.then,
            }
            for item in CONVERSATIONS
        ]
        given = {"base_url": base_url, "conversations": conversations, "bodies": bodies_to_check()}
        said = json.loads(run(python, "-I", CLIENT, given=json.dumps(given)))
    return Held(asked, said["problems"])


def our_driver(base_url: str, vendor: str = "openai") -> OpenAICompatible:
    return open_driver(ProviderSettings(name="sdk", kind="openai_compatible", base_url=base_url, vendor=vendor))


def our_requests(conversation: Conversation, driver: OpenAICompatible) -> Iterator[Any]:
    """Our requests of the conversation: each answer is read, and its message goes into the next turn."""
    asked = conversation.turn
    for answer in conversation.answers:
        request = driver.build_request(asked)
        assert driver.notices(asked) == ()
        yield request
        reader, fold = driver.new_reader(asked, {}), Fold()
        for delta in [*reader.feed(answer), *reader.close()]:
            fold.add(delta)
        message = fold.message()
        results = tuple(
            Message(role="tool", content=(ToolResult(call_id=made.id, content=_text(conversation.results[made.name])),))
            for made in message.tool_calls
        )
        asked = replace(asked, messages=(*asked.messages, message, *results, *conversation.our_then))


def _text(content: str) -> tuple[Text, ...]:
    return (Text(text=content),) if content else ()


def bare(value: Any) -> Any:
    """The JSON without what means nothing: null, `stream: false`, the index that the SDK leaves on streamed calls."""
    if isinstance(value, dict):
        kept = {name: bare(item) for name, item in value.items() if item is not None and name != "index"}
        return {name: item for name, item in kept.items() if (name, item) != ("stream", False)}
    return [bare(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", [name for name in BY_NAME if name != "azure"])
def test_our_requests_of_a_conversation_are_the_sdks(name: str, held: Held) -> None:
    conversation, sent = BY_NAME[name], held.sent[name]
    assert len(sent) == len(conversation.answers)
    for theirs, ours in zip(sent, our_requests(conversation, our_driver(f"http://host/{name}/v1")), strict=True):
        assert ours.url == f"http://host{theirs.path}"
        assert ours.headers["content-type"] == theirs.headers["content-type"]
        assert bare(json.loads(ours.body)) == bare(theirs.body)


def test_azures_address_is_the_sdks(held: Held) -> None:
    (theirs,) = held.sent["azure"]
    driver = our_driver("http://host/azure/openai?api-version=2024-10-21", "azure")
    (ours,) = our_requests(BY_NAME["azure"], driver)
    assert ours.url == f"http://host{theirs.path}"
    assert bare(json.loads(ours.body)) == bare(theirs.body)
    assert theirs.headers["api-key"] == "key"


# -- what the SDK's types say of our bodies ---------------------------------------------------------------------------


def bodies_to_check() -> dict[str, Any]:
    """Bodies with everything that this wire can carry."""
    custom = ToolCall(id="c", name="patch", arguments="*** x", custom=True)
    looked = ToolCall(id="call_1", name="look", arguments=ARGUMENTS)
    seen = ToolResult(call_id="call_1", content=(Text(text="here"), Image(data=b"\x89PNG", media_type="image/png")))
    turns = {conversation.name: conversation.turn for conversation in CONVERSATIONS} | {
        "custom call": turn(user("a"), assistant(custom), Message(role="tool", content=(ToolResult(call_id="c"),))),
        "image in a result": turn(user("a"), assistant("b", looked), Message(role="tool", content=(seen,))),
        "loose schema": turn(user("a"), output=JsonSchema(schema={"type": "object", "properties": {"a": {}}})),
        "asked for json": turn(user("a"), output="json", stream=True),
        "everything": turn(
            system("a"), user("b"), stream=True, tools=(LOOK, replace(LOOK, name="l2", strict=True)),
            tool_choice="none", parallel_tool_calls=False, max_output_tokens=5, temperature=1.0, top_p=1.0,
            stop=("x",), seed=1,
        ),
        "thinking": turn(user("a"), model="gpt-5.1", thinking="off"),
    }  # fmt: skip
    driver = our_driver("http://host/v1")
    return {name: json.loads(driver.build_request(asked).body) for name, asked in turns.items()} | WRONG


WRONG: dict[str, Any] = {
    "an unknown field": {"model": "m", "messages": HI, "stream": False, "chat_template_kwargs": {}},
    "a wrong type": {"model": "m", "messages": HI, "stream": False, "max_completion_tokens": "many"},
    "an unknown part": {"model": "m", "messages": [{"role": "user", "content": [{"type": "video"}]}], "stream": True},
}


def test_the_sdks_types_have_nothing_against_our_bodies(held: Held) -> None:
    assert len(held.problems) > len(CONVERSATIONS) + len(WRONG)
    assert {name for name, problems in held.problems.items() if problems} == WRONG.keys()

"""One long conversation goes through all seven kinds in turn: driver, auth and transport against their simulators.

Each kind is asked three times: a question about an image, which it answers with thinking and two tool calls; their
results, one with an image and one an error; and for an answer of a schema. Whatever it says goes into the history that
the next one gets. The simulators refuse what their vendors would; what leaves is looked at here, part by part.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import trio

from loopforge.drivers.auth import open_auth
from loopforge.drivers.capabilities import capabilities_of
from loopforge.drivers.registry import KINDS, Kind, ProviderSettings, open_driver
from loopforge.drivers.run import Watchdogs, run_turn
from loopforge.drivers.simulator.profile import Profile, ScriptedCall
from loopforge.drivers.simulator.server import Simulator, open_simulator
from loopforge.drivers.transport import open_transport
from loopforge.drivers.turn import (
    Document,
    Image,
    JsonSchema,
    Message,
    Opaque,
    OpaquePart,
    Part,
    Reply,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
    system,
    user,
)
from loopforge.drivers.wire import Auth, Driver, HttpRequest, Response, Transport

Json = dict[str, Any]
CALM = Watchdogs(first_event_s=60, event_gap_s=60)
SIZE = {"type": "object", "properties": {"size": {"type": "integer"}}, "required": ["size"],
        "additionalProperties": False}  # fmt: skip
PLACE = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}
LOOK, KNOCK = (Tool(name=name, description="A tool.", parameters=PLACE) for name in ("look", "knock"))

# Models that think and see, and the vendor where loopback cannot tell it.
MODELS: dict[Kind, tuple[str, str]] = {
    "openai_compatible": ("some-model", "vllm"),
    "anthropic": ("claude-sonnet-4-6", "anthropic"),
    "gemini": ("gemini-3-flash-preview", ""),
    "bedrock": ("anthropic.claude-sonnet-4-5-20250929-v1:0", ""),
    "dashscope_native": ("qwen3.8-max", ""),
    "zhipu_native": ("glm-4.6v", ""),
    "minimax_native": ("MiniMax-M3", ""),
}
OTHER_MODELS: dict[Kind, str] = {
    "openai_compatible": "another-model",
    "anthropic": "claude-opus-4-8",
    "gemini": "gemini-3-pro-preview",
    "bedrock": "anthropic.claude-opus-4-8",
    "dashscope_native": "qwen3.8-max-2026-09-01",
    "zhipu_native": "glm-5.3",
    "minimax_native": "MiniMax-M4",
}
READ_ALWAYS = ("anthropic", "bedrock", "dashscope_native", "minimax_native")
"""Their models read all their earlier thinking; the others that of the answer under way, gemini signatures alone."""


def image(name: str) -> Image:
    return Image(data=b"\x89PNG\r\n\x1a\n" + name.encode() * 8, media_type="image/png")


# -- the line: seven providers, and what each is sent ------------------------------------------------------------------


@dataclass
class Watched:
    """A transport that keeps what goes through it."""

    inner: Transport
    requests: list[HttpRequest] = field(default_factory=list)

    def open(self, request: HttpRequest) -> AbstractAsyncContextManager[Response]:
        self.requests.append(request)
        return self.inner.open(request)


@dataclass
class Provider:
    settings: ProviderSettings
    driver: Driver
    auth: Auth
    transport: Watched

    async def ask(self, turn: Turn) -> tuple[Reply, Json]:
        """The reply, and the body that was sent for it."""

        async def emit(delta: object) -> None:
            del delta

        with trio.fail_after(60):
            reply = await run_turn(self.driver, self.auth, turn, self.transport, emit, CALM)
        body: Json = json.loads(self.transport.requests[-1].body)
        return reply, body


@dataclass
class Line:
    simulator: Simulator
    providers: dict[Kind, Provider]

    def play(self, kind: Kind, *calls: ScriptedCall) -> None:
        quick = Profile(kind=kind, first_token_s=0, tokens_per_s=0, answer_tokens=12, thinking_tokens=9)
        self.simulator.profiles[kind] = replace(quick, tool_calls=calls)


@asynccontextmanager
async def open_line() -> AsyncIterator[Line]:
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(open_simulator({}))
        line = Line(simulator, {})
        for kind in KINDS:
            line.play(kind)
            url = f"{simulator.url}/{kind}" if kind == "bedrock" else simulator.base_url(kind)
            settings = ProviderSettings(
                name=kind, kind=kind, base_url=url, vendor=MODELS[kind][1], api_key_env=f"{kind.upper()}_KEY"
            )
            transport = Watched(await stack.enter_async_context(open_transport(settings)))
            line.providers[kind] = Provider(settings, open_driver(settings), open_auth(settings, "a-key"), transport)
        yield line


# -- what must be found in a body --------------------------------------------------------------------------------------


def strings(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for inner in value.values():
                yield from strings(inner)
        case list():
            for inner in value:
                yield from strings(inner)


def secrets(opaque: Opaque | None) -> list[str]:
    """What of opaque data can be told from everything else in a body."""
    return [text for text in strings(opaque.data if opaque else {}) if len(text) > 20]


NAMED: dict[type[Part], str] = {
    ToolCall: "signatures( on tool calls)?",
    Text: "(signatures|citations)",
    OpaquePart: "opaque parts",
}
"""Opaque data in the words of the notices, by the part that it is on."""


@dataclass
class Audit:
    """One request, looked at against the conversation that it stands for."""

    origin: tuple[str, str]
    messages: Sequence[Message]
    body: Json
    warnings: tuple[str, ...]

    def __post_init__(self) -> None:
        self.sent = list(strings(self.body))
        self.last_user = max(number for number, message in enumerate(self.messages) if message.role == "user")

    def check(self) -> None:
        for message in self.messages:
            for part in message.content:
                self.check_part(part)
        self.check_thinking()
        self.check_calls()

    def has(self, text: str) -> bool:
        return any(text in sent for sent in self.sent)

    def warned(self, pattern: str) -> bool:
        return any(re.search(pattern, warning) for warning in self.warnings)

    def check_part(self, part: Part) -> None:
        match part:
            case Text(text=text):
                assert self.has(text), text
            case Image(data=data):
                assert self.has(base64.b64encode(data).decode())
            case Document(data=data):
                assert self.has(data.decode()) or self.has(base64.b64encode(data).decode())
            case ToolCall(parsed=parsed):
                assert parsed is not None
                assert self.has(parsed["place"])
            case ToolResult(content=content, is_error=is_error):
                for inner in content:
                    self.check_part(inner)
                    if is_error and isinstance(inner, Text):
                        assert self.tells_error(inner.text)
        opaque = getattr(part, "opaque", None)
        if opaque is not None and not isinstance(part, Thinking):
            self.check_opaque(opaque, NAMED[type(part)])

    def tells_error(self, text: str) -> bool:
        flags = ('"is_error": true', '"status": "error"', '"error": ', "Error: ")
        return any(flag in json.dumps(self.body) for flag in flags) and self.has(text)

    def is_own(self, opaque: Opaque | None) -> bool:
        return opaque is not None and (opaque.provider, opaque.model) == self.origin

    def check_thinking(self) -> None:
        """What is sent as thinking is this origin's own, as far as its models read it, and nothing of another's is."""
        own: list[str] = []
        for number, message in enumerate(self.messages):
            for part in message.content:
                if not isinstance(part, Thinking):
                    continue
                if self.is_own(part.opaque):
                    own += [part.text] if self.is_read(number) else []
                    assert not self.is_read(number) or all(map(self.has, secrets(part.opaque)))
                else:
                    assert self.warned("(thinking|reasoning) that is not of this provider and model was not sent")
                    assert not any(part.text in sent for sent in self.sent if not self.is_known(sent))
                    assert not any(map(self.has, secrets(part.opaque)))
        assert list(THOUGHTS[self.origin[0]](self.body)) == own

    def is_read(self, number: int) -> bool:
        """Whether the model reads the thinking of this message, which its own answer was."""
        kind = self.origin[0]
        return kind in READ_ALWAYS or (kind != "gemini" and number > self.last_user)

    def is_known(self, sent: str) -> bool:
        """Simulated models say the same again at times: answers, and thoughts of this origin, may hold any thought."""
        said = (part.text for message in self.messages for part in message.content
                if isinstance(part, Text) or (isinstance(part, Thinking) and self.is_own(part.opaque)))  # fmt: skip
        return sent in said

    def check_opaque(self, opaque: Opaque, named: str) -> None:
        for secret in secrets(opaque):
            assert self.has(secret) == self.is_own(opaque)
        if not self.is_own(opaque):
            assert self.warned(f"{named} of another provider or model were not sent")

    # -- calls and results --------------------------------------------------------------------------------------------

    def check_calls(self) -> None:
        """Every call of the history is there once, with an id that the wire takes, and its result has the same."""
        calls = [call for message in self.messages for call in message.tool_calls]
        sent = list(CALLS[self.origin[0]](self.body))
        results = list(RESULTS[self.origin[0]](self.body))
        assert [name for _, name in sent] == [call.name for call in calls]
        assert [call_id for call_id, _ in sent] == results
        assert len(set(results)) == len(results) or self.origin[0] == "gemini"
        assert all(re.fullmatch(IDS[self.origin[0]], call_id) for call_id in results)


def of_chat(body: Json) -> list[Json]:
    messages: list[Json] = body["input"]["messages"] if "input" in body else body["messages"]
    return messages


def every_block(body: Json) -> list[Json]:
    """Of the wires that write what is said as blocks; a string stands for one."""
    messages = body.get("contents") or body["messages"]
    parts = [part for message in messages for part in message.get("parts") or message["content"]]
    return [part for part in parts if isinstance(part, dict)]


def blocks(body: Json, name: str) -> list[Json]:
    return [part.get(name, part) for part in every_block(body) if part.get("type") == name or name in part]


def chat_calls(body: Json) -> Iterator[tuple[str, str]]:
    for message in of_chat(body):
        for call in message.get("tool_calls", ()):
            yield call["id"], call["function"]["name"]


def chat_results(body: Json) -> Iterator[str]:
    return (message["tool_call_id"] for message in of_chat(body) if message["role"] == "tool")


def chat_thoughts(body: Json) -> Iterator[str]:
    for message in of_chat(body):
        if text := message.get("reasoning_content"):
            yield text
        yield from (item["text"] for item in message.get("reasoning_details", ()))
        assert "<think>" not in str(message["content"])


def gemini_thoughts(body: Json) -> Iterator[str]:
    return (part["text"] for content in body["contents"] for part in content["parts"] if part.get("thought"))


THOUGHTS: dict[str, Callable[[Json], Iterator[str]]] = {
    **dict.fromkeys(("openai_compatible", "dashscope_native", "zhipu_native", "minimax_native"), chat_thoughts),
    "anthropic": lambda body: (block["thinking"] for block in every_block(body) if block.get("type") == "thinking"),
    "bedrock": lambda body: (
        block["reasoningContent"]["reasoningText"]["text"] for block in every_block(body) if "reasoningContent" in block
    ),
    "gemini": gemini_thoughts,
}
CALLS: dict[str, Callable[[Json], Iterator[tuple[str, str]]]] = {
    **dict.fromkeys(("openai_compatible", "dashscope_native", "zhipu_native", "minimax_native"), chat_calls),
    "anthropic": lambda body: ((call["id"], call["name"]) for call in blocks(body, "tool_use")),
    "bedrock": lambda body: ((call["toolUseId"], call["name"]) for call in blocks(body, "toolUse")),
    "gemini": lambda body: ((call.get("id") or call["name"], call["name"]) for call in blocks(body, "functionCall")),
}
RESULTS: dict[str, Callable[[Json], Iterator[str]]] = {
    **dict.fromkeys(("openai_compatible", "dashscope_native", "zhipu_native", "minimax_native"), chat_results),
    "anthropic": lambda body: (result["tool_use_id"] for result in blocks(body, "tool_result")),
    "bedrock": lambda body: (result["toolUseId"] for result in blocks(body, "toolResult")),
    "gemini": lambda body: (result.get("id") or result["name"] for result in blocks(body, "functionResponse")),
}
IDS: dict[str, str] = {
    "openai_compatible": ".{1,512}",
    "anthropic": "[A-Za-z0-9_-]{1,256}",
    "gemini": ".+",
    "bedrock": "[A-Za-z0-9_.:-]{1,64}",
    "dashscope_native": "[A-Za-z0-9_.:-]{1,128}",
    "zhipu_native": "[A-Za-z0-9_.:-]{1,64}",
    "minimax_native": "[A-Za-z0-9_-]{1,128}",
}


# -- the conversation --------------------------------------------------------------------------------------------------


def beginning() -> tuple[Message, ...]:
    """What an eighth provider left: opaque data on every part, and ids that no wire takes as they are."""
    elsewhere = Opaque(provider="elsewhere", model="gone", data={"signature": "signature-of-an-eighth-provider"})
    place = {"place": "north"}
    calls = [
        ToolCall(id=f"call|{number}/é {'x' * 300}", name=tool.name, arguments=json.dumps(place), parsed=place)
        for number, tool in enumerate((LOOK, KNOCK))
    ]
    said = Message(
        role="assistant",
        content=(
            Thinking(text="Where might it be, I wonder.", opaque=elsewhere),
            Thinking(text="Thoughts that nobody signed."),
            OpaquePart(opaque=elsewhere),
            Text(text="I will look.", opaque=elsewhere),
            replace(calls[0], opaque=elsewhere),
            calls[1],
        ),
    )
    document = Document(data=b"The manual of the house.", media_type="text/plain", name="manual.txt")
    return (
        system("You look after a house."),
        user("What is this?", image("first"), document),
        said,
        *results_of(said, "beginning"),
        Message(role="assistant", content=(Text(text="It is the hall."),)),
    )


def results_of(message: Message, where: str) -> Iterator[Message]:
    """One with an image, one an error; a message each."""
    seen, failed = message.tool_calls
    content = (Text(text=f"a door in {where}"), image(f"door in {where}"))
    yield Message(role="tool", content=(ToolResult(call_id=seen.id, name=seen.name, content=content),))
    said = (Text(text=f"nobody is at {where}"),)
    yield Message(role="tool", content=(ToolResult(call_id=failed.id, name=failed.name, content=said, is_error=True),))


async def go_on(line: Line, kind: Kind, model: str, messages: tuple[Message, ...], step: str) -> tuple[Message, ...]:
    """The three questions to this kind; returns the longer conversation."""
    provider = line.providers[kind]
    can = capabilities_of(provider.settings, model)

    async def ask(*, output: Any = "text", thinking: Any = "low") -> Reply:
        turn = Turn(
            kind="coding",
            messages=messages,
            provider=kind,
            model=model,
            tools=(LOOK, KNOCK),
            output=output,
            thinking=thinking,
            stream=output == "text",
        )
        reply, body = await provider.ask(turn)
        Audit((kind, model), messages, body, reply.warnings).check()
        return reply

    places = [{"place": f"{step} {tool.name}"} for tool in (LOOK, KNOCK)]
    line.play(
        kind,
        ScriptedCall(name="look", arguments=places[0]),
        ScriptedCall(name="knock", arguments=places[1]),
    )
    messages += (user(f"What is at {step}?", image(step)),)
    called = await ask()
    assert called.finish == "tool_calls"
    assert [call.parsed for call in called.tool_calls] == places
    assert called.message.thinking
    messages += (called.message, *results_of(called.message, step))
    line.play(kind)
    told = await ask()
    assert (told.finish, len(told.text.split())) == ("stop", 12)
    messages += (told.message, user("How large is it? Answer in JSON."))
    sized = await ask(output=JsonSchema(schema=SIZE), thinking="off")
    if can.schema in ("enforced", "not_thinking"):
        assert json.loads(sized.text) == {"size": 1}
    else:
        assert any("not enforced" in warning for warning in sized.warnings)
    return (*messages, sized.message)


ORDERS = {
    "as they are listed": (*KINDS, KINDS[0], KINDS[1]),
    "the other way round": (*reversed(KINDS), KINDS[-1], KINDS[-2]),
    "there and back": (*KINDS[2:5], *reversed(KINDS[2:4])),
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
async def test_a_conversation_goes_through_all_kinds_and_loses_nothing_in_silence(order: tuple[Kind, ...]) -> None:
    messages = beginning()
    async with open_line() as line:
        for number, kind in enumerate(order):
            messages = await go_on(line, kind, MODELS[kind][0], messages, f"step {number}")


@pytest.mark.parametrize("kind", KINDS)
async def test_another_model_of_the_same_provider_is_another_origin(kind: Kind) -> None:
    messages = beginning()
    async with open_line() as line:
        for step, model in enumerate((MODELS[kind][0], OTHER_MODELS[kind], MODELS[kind][0])):
            messages = await go_on(line, kind, model, messages, f"step {step}")

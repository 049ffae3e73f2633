"""A client of the simulator over any stream: h11 by hand, so that nothing of ours is on both ends."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import h11
import trio

HELLO = [{"role": "user", "content": "hello"}]


@dataclass
class Answer:
    """What came. `at`: when each piece of the body did, on the trio clock, seconds after the request."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    pieces: list[bytes] = field(default_factory=list)
    at: list[float] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The data of each event of a stream, decoded."""
        lines = self.body.decode().split("\n\n")
        data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
        return [json.loads(text) if text != "[DONE]" else text for text in data]

    @property
    def text(self) -> str:
        deltas = [choice["delta"] for event in self.events if event != "[DONE]" for choice in event["choices"]]
        return "".join(delta.get("content") or "" for delta in deltas)


class Cut(Exception):
    """The connection ended inside the answer. `answer`: what had come."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer)
        self.answer = answer


class H11Client:
    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.http = h11.Connection(h11.CLIENT)

    async def chat(self, provider: str = "acme", **body: Any) -> Answer:
        """Ask for a chat completion, with a model and messages unless they are given."""
        return await self.ask(f"/{provider}/v1/chat/completions", json.dumps({"model": "m", "messages": HELLO} | body))

    async def ask(self, path: str, body: str | bytes = b"", *, method: str = "POST", **headers: str) -> Answer:
        """Raises Cut. The connection can be used again after an answer."""
        answer = await self.start(path, body, method=method, **headers)
        began = trio.current_time()
        while not isinstance(event := await self._next(answer), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                answer.status = event.status_code
                answer.headers = {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, h11.Data):
                answer.pieces.append(bytes(event.data))
                answer.at.append(trio.current_time() - began)
        if self.http.our_state is h11.DONE and self.http.their_state is h11.DONE:
            self.http.start_next_cycle()
        return answer

    async def start(self, path: str, body: str | bytes = b"", *, method: str = "POST", **headers: str) -> Answer:
        """Send a request and do not wait."""
        data = body.encode() if isinstance(body, str) else body
        sent = [("host", "sim"), ("content-length", str(len(data))), *headers.items()]
        request = h11.Request(method=method, target=path, headers=sent)
        pieces = (request, h11.Data(data=data), h11.EndOfMessage())
        await self.stream.send_all(b"".join(self.http.send(piece) or b"" for piece in pieces))
        return Answer()

    async def _next(self, answer: Answer) -> h11.Event:
        try:
            while (event := self.http.next_event()) is h11.NEED_DATA:
                self.http.receive_data(bytes(await self.stream.receive_some(65536)))
        except (trio.BrokenResourceError, h11.RemoteProtocolError):
            raise Cut(answer) from None
        assert isinstance(event, h11.Event)
        return event

"""A vendor on loopback, OpenAI-compatible, that answers each model's requests from a list, and then well for ever."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import h11
import trio

WELL = "hello from the canned vendor"
_READ_BYTES = 65536


@dataclass(frozen=True)
class Canned:
    """One answer: an error as JSON, with these headers."""

    status: int
    error: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Vendor:
    """`answers`: by model, one a request; behind the last one, and for other models, all is well."""

    answers: Mapping[str, Sequence[Canned]]
    url: str = ""
    requests: Counter[str] = field(default_factory=Counter)

    def answer(self, model: str) -> tuple[int, Mapping[str, str], bytes]:
        number = self.requests[model]
        self.requests[model] += 1
        canned = self.answers.get(model, ())
        if number < len(canned):
            chosen = canned[number]
            return chosen.status, chosen.headers, json.dumps({"error": dict(chosen.error)}).encode()
        choice = {"index": 0, "delta": {"role": "assistant", "content": WELL}, "finish_reason": "stop"}
        event = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [choice]}
        body = f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n".encode()
        return 200, {"content-type": "text/event-stream"}, body

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            http = h11.Connection(h11.SERVER)
            try:
                while body := await _next_body(http, stream):
                    status, headers, answer = self.answer(str(json.loads(body)["model"]))
                    named = [*headers.items(), ("content-length", str(len(answer)))]
                    sent = http.send(h11.Response(status_code=status, headers=named)) or b""
                    sent += http.send(h11.Data(data=answer)) or b""
                    sent += http.send(h11.EndOfMessage()) or b""
                    await stream.send_all(sent)
                    http.start_next_cycle()
            except (trio.BrokenResourceError, h11.ProtocolError):
                return  # the client has left


async def _next_body(http: h11.Connection, stream: trio.SocketStream) -> bytes:
    """Of the next request; b"" when the client has left."""
    body = b""
    while not isinstance(event := http.next_event(), h11.EndOfMessage):
        if event is h11.NEED_DATA:
            http.receive_data(await stream.receive_some(_READ_BYTES))
        elif isinstance(event, h11.Data):
            body += event.data
        elif not isinstance(event, h11.Request):
            return b""
    return body


@asynccontextmanager
async def open_vendor(answers: Mapping[str, Sequence[Canned]]) -> AsyncIterator[Vendor]:
    """Serve on a free port of 127.0.0.1 until the block ends."""
    vendor = Vendor(answers)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    vendor.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/v1"
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(trio.serve_listeners, vendor.serve, listeners))
        try:
            yield vendor
        finally:
            nursery.cancel_scope.cancel()

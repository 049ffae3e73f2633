"""What a transport promises, whatever carries its bytes. Subclass and give `open_world`."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager

import pytest
import trio

from loopforge.drivers.errors import DriverError, ProviderUnavailable, StreamBroken, WireMismatch
from loopforge.drivers.transport import MAX_ERROR_BYTES
from loopforge.drivers.wire import HttpRequest, Response, Transport


class World(ABC):
    """A transport, and a provider behind it that does what the model's name says (faults of the simulator)."""

    transport: Transport
    url: str = "http://fake/v1"

    @abstractmethod
    async def wait_asked(self) -> None:
        """Until a request has arrived."""

    @abstractmethod
    async def wait_left(self) -> None:
        """Until the provider has seen that the client left before the answer was whole."""

    @abstractmethod
    def was_left(self) -> bool: ...

    def open(self, model: str = "m", *, stream: bool = False) -> AbstractAsyncContextManager[Response]:
        body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": "hello"}]}
        headers = {"content-type": "application/json"}
        url = f"{self.url}/chat/completions"
        return self.transport.open(HttpRequest(url=url, headers=headers, body=json.dumps(body).encode()))


async def read_into(seen: list[bytes], response: Response) -> None:
    async for data in response:
        seen.append(data)  # noqa: PERF401 - what came before an error counts


async def whole(response: Response) -> bytes:
    return b"".join([data async for data in response])


class TransportSuite(ABC):
    @abstractmethod
    def open_world(self) -> AbstractAsyncContextManager[World]: ...

    async def test_an_answer_comes_with_its_status_headers_and_body(self) -> None:
        async with self.open_world() as world, world.open() as response:
            assert response.status == 200
            assert response.headers["content-type"] == "application/json"
            assert all(name == name.lower() for name in response.headers)
            assert json.loads(await whole(response))["choices"][0]["message"]["content"]
        assert not world.was_left()

    async def test_a_stream_comes_in_pieces_that_join_to_the_whole(self) -> None:
        async with self.open_world() as world, world.open(stream=True) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            pieces = [data async for data in response]
        assert len(pieces) > 1
        assert all(pieces)
        assert b"".join(pieces).endswith(b"data: [DONE]\n\n")

    async def test_the_same_request_meets_the_same_answer(self) -> None:
        async with self.open_world() as world:
            async with world.open() as response:
                first = await whole(response)
            async with world.open() as response:
                assert await whole(response) == first

    async def test_another_status_is_a_response_too(self) -> None:
        async with self.open_world() as world, world.open("fault-429") as response:
            assert response.status == 429
            assert response.headers["retry-after"] == "1"
            assert b"rate_limit_exceeded" in await response.read_all()

    async def test_the_body_of_an_error_is_bounded(self) -> None:
        async with self.open_world() as world:
            async with world.open("fault-huge") as response:
                assert len(await response.read_all()) == MAX_ERROR_BYTES
            await world.wait_left()

    async def test_an_error_whose_body_is_cut_is_still_told(self) -> None:
        async with self.open_world() as world, world.open("fault-cut") as response:
            assert b"{" in await response.read_all()

    @pytest.mark.parametrize("fault", ["cut", "reset-midway"])
    @pytest.mark.parametrize("stream", [True, False])
    async def test_a_connection_lost_inside_the_body_is_a_broken_stream(self, fault: str, stream: bool) -> None:
        seen: list[bytes] = []
        async with self.open_world() as world, world.open(f"fault-{fault}", stream=stream) as response:
            with pytest.raises(StreamBroken):
                await read_into(seen, response)
        assert b"".join(seen)

    async def test_a_connection_lost_before_the_head_is_an_unavailable_provider(self) -> None:
        async with self.open_world() as world:
            with pytest.raises(ProviderUnavailable):
                async with world.open("fault-reset"):
                    raise AssertionError("there was no head")

    async def test_a_body_without_end_is_left_at_its_bound(self) -> None:
        async with self.open_world() as world:
            async with world.open("fault-huge") as response:
                with pytest.raises(WireMismatch):
                    await whole(response)
            await world.wait_left()

    async def test_leaving_the_block_early_tells_the_provider(self) -> None:
        async with self.open_world() as world:
            async with world.open("fault-stall", stream=True) as response:
                assert await anext(aiter(response))
            await world.wait_left()

    async def test_leaving_the_block_without_reading_tells_the_provider(self) -> None:
        async with self.open_world() as world:
            async with world.open("fault-stall", stream=True):
                pass
            await world.wait_left()

    async def test_cancelled_before_the_head_the_provider_is_told(self) -> None:
        async with self.open_world() as world, trio.open_nursery() as nursery:

            async def ask() -> None:
                async with world.open("fault-silence"):
                    raise AssertionError("there was no head")

            nursery.start_soon(ask)
            await world.wait_asked()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await world.wait_left()

    async def test_cancelled_inside_the_body_the_provider_is_told(self) -> None:
        async with self.open_world() as world:
            with trio.CancelScope() as scope:
                async with world.open("fault-stall", stream=True) as response:
                    async for _ in response:
                        scope.cancel()
            assert scope.cancelled_caught
            await world.wait_left()

    async def test_what_the_block_raises_passes_through(self) -> None:
        async with self.open_world() as world:
            with pytest.raises(LookupError, match="the block's own"):
                async with world.open("fault-stall", stream=True):
                    raise LookupError("the block's own")
            await world.wait_left()

    async def test_many_at_once_do_not_mix(self) -> None:
        failures: list[DriverError] = []
        bodies: list[bytes] = []

        async def ask(model: str) -> None:
            try:
                async with world.open(model, stream=True) as response:
                    bodies.append(await whole(response))
            except DriverError as exc:
                failures.append(exc)

        async with self.open_world() as world, trio.open_nursery() as nursery:
            for model in ["m", "fault-cut"] * 10:
                nursery.start_soon(ask, model)
        assert len(failures) == 10
        assert len(set(bodies)) == 1
        assert len(bodies) == 10

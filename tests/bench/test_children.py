"""bench/children.py and the processes that speak through it: a provider that changes, a player in its own process."""

from __future__ import annotations

import json

import pytest
import trio.testing

from bench.children import ChildDied, Lines, open_child
from bench.stack import INSTANT, Provider, open_played
from bench.workload import FOLDER


async def test_lines_do_not_depend_on_where_the_bytes_were_cut() -> None:
    send, receive = trio.testing.memory_stream_pair()
    lines = Lines(receive)
    for piece in (b"o", b"ne\ntw", b"o\n", b"three"):
        await send.send_all(piece)
    await send.send_eof()
    assert [await lines.next() for _ in range(3)] == [b"one", b"two", b""]


async def test_a_provider_is_played_by_a_process_of_its_own_or_by_anothers() -> None:
    providers = {"a": INSTANT, "b": INSTANT, "c": Provider(host="a"), "d": Provider(url="http://127.0.0.1:9/v1")}
    async with open_played(providers) as played:
        assert played.pid("a") == played.pid("c") != played.pid("b")
        assert played.urls["a"].removesuffix("a/v1") == played.urls["c"].removesuffix("c/v1")
        assert played.urls["d"] == "http://127.0.0.1:9/v1"
        await played.change("a", {"answer_tokens": 3})
        assert (await played.stats("a"))["requests"] == 0
        await played.wait_active("a", 0, 0)


async def test_a_player_times_turns_in_its_own_process_and_tells_how_they_ended() -> None:
    file = str(FOLDER / "isolation.toml")
    async with open_played({"local": INSTANT}) as played:
        urls = json.dumps(dict.fromkeys(("local", "cloud", "quick", "loud"), played.urls["local"]))
        async with open_child("bench.player", file, "here", urls) as player:
            times = await player.ask({"measure": "planning", "seconds": 0.25, "seed": 0})
            assert len(times) == 5
            assert all(time > 0 for time in times)
            await player.ask({"post": ["burst-200"], "seconds": 60, "seed": 0})
            assert (await player.ask({"stop": True})).keys() == {"texts", "ends"}
        assert (await played.stats("local"))["requests"] >= 5


async def test_a_child_that_dies_is_named() -> None:
    async with open_child("bench.player", str(FOLDER / "none.toml"), "here", "{}") as player:
        with pytest.raises(ChildDied, match=r"bench\.player .*none\.toml here \{\} ended"):
            await player.ask({"count": True})

"""Whether an Ollama answers on this machine. One request to its own address, and nothing else."""

from __future__ import annotations

import trio

ADDRESS = ("127.0.0.1", 11434)
TIMEOUT_S = 0.3
_REQUEST = b"GET / HTTP/1.0\r\n\r\n"
_ANSWER = b"Ollama is running"  # the whole body of its front page
_MAX_BYTES = 4096


async def answers(address: tuple[str, int] = ADDRESS) -> bool:
    """True when the front page there is Ollama's; False after TIMEOUT_S at the latest. Raises nothing."""
    said = b""
    with trio.move_on_after(TIMEOUT_S):
        try:
            async with await trio.open_tcp_stream(*address) as stream:
                await stream.send_all(_REQUEST)
                async for data in stream:
                    said += data
                    if _ANSWER in said or len(said) > _MAX_BYTES:
                        break
        except (OSError, trio.BrokenResourceError):
            return False
    return _ANSWER in said

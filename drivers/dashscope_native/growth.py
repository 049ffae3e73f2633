"""What is new in a frame of a stream, also where each frame repeats what came before it.

Such a stream is asked for by nobody but a person's own fields, and some models send one whatever they were asked. Then
the last frame counts: what it says beyond what was handed on is the rest. Whether a stream repeats itself is seen from
its second frame on, for a piece of text does not begin with the whole of the piece before it, but by chance; what could
be either is held back until a later frame tells, which is the next one nearly always.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple

from loopforge.drivers.conversation import arguments_text
from loopforge.drivers.errors import WireMismatch

_SURE_CHARS: Final = 8  # repeated by chance: never, if there are
_SURE_LETTERS: Final = 4  # so many different ones among them; a row of dashes may follow a row of dashes
_MAX_HELD: Final = 32  # frames that each begin with the one before; then, too, one has to decide


class Said(NamedTuple):
    """What a frame says. `calls`: members of `tool_calls`."""

    thinking: str
    text: str
    calls: Sequence[Any] = ()


class Growth:
    """Feed what each frame says, in order; get what is new. `plain`: every frame is new as it is, from here on."""

    def __init__(self, provider: str, *, repeats: bool) -> None:
        self._provider = provider
        self._mode: Literal["unsure", "plain", "repeating"] = "repeating" if repeats else "unsure"
        self._before: dict[Hashable, str] = {}  # unsure: what the frame before said, by channel
        self._held: list[Said] = []
        self._grown = 0  # of the held ones, those that say more than the one before
        self._given: dict[Hashable, str] = {}  # repeating: what was handed on, by channel
        self._last: dict[Hashable, str] = {}  # repeating: what the last frame said where that is not more of it

    @property
    def plain(self) -> bool:
        return self._mode == "plain"

    def add(self, said: Said) -> Iterator[Said]:
        """What is new in this frame; it may be nothing, or that of frames that were held back."""
        if self._mode == "plain":
            yield said
        elif self._mode == "repeating":
            yield self._rest_of(said)
        else:
            yield from self._weigh(said)

    def release(self) -> Iterator[Said]:
        """What was held back: no frame will tell any more."""
        if self._held:
            # one that repeats itself grows, but for its last frame; a row of equal pieces does not
            yield from self._settle("repeating" if 2 * self._grown >= len(self._held) - 1 else "plain")

    def end(self) -> Iterator[Said]:
        """The answer is over: what was held back. Raises WireMismatch when text that was handed on was taken back."""
        yield from self.release()
        if self._last:
            what = "the stream takes back text that it had sent"
            raise WireMismatch(self._provider, what, action="ask for a stream with incremental_output = true")

    def _weigh(self, said: Said) -> Iterator[Said]:
        texts = dict(_texts(said))
        if not self._before:
            if texts:
                self._before = texts
                self._given = dict(texts)
            yield said  # both readings agree on the first one
            return
        self._held.append(said)
        if any(not texts.get(channel, "").startswith(text) for channel, text in self._before.items()):
            yield from self._settle("plain")
        elif any(_is_no_chance(text, texts[channel]) for channel, text in self._before.items()):
            yield from self._settle("repeating")
        else:
            self._grown += texts != self._before
            self._before = texts
            if len(self._held) == _MAX_HELD:
                yield from self.release()

    def _settle(self, mode: Literal["plain", "repeating"]) -> Iterator[Said]:
        self._mode = mode
        held, self._held = self._held, []
        for said in held:
            yield said if mode == "plain" else self._rest_of(said)

    def _rest_of(self, said: Said) -> Said:
        calls = []
        for number, call in enumerate(said.calls):
            if isinstance(call, dict):
                channel, arguments = _channel(call, number), _arguments(call)
                calls.append(_with_arguments(call, self._rest(channel, arguments)))
        return Said(self._rest("thinking", said.thinking), self._rest("text", said.text), calls)

    def _rest(self, channel: Hashable, text: str) -> str:
        if not text:
            return ""
        given = self._given.get(channel, "")
        if not text.startswith(given):
            self._last[channel] = text
            return ""
        self._last.pop(channel, None)
        self._given[channel] = text
        return text[len(given) :]


def _texts(said: Said) -> Iterator[tuple[Hashable, str]]:
    """By channel, where there is any."""
    if said.thinking:
        yield "thinking", said.thinking
    if said.text:
        yield "text", said.text
    for number, call in enumerate(said.calls):
        if isinstance(call, dict) and (arguments := _arguments(call)):
            yield _channel(call, number), arguments


def _is_no_chance(before: str, now: str) -> bool:
    """Whether `now`, which begins with `before`, is not the next piece of a text."""
    return len(now) > len(before) >= _SURE_CHARS and len(set(before)) >= _SURE_LETTERS


def _channel(call: dict[str, Any], number: int) -> Hashable:
    index = call.get("index")
    return index if isinstance(index, int) else -1 - number


def _arguments(call: dict[str, Any]) -> str:
    function = call.get("function")
    arguments = function.get("arguments") if isinstance(function, dict) else None
    return arguments if isinstance(arguments, str) else arguments_text(arguments) if arguments else ""


def _with_arguments(call: dict[str, Any], arguments: str) -> dict[str, Any]:
    function = call.get("function")
    return {**call, "function": {**function, "arguments": arguments}} if isinstance(function, dict) else call

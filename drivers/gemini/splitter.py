"""JSON objects out of a byte stream that does not frame them: an array that arrives in pieces, or one after another.

Sans-IO. What stands between objects (commas, brackets, white space, field names of an event stream) is passed by.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from loopforge.drivers.errors import WireMismatch

_OUTSIDE_STRING = re.compile(rb'["{}]')
_INSIDE_STRING = re.compile(rb'["\\]')


class JsonSplitter:
    """Cuts bytes into top-level JSON objects. Keeps one unfinished object, never more than `max_bytes` of it."""

    def __init__(self, provider: str, *, max_bytes: int) -> None:
        self._provider = provider
        self._max = max_bytes
        self._kept = bytearray()
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._read_to = 0  # the end in `data` of the latest object

    @property
    def unfinished(self) -> bool:
        """The bytes so far end inside an object."""
        return self._depth > 0

    def finish(self, data: bytes) -> tuple[bytes | None, bytes]:
        """The object under way, if `data` completes it, and what follows it. Raises WireMismatch as `feed` does."""
        for item in self.feed(data):
            return item, data[self._read_to :]
        return None, b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The objects that `data` completes; exhaust it. Raises WireMismatch at an object beyond the bound."""
        start = at = 0
        if self._escaped and data:
            self._escaped, at = False, 1
        while True:
            if not self._depth:
                start = data.find(b"{", at)
                if start < 0:
                    return
                self._depth, at = 1, start + 1
            found = (_INSIDE_STRING if self._in_string else _OUTSIDE_STRING).search(data, at)
            if found is None:
                break
            at = found.end()
            match found[0]:
                case b'"':
                    self._in_string = not self._in_string
                case b"\\":
                    self._escaped = at == len(data)
                    at += 1
                case b"{":
                    self._depth += 1
                case _:
                    self._depth -= 1
                    if not self._depth:
                        self._check(at - start)
                        item = bytes(self._kept) + data[start:at]
                        self._kept.clear()
                        self._read_to = at
                        yield item
        self._check(len(data) - start)
        self._kept += data[start:]

    def _check(self, more: int) -> None:
        if len(self._kept) + more > self._max:
            what = f"an object of the answer is larger than {self._max} bytes"
            raise WireMismatch(self._provider, what, action="ask for a smaller answer, or check base_url and kind")

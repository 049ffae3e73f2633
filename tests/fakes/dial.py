"""A network of answers: what each URL is answered with, refused with, or that it never ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import trio

from loopforge.runtime.doctor.dial import Contact, NoContact, Progress, Stage

Answer = Contact | NoContact | Stage
"""A stage: the attempt gets as far as that and hangs there."""


class FakeDial:
    """`answers`: by URL. A URL that is not there is a host that is not there. `asked`: method and URL, in order."""

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        self._answers = answers
        self.asked: list[tuple[str, str]] = []

    async def __call__(self, method: Literal["HEAD", "GET"], url: str, progress: Progress) -> Contact:
        self.asked.append((method, url))
        progress.place = url.split("/")[2]
        progress.stage = "name look-up"
        await trio.lowlevel.checkpoint()
        answer = self._answers.get(url)
        match answer:
            case Contact():
                return answer
            case NoContact():
                raise answer
            case str():
                progress.stage = answer
                await trio.sleep_forever()
        raise NoContact("name look-up", f"there is no host {progress.place}", "check base_url and this machine's DNS")


def answer(status: int = 200, *, date: str = "", body: bytes = b"", at: float = 1_000_000_000.0) -> Contact:
    """An answer that took 20 ms, at `at` of the wall clock."""
    headers = {"date": date} if date else {}
    return Contact(status=status, headers=headers, sent_at=at, received_at=at + 0.02, body=body)

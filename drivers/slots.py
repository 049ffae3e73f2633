"""How many turns a local server says it works on at once: whom to ask what, as data, and the asking.

Owns one GET and what is read out of its answer. Leaves to the worker when to ask, to the runtime what to make of it.

Who tells, through a documented GET that takes the key of the turns, or none:
- llama.cpp: `total_slots` of /props, https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md (as a
  router of several models it tells none);
- LM Studio from 0.4 on: `parallel` of every loaded model, https://lmstudio.ai/docs/developer/rest/list.
Who does not: Ollama (OLLAMA_NUM_PARALLEL is in no answer, https://github.com/ollama/ollama/issues/9564); vLLM
(/server_info is for development only, https://github.com/vllm-project/vllm/pull/16572, and max_num_seqs is no metric);
SGLang (/server_info has it under names that changed, and beside keys that are nobody's business,
https://github.com/sgl-project/sglang/issues/30166).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import trio

from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.wire import Auth, HttpRequest, Transport

ASK_S = 3.0
"""From the question to the end of its answer. Both servers answer from memory; one that is loading a model may not."""
MAX_ANSWER_BYTES = 2 * 2**20
"""/props has the chat template in it, some ten KB; LM Studio lists every downloaded model, about one KB each."""
MOST_SLOTS = 100_000
"""A number beyond this is none of slots."""
_WIRE_PATHS = ("/chat/completions", "/messages", "/v1")  # ends that a base_url may have; the answers lie beside them

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SlotsQuestion:
    """`path`: from where base_url's /v1 begins. `members`: of the JSON answer, from outside in; "*": each of a list.

    Of several numbers the smallest counts: a turn may go to any of the models.
    """

    path: str
    members: tuple[str, ...]


QUESTIONS: Mapping[str, SlotsQuestion] = {
    "llamacpp": SlotsQuestion("/props", ("total_slots",)),
    "lmstudio": SlotsQuestion("/api/v1/models", ("models", "*", "loaded_instances", "*", "config", "parallel")),
}
"""By vendor, whatever the wire."""


def slots_request(settings: ProviderSettings) -> HttpRequest | None:
    """What to ask the provider's server; None for one that does not tell, or whose number somebody wrote down.

    Its connection is not kept, so that no turn meets one that an odd server has left half read.
    """
    question = QUESTIONS.get(settings.vendor)
    if question is None or not settings.adaptive:
        return None
    try:
        parts = urlsplit(settings.base_url)
    except ValueError:  # the transport says what is wrong with it
        return None
    path = parts.path.rstrip("/")
    for end in _WIRE_PATHS:
        path = path.removesuffix(end)
    url = urlunsplit((parts.scheme, parts.netloc, path + question.path, "", ""))
    given = {name.lower(): value for name, value in settings.headers.items()}
    return HttpRequest(method="GET", url=url, headers={"accept": "application/json", **given, "connection": "close"})


def read_slots(vendor: str, body: bytes) -> int | None:
    """The slots that an answer with status 200 tells; None when it tells none, or no sensible number. Never raises."""
    try:
        plain = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return min((value for value in _find(plain, QUESTIONS[vendor].members) if _is_count(value)), default=None)


def _find(plain: Any, members: tuple[str, ...]) -> Iterator[Any]:
    if not members:
        yield plain
        return
    first, *rest = members
    if first == "*" and isinstance(plain, list):
        for item in plain:
            yield from _find(item, tuple(rest))
    elif isinstance(plain, dict) and first in plain:
        yield from _find(plain[first], tuple(rest))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_SLOTS


async def ask_slots(settings: ProviderSettings, auth: Auth, transport: Transport) -> int | None:
    """Ask the server once. None after ASK_S, and whenever it does not tell; never raises: it is no turn's business."""
    try:
        with trio.move_on_after(ASK_S):
            if (request := slots_request(settings)) is None:
                return None
            async with transport.open(await auth.sign(request)) as response:
                if response.status != 200:
                    log.debug("asked for its slots, the server answers %d", response.status)
                    return None
                body = bytearray()
                async for data in response:
                    body += data
                    if len(body) > MAX_ANSWER_BYTES:
                        return None
            return read_slots(settings.vendor, bytes(body))
    except Exception as exc:  # noqa: BLE001 - a server that does not tell may do so in any way
        log.debug("asked for its slots, the server does not tell: %s", type(exc).__name__)
    return None

"""What can be done to a provider during a rehearsal, and how a person names it: `--fault PROVIDER=NAME`.

Two sorts: what the provider itself does (the simulator's, all its requests meet it for the whole run), and what happens
to the provider's worker process (the rehearsal's own, once, half way).
The simulator's names and what they do: drivers/simulator/faults.py, kept equal by a test: this side may not import it.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

PROVIDER_FAULTS: Mapping[str, str] = {
    "slow": "the first token comes late, but within the timeouts",
    "silence": "the request is taken, nothing ever comes back",
    "comments": "keep-alive comments, for ever, and no event",
    "cut": "the connection is closed in the middle of the answer",
    "malformed": "one event in the middle is not what it should be",
    "error-event": "the answer turns into an error in the middle, with status 200",
    "stall": "the answer stops in the middle, the connection stays",
    "endless": "the answer is whole, its body never ends",
    "reset": "the connection is reset before the answer",
    "reset-midway": "the connection is reset in the middle of the answer",
    "drip": "the answer comes a few bytes at a time",
    "huge": "the body is larger than anybody wants",
    "wrong-type": "status 200 with a web page, as proxies do",
    "401": "the key is rejected",
    "429": "rate limit, with Retry-After",
    "quota": "429 for an account without credit",
    "quota-reset": "a plan's quota is used up, and whole again a while later; MiniMax, GLM and Claude say when",
    "500": "the server failed",
    "503": "the server is overloaded or down",
    "529": "the server is overloaded",
    "context": "the request is longer than the model's context",
    "no-model": "the model does not exist",
}
WORKER_FAULTS: Mapping[str, str] = {
    "kill-worker": "half way, the provider's worker process gets SIGKILL",
    "stop-worker": "half way, the provider's worker process gets SIGSTOP",
}
FAULTS: Mapping[str, str] = {**PROVIDER_FAULTS, **WORKER_FAULTS}


class UnusableFault(ValueError):
    """A `--fault` that cannot be done; the text says why and what to write instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """`of_provider`: provider -> one of PROVIDER_FAULTS. `of_worker`: provider -> some of WORKER_FAULTS."""

    of_provider: Mapping[str, str]
    of_worker: Mapping[str, tuple[str, ...]]

    def named(self, provider: str) -> tuple[str, ...]:
        """All that is done to this provider."""
        own = self.of_provider.get(provider)
        return ((own,) if own else ()) + self.of_worker.get(provider, ())

    def to_plain(self) -> dict[str, list[str]]:
        return {name: list(self.named(name)) for name in sorted({*self.of_provider, *self.of_worker})}


def read_faults(words: Iterable[str], providers: Collection[str]) -> Faults:
    """What "PROVIDER=NAME" words ask for. `providers`: those of the configuration. Raises UnusableFault."""
    of_provider: dict[str, str] = {}
    of_worker: dict[str, tuple[str, ...]] = {}
    for word in words:
        provider, sign, name = word.partition("=")
        if not (provider and sign and name):
            raise UnusableFault(f"{word!r} is not PROVIDER=FAULT, such as {next(iter(providers), 'ollama')}=cut")
        if provider not in providers:
            raise UnusableFault(f"there is no provider {provider!r}{instead(provider, providers, 'configured')}")
        if name not in FAULTS:
            raise UnusableFault(f"there is no fault {name!r}{instead(name, FAULTS, 'faults')}")
        if name in WORKER_FAULTS:
            of_worker[provider] = tuple(dict.fromkeys((*of_worker.get(provider, ()), name)))
        elif of_provider.setdefault(provider, name) != name:
            both = f"{of_provider[provider]!r} and {name!r}"
            raise UnusableFault(f"{provider} cannot do {both} at once; rehearse them one after the other")
    return Faults(of_provider=of_provider, of_worker=of_worker)


def instead(name: str, known: Iterable[str], heading: str) -> str:
    """The end of a sentence about an unknown name: the near one, and all there are."""
    names = list(known)
    begun = [known for known in names if name and known.startswith(name.lower())]
    near = begun or difflib.get_close_matches(name.lower(), names, n=1)
    guess = f"; did you mean {near[0]!r}?" if near else ";"
    return f"{guess} {heading}: {', '.join(names)}"

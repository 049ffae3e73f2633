"""A local Ollama: is it there, are the routed models pulled, how many turns does it run at once.

Asked by its own API, which costs nothing: GET /api/tags lists what is pulled
(https://github.com/ollama/ollama/blob/main/docs/api.md). How many turns it runs is set by OLLAMA_NUM_PARALLEL in its
own environment, one by default, and it tells nobody: this shell and its systemd unit are where to look.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator
from urllib.parse import urlsplit, urlunsplit

from loopforge.drivers.registry import ProviderSettings
from loopforge.runtime.config.base_url import OLLAMA_PORT
from loopforge.runtime.config.paths import Environment
from loopforge.runtime.config.values import Config
from loopforge.runtime.doctor.dial import Contact, Dial, NoContact, Progress
from loopforge.runtime.doctor.finding import Finding, error, ok, warn
from loopforge.runtime.doctor.routes import Routed

FindProgram = Callable[[str], str | None]

INSTALL = "https://ollama.com/download"
_PARALLEL = re.compile(r"OLLAMA_NUM_PARALLEL=\"?(\d+)")


def is_local_ollama(settings: ProviderSettings) -> bool:
    """Whether an Ollama of one's own is meant, not the vendor's cloud."""
    host = urlsplit(settings.base_url).hostname or ""
    return settings.vendor == "ollama" and host != "ollama.com" and not host.endswith(".ollama.com")


def tags_url(base_url: str) -> str:
    """Where the models are listed: http://HOST:11434/v1 -> http://HOST:11434/api/tags."""
    parts = urlsplit(base_url)
    path = parts.path.rstrip("/").removesuffix("/v1")
    return urlunsplit((parts.scheme, parts.netloc, f"{path}/api/tags", "", ""))


async def judge_models(target: Routed, dial: Dial, progress: Progress) -> list[Finding]:
    """Whether the routed models are pulled, of an Ollama that is there."""
    try:
        contact = await dial("GET", tags_url(target.settings.base_url), progress)
    except NoContact as exc:
        return [warn("ollama", f"its models are not known: {exc.what}", exc.next_step, subject=target.settings.name)]
    return list(_judge_models(target, contact))


def _judge_models(target: Routed, contact: Contact) -> Iterator[Finding]:
    name = target.settings.name
    pulled = read_models(contact)
    if pulled is None:
        what = f"what listens on {_place(target)} does not list models as Ollama does (status {contact.status})"
        yield warn("ollama", what, f"check base_url and vendor of [providers.{name}]", subject=name)
        return
    for model in target.models:
        if is_pulled(model, pulled):
            yield ok("ollama", f"{model} is pulled", subject=name)
        else:
            some = ", ".join(sorted(pulled)[:5])
            have = f"; pulled are {some}{', …' if len(pulled) > 5 else ''}" if pulled else "; no model is pulled yet"
            yield error("ollama", f"the model {model} is not pulled{have}", pull(model, target), subject=name)


def read_models(contact: Contact) -> set[str] | None:
    """Names of the models that GET /api/tags lists; None when this is another answer."""
    if contact.status != 200:
        return None
    try:
        listed = json.loads(contact.body)["models"]
        return {str(entry["name"]) for entry in listed}
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def is_pulled(model: str, pulled: Collection[str]) -> bool:
    """A name without a tag means its tag latest; Ollama does not mind upper and lower case."""
    return _full(model) in {_full(name) for name in pulled}


def _full(name: str) -> str:
    return (name if ":" in name.rpartition("/")[2] else f"{name}:latest").lower()


def absent(target: Routed, find_program: FindProgram) -> Finding:
    """For an Ollama on this machine that nobody answers for: installed or not decides what to do."""
    name = target.settings.name
    if find_program("ollama") is None:
        models = " and ".join(pull(model, target) for model in target.models)
        what = "Ollama is not installed here, or not on the PATH"
        return error("ollama", what, f"install Ollama from {INSTALL}, then {models}", subject=name)
    host = _host_variable(target)
    return error("ollama", "Ollama is installed and does not run", f"start Ollama: {host}ollama serve", subject=name)


def pull(model: str, target: Routed) -> str:
    """The command that pulls a model to where the provider is."""
    return f"{_host_variable(target)}ollama pull {model}"


def _host_variable(target: Routed) -> str:
    parts = urlsplit(target.settings.base_url)
    if parts.hostname in ("127.0.0.1", "localhost", "::1") and parts.port == OLLAMA_PORT:
        return ""
    return f"OLLAMA_HOST={parts.netloc} "


def _place(target: Routed) -> str:
    return urlsplit(target.settings.base_url).netloc


# -- turns at once ---------------------------------------------------------------------------------------------------


def read_parallel(env: Environment, unit_environment: str) -> int | None:
    """OLLAMA_NUM_PARALLEL as far as it can be seen from here. `unit_environment`: of Ollama's systemd unit, or ""."""
    for text in (unit_environment, f"OLLAMA_NUM_PARALLEL={env.get('OLLAMA_NUM_PARALLEL', '')}"):
        if found := _PARALLEL.search(text):
            return int(found[1])
    return None


def judge_parallel(config: Config, target: Routed, parallel: int | None) -> Iterator[Finding]:
    """What its slots mean for whoever waits: the queue cannot keep one free that the server does not have."""
    name = target.settings.name
    waiting = [kind for kind in target.kinds if config.routes[kind].lane == "interactive"]
    others = [kind for kind in target.kinds if config.routes[kind].lane != "interactive"]
    if not waiting or not others:
        return
    behind = f"{', '.join(waiting)} waits behind one running turn of {', '.join(others)}"
    step = "set OLLAMA_NUM_PARALLEL=2 in Ollama's own environment and restart it"
    if parallel is None:
        what = f"unless OLLAMA_NUM_PARALLEL says more, Ollama runs one turn at a time: {behind}"
        yield ok("ollama", what, step, subject=name)
    elif parallel == 1:
        yield warn("ollama", f"OLLAMA_NUM_PARALLEL is 1: {behind}", step, subject=name)
    elif parallel > 1:
        slots = target.settings.max_concurrency
        sent = f"{slots} to begin with, then what it keeps up with" if target.settings.adaptive else f"at most {slots}"
        yield ok("ollama", f"runs {parallel} turns at once, is sent {sent}", subject=name)

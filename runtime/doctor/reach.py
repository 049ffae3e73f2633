"""Whether a provider's base URL is reached, without a key and without a turn: nothing here can be billed.

HEAD of the base URL itself: any answer, be it 401 or 404, shows that name, network, proxy and TLS are right; its Date
header is the provider's clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from loopforge.runtime.config.base_url import is_loopback
from loopforge.runtime.doctor.clock import Reading, read_clock
from loopforge.runtime.doctor.dial import Contact, Dial, NoContact, Progress, Stage
from loopforge.runtime.doctor.finding import Finding, error, ok, warn
from loopforge.runtime.doctor.keys import signs_with_clock
from loopforge.runtime.doctor.routes import Routed

_DOWN = frozenset((502, 503, 504, 521, 522, 523, 529))  # a gateway whose server is away


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """`contact`: None when there was none; `failed_at` says how far it got."""

    findings: tuple[Finding, ...]
    contact: Contact | None = None
    failed_at: Stage | None = None
    reading: Reading | None = None


async def reach(target: Routed, url: str, dial: Dial, progress: Progress) -> Reached:
    """Ask for the head of `url`, the provider's base URL or what stands for it."""
    name = target.settings.name
    try:
        contact = await dial("HEAD", url, progress)
    except NoContact as exc:
        found = _unreached(target, exc.what, _name_provider(exc.next_step, name))
        return Reached(findings=(found,), failed_at=exc.stage)
    reading = None if is_loopback(url) else read_clock(contact, name, signs=signs_with_clock(target.settings))
    return Reached(findings=tuple(_judge(target, contact, progress)), contact=contact, reading=reading)


def timed_out(target: Routed, progress: Progress, timeout_s: float) -> Finding:
    """The finding for an attempt that took too long."""
    what = f"{progress.place or target.settings.base_url}: no end of the {progress.stage} within {timeout_s:g} s"
    match progress.stage:
        case "name look-up":
            step = "check this machine's DNS"
        case "connection":
            step = "check the network, firewall and proxy variables (HTTPS_PROXY), or give it longer with --timeout-ms"
        case _:
            step = "try again with a longer --timeout-ms; if it stays, check the proxy, or ask the provider"
    return _unreached(target, what, step)


def _judge(target: Routed, contact: Contact, progress: Progress) -> Iterator[Finding]:
    name = target.settings.name
    took_ms = (contact.received_at - contact.sent_at) * 1000
    how = ", ".join(filter(None, [contact.tls, f"by the proxy {contact.via}" if contact.via else ""]))
    if contact.status in _DOWN:
        what = f"{progress.place} is reached, and answers {contact.status}: the provider's servers are away"
        yield warn("reachable", what, "try again later, or see the provider's status page", subject=name)
        return
    told = f"{progress.place} answers" + (f" in {took_ms:.0f} ms" if took_ms >= 0 else "")
    yield ok("reachable", f"{told} ({how})" if how else told, subject=name)


def _unreached(target: Routed, what: str, step: str) -> Finding:
    """An error where turns begin; a fallback that is away delays nobody yet."""
    judge = error if target.first else warn
    return judge("reachable", what, step, subject=target.settings.name)


def _name_provider(step: str, name: str) -> str:
    return step.replace("base_url", f"base_url of [providers.{name}]", 1)

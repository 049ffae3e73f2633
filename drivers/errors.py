"""What went wrong with a turn, named for what the caller does next.

Code branches on class and fields, never on text; the text ends with the action. An error crosses a channel as its
class name and fields (`to_fields`, `from_fields`), never pickled. Which class means what: design of the retry table
in runtime/retry.py; which provider answer means which class: each driver's `explain`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from loopforge.drivers.turn import Message

Scope = Literal["provider", "model", "turn"]
MAX_QUOTE = 500

_BY_NAME: dict[str, type[TurnError]] = {}


class TurnError(Exception):
    """Base of every way a turn fails.

    `provider`, `model`: whose failure; "" when it is nobody's. `what`: what happened, a clause without a full stop.
    `action`: what the person or program does next. `retry_after_s`: seconds, when somebody named a time.
    `reset_at`: unix seconds at which a quota is whole again. `scope`: what the failure says something about.
    `status`: HTTP status, `raw`: the provider's own code or word, `request_id`: the provider's.
    `started`: events of this attempt had been produced. `partial`: what had come, as a message.
    """

    default_what: ClassVar[str] = "the turn failed"
    default_action: ClassVar[str] = "see the daemon's log"
    default_scope: ClassVar[Scope] = "turn"

    def __init_subclass__(cls) -> None:
        _BY_NAME[cls.__name__] = cls

    def __init__(
        self,
        provider: str = "",
        what: str = "",
        *,
        action: str = "",
        model: str = "",
        retry_after_s: float | None = None,
        reset_at: float | None = None,
        scope: Scope | None = None,
        status: int | None = None,
        raw: str = "",
        request_id: str = "",
        started: bool = False,
        partial: Message | None = None,
    ) -> None:
        self.provider = provider
        self.model = model
        self.what = what or self.default_what
        self.retry_after_s = retry_after_s
        self.reset_at = reset_at
        self.scope: Scope = scope or self.default_scope
        self.status = status
        self.raw = raw
        self.request_id = request_id
        self.started = started
        self.partial = partial
        self.action = action or self.next_step()
        super().__init__(self.describe())

    def next_step(self) -> str:
        """The action when nobody gave one."""
        return self.default_action

    def describe(self) -> str:
        who = f"{self.provider}: " if self.provider else ""
        return f"{who}{self.what}; {self.action}"

    def to_fields(self) -> dict[str, Any]:
        """Plain values for a channel or for JSON; `partial` travels on its own, as a message."""
        fields: dict[str, Any] = {"class": type(self).__name__, "what": self.what, "action": self.action}
        for name in ("provider", "model", "retry_after_s", "reset_at", "scope", "status", "raw", "request_id"):
            if (value := getattr(self, name)) not in (None, ""):
                fields[name] = value
        if self.started:
            fields["started"] = True
        return fields

    @staticmethod
    def from_fields(fields: dict[str, Any], partial: Message | None = None) -> TurnError:
        """The error that `to_fields` described. A class this version does not know becomes a plain TurnError."""
        known = dict(fields)
        cls = _BY_NAME.get(str(known.pop("class", "")), TurnError)
        try:
            return cls(known.pop("provider", ""), known.pop("what", ""), partial=partial, **known)
        except TypeError:
            return cls(str(fields.get("provider", "")), str(fields.get("what", "")), partial=partial)


class DriverError(TurnError):
    """A provider, or the way to it, failed. Drivers and the transport raise only these."""

    default_scope: ClassVar[Scope] = "provider"


class RateLimited(DriverError):
    """Too many turns. `retry_after_s` is None when the provider gave no time."""

    default_what = "rate limit reached"
    default_scope: ClassVar[Scope] = "model"

    def next_step(self) -> str:
        when = "after a back-off" if self.retry_after_s is None else f"in {self.retry_after_s:g} s"
        return f"resend this turn {when}"


class Overloaded(DriverError):
    """The provider has no room at the moment."""

    default_what = "the provider is overloaded"
    default_scope: ClassVar[Scope] = "model"

    def next_step(self) -> str:
        when = "after a back-off" if self.retry_after_s is None else f"in {self.retry_after_s:g} s"
        return f"resend this turn {when} or route it elsewhere"


class ProviderUnavailable(DriverError):
    """No connection, a 5xx, or no event in time: nothing of the answer had come."""

    default_what = "the provider could not be reached"
    default_action = "resend this turn after a back-off or route it elsewhere"


class StreamBroken(DriverError):
    """The answer was cut: the end of the body came before the wire's own end sign."""

    default_what = "the answer was cut short"
    default_action = "resend this turn; it may be billed again"
    default_scope: ClassVar[Scope] = "model"


class Stalled(DriverError):
    """Events had come, then none for longer than the route allows."""

    default_what = "the answer stopped coming"
    default_action = "resend this turn; raise event_gap_timeout_s if the model is merely slow"
    default_scope: ClassVar[Scope] = "model"


class QuotaExhausted(DriverError):
    """Balance, spend or plan limit. `reset_at` is None when the provider did not name the time."""

    default_what = "the account's quota is used up"
    default_action = "top up the account or wait for the reset; route this kind elsewhere meanwhile"


class CredentialsRejected(DriverError):
    """The key is missing, wrong or expired."""

    default_what = "the provider rejected the API key"
    default_action = "set the key variable named by api_key_env and restart the service"


class PermissionDenied(DriverError):
    """The key is good but not for this."""

    default_what = "the key may not do this"
    default_action = "ask for access in the provider's console or route this kind elsewhere"
    default_scope: ClassVar[Scope] = "model"


class ModelNotFound(DriverError):
    """The provider does not know the model."""

    default_what = "the provider does not know the model"
    default_action = "correct the model in config.toml"
    default_scope: ClassVar[Scope] = "model"


class ContextTooLong(DriverError):
    """The turn does not fit the model's window."""

    default_what = "the turn is longer than the model's context window"
    default_action = "shorten the messages or route to a model with a larger window"
    default_scope: ClassVar[Scope] = "turn"


class ContentFiltered(DriverError):
    """The provider's moderation blocked the turn."""

    default_what = "the provider's content filter blocked the turn"
    default_action = "change the messages or route to another provider"
    default_scope: ClassVar[Scope] = "turn"


class TurnRefused(DriverError):
    """The request itself is wrong for this provider."""

    default_what = "the provider refused the request"
    default_action = "change the turn"
    default_scope: ClassVar[Scope] = "turn"


class GenerationFailed(DriverError):
    """The model's own generation failed, also with HTTP 200. `raw` is the provider's word."""

    default_what = "the generation failed at the provider"
    default_action = "resend this turn"
    default_scope: ClassVar[Scope] = "model"


class WireMismatch(DriverError):
    """The answer is not what this wire says. Our bug, or a proxy in between."""

    default_what = "the answer does not follow the provider's protocol"
    default_action = "check base_url and kind; if they are right, report this as a bug of LoopForge"


class WorkerLost(TurnError):
    """The worker process died with this turn in flight; the provider may have billed it."""

    default_what = "the provider's worker process died during the turn"
    default_action = "post the turn again; it may be billed again"
    default_scope: ClassVar[Scope] = "provider"


class DriverMissing(TurnError):
    """This build has no driver of the provider's kind."""

    default_what = "there is no driver for this provider's kind"
    default_action = "route this kind to another provider"
    default_scope: ClassVar[Scope] = "provider"


def quote(data: bytes | str, limit: int = MAX_QUOTE) -> str:
    """The first `limit` characters of what a provider sent, on one line, for an error's text.

    Without control characters: the text may be printed on a terminal, which obeys them.
    """
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    text = " ".join(text[: 8 * limit].split())
    text = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"

"""How the runtime itself refuses or ends a turn. They cross channels as drivers/errors.py describes."""

from __future__ import annotations

from typing import ClassVar

from loopforge.drivers.errors import Scope, TurnError


class NoRoute(TurnError):
    """No provider may serve this turn."""

    default_what = "no route for this turn"
    default_action = "see 'loopforge config show' for the routes and correct [router.KIND] in config.toml"


class QueueFull(TurnError):
    """The provider's queue has reached max_queued or max_queued_bytes. `retry_after_s` is an estimate."""

    default_what = "the provider's queue is full"

    def next_step(self) -> str:
        when = "later" if self.retry_after_s is None else f"in about {self.retry_after_s:.0f} s"
        return f"post the turn again {when}, or raise max_queued"


class TooLarge(TurnError):
    """The turn is larger than [runtime] max_request_mb."""

    default_what = "the turn is too large"
    default_action = "send less, or raise max_request_mb in [runtime]"


class BadTurn(TurnError):
    """The turn is not well formed; the text names the place."""

    default_what = "the turn is malformed"
    default_action = "correct the turn"


class IdConflict(TurnError):
    """Another turn with this id and another body exists."""

    default_what = "this id belongs to another turn"
    default_action = "choose another id, or post the same turn, with the same deadline_s and options"


class UnknownTurn(TurnError):
    """Nobody knows a turn of this id."""

    default_what = "there is no turn of this id"
    default_action = "check the id; outcomes are kept for a limited time"


class DeadlineExceeded(TurnError):
    """The turn's deadline came before its outcome."""

    default_what = "the turn's deadline passed"
    default_action = "post it again under another id with a larger deadline_s"  # which is part of what an id stands for


class ProviderDown(TurnError):
    """The provider's worker is down: it crashed too often, or it cannot start."""

    default_what = "the provider's worker is down"
    default_scope: ClassVar[Scope] = "provider"

    def next_step(self) -> str:
        when = "see 'loopforge status'" if self.retry_after_s is None else f"post again in {self.retry_after_s:.0f} s"
        return f"{when}, or route this kind elsewhere"


class Draining(TurnError):
    """The service is stopping and takes no new turns."""

    default_what = "the service is stopping"
    default_action = "post the turn again when it is back"


class JournalFailed(TurnError):
    """The journal could not write or read; nothing of that operation is on disk. For a new turn: it is not accepted."""

    default_what = "the journal failed"
    default_action = "see the daemon's log, then post the turn again"


class SlowConsumer(TurnError):
    """The client read too slowly; its connection was closed."""

    default_what = "the client reads too slowly"
    default_action = "read events as they come; attach again to go on"


class ConnectionLost(TurnError):
    """The connection to the service broke before the outcome arrived."""

    default_what = "the connection to the service was lost"
    default_action = "see 'loopforge status'; ask again when the service is back"


class VersionMismatch(TurnError):
    """Client or worker and service are of different versions."""

    default_what = "another version of LoopForge is running"
    default_action = "restart the service"


class TurnCancelled(TurnError):
    """Somebody cancelled the turn, or the client that posted it left."""

    default_what = "the turn was cancelled"
    default_action = "post it again if you still want it"


class BadConfig(TurnError):
    """The configuration has problems; the text names each with file and line."""

    default_what = "the configuration has problems"
    default_action = "correct them and run 'loopforge config validate'"

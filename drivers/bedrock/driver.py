"""The driver: one provider's settings, and the three things that are done with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from loopforge.drivers.bedrock.draft import Draft
from loopforge.drivers.bedrock.failures import Asked, explain
from loopforge.drivers.bedrock.families import Family, family_of
from loopforge.drivers.bedrock.model_ids import addressed, bare_id, path_of
from loopforge.drivers.bedrock.reader import ConverseReader
from loopforge.drivers.bedrock.request import answer_tool, build_body, is_streamed
from loopforge.drivers.errors import DriverError, TurnRefused
from loopforge.drivers.registry import AWS_DECIDES, AwsSettings, ProviderSettings
from loopforge.drivers.turn import JsonObject, Turn
from loopforge.drivers.wire import HttpRequest

_FRAMES = "application/vnd.amazon.eventstream"


def open_driver(settings: ProviderSettings) -> Bedrock:
    """The driver of one [providers.NAME] table. Without a base_url the request leaves the endpoint to AWS's rules."""
    return Bedrock(
        provider=settings.name,
        base_url=(settings.base_url or AWS_DECIDES).rstrip("/"),
        aws=settings.aws_bedrock or AwsSettings(),
        headers={name.lower(): value for name, value in settings.headers.items()},
        extra_body=settings.extra_body,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bedrock:
    """One provider on this wire. `headers`, `extra_body`: the person's own, put over what the driver writes."""

    provider: str
    base_url: str
    aws: AwsSettings = field(default_factory=AwsSettings)
    headers: Mapping[str, str] = field(default_factory=dict)
    extra_body: JsonObject = field(default_factory=dict)

    def build_request(self, turn: Turn) -> HttpRequest:
        """POST /model/ID/converse or converse-stream. Raises TurnRefused for what this model cannot be asked at all."""
        draft = self._draft(turn)
        body = self._body(turn, draft)
        streamed = is_streamed(turn, body, draft.family)
        return HttpRequest(
            url=self.base_url + path_of(self._addressed(turn), stream=streamed),
            headers={
                "content-type": "application/json",
                "accept": _FRAMES if streamed else "application/json",
                **self.headers,
            },
            body=draft.to_bytes(body),
        )

    def notices(self, turn: Turn) -> tuple[str, ...]:
        """What of the turn will not be sent, or not as asked for. Empty for a turn that build_request refuses."""
        draft = self._draft(turn, with_media=False)
        try:
            body = self._body(turn, draft)
        except TurnRefused:
            return ()
        if turn.stream and not is_streamed(turn, body, draft.family):
            draft.note(f"{draft.who} does not stream with tools: the answer comes whole")
        return tuple(draft.notices)

    def new_reader(self, turn: Turn, headers: Mapping[str, str]) -> ConverseReader:
        """A reader for the response with status 200."""
        return ConverseReader(self._asked(turn), turn, headers, answer_tool=answer_tool(turn, self._family(turn)))

    def explain(self, turn: Turn, status: int, headers: Mapping[str, str], body: bytes) -> DriverError:
        """The error that a response with another status is."""
        return explain(self._asked(turn), status, headers, body)

    def _family(self, turn: Turn) -> Family:
        return family_of(bare_id(turn.model, self.aws.base_models))

    def _addressed(self, turn: Turn) -> str:
        """The id with the prefix of `cross_region`, where the model has such a profile."""
        wanted = turn.model not in self.aws.without_prefix and self._family(turn).profiles
        return addressed(turn.model, self.aws.cross_region) if wanted else turn.model

    def _draft(self, turn: Turn, *, with_media: bool = True) -> Draft:
        return Draft(provider=self.provider, model=turn.model, family=self._family(turn), with_media=with_media)

    def _body(self, turn: Turn, draft: Draft) -> JsonObject:
        if not turn.model:
            raise draft.refuse("no model is named", "set default_model of the provider, or the route's model")
        try:
            return build_body(turn, draft, self.extra_body)
        except (ValueError, TypeError, RecursionError) as exc:
            raise draft.refuse(f"a schema of the turn is malformed: {exc}", "correct the schema") from exc

    def _asked(self, turn: Turn) -> Asked:
        return Asked(provider=self.provider, model=turn.model, prefixed=self._addressed(turn) != turn.model)

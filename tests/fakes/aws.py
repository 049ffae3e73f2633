"""AWS on loopback: whoever gives credentials (metadata service, STS, SSO, container), and a Bedrock that checks SigV4.

The signature is verified from AWS's description of it, without botocore:
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import h11
import trio

ROLE = "role/with-access"
ANSWER = {
    "output": {"message": {"role": "assistant", "content": [{"text": "signed"}]}},
    "stopReason": "end_turn",
    "usage": {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2},
}
_STS = """<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{action}Result><Credentials>
<AccessKeyId>{key}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey><SessionToken>{token}</SessionToken>
<Expiration>{expiration}</Expiration></Credentials></{action}Result></{action}Response>"""
_STS_ERROR = "<ErrorResponse><Error><Code>AccessDenied</Code><Message>no, {secret}</Message></Error></ErrorResponse>"


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class FakeAws:
    """`lives`: how long credentials are good that are given out. `given`: keys given so far, by number.

    `asked`: the path of each request; `turns`: those to Bedrock that were signed well. `refuses`: services that say no.
    `sso_token`: what an SSO request must bring; `refreshed_token`: what refreshing one gives. `expired`: keys that
    Bedrock takes for outdated.
    """

    port: int = 0
    lives: timedelta = timedelta(hours=6)
    given: int = 0
    asked: list[str] = field(default_factory=list)
    turns: list[Request] = field(default_factory=list)
    refuses: set[str] = field(default_factory=set)
    sso_token: str = "sso-token"
    refreshed_token: str = "sso-token-2"
    web_token: str = "web-token"
    signed_by: list[str] = field(default_factory=list)
    secrets: dict[str, str] = field(default_factory=dict)
    expired: set[str] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        """Variables that send whoever looks for credentials here, and nowhere else."""
        return {
            "AWS_ENDPOINT_URL_STS": self.url,
            "AWS_ENDPOINT_URL_SSO": self.url,
            "AWS_ENDPOINT_URL_SSO_OIDC": self.url,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"{self.url}/imds/",
        }

    def answer(self, request: Request) -> tuple[int, str]:
        """Status and body."""
        path = urlsplit(request.target).path
        self.asked.append(path)
        if path.startswith("/imds/"):
            return self._metadata(request, path.removeprefix("/imds"))
        if path.startswith("/model/"):
            return self._bedrock(request)
        match path:
            case "/federation/credentials":
                return self._sso(request)
            case "/token":
                return 200, json.dumps({"accessToken": self.refreshed_token, "expiresIn": 3600, "tokenType": "Bearer"})
            case "/container":
                return 200, json.dumps(self._credentials())
            case "/":
                return self._sts(request)
        return 404, "{}"

    def _credentials(self) -> dict[str, str]:
        self.given += 1
        key, secret = f"AKID{self.given}", f"secret-{self.given}"
        self.secrets[key] = secret
        expiration = (datetime.now(UTC) + self.lives).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {"AccessKeyId": key, "SecretAccessKey": secret, "Token": f"token-{self.given}", "Expiration": expiration}

    def _metadata(self, request: Request, path: str) -> tuple[int, str]:
        """Version 2: a token is had by PUT, and everything else asks for it."""
        if "imds" in self.refuses:
            return 500, ""
        if path == "/latest/api/token":
            return (200, "imds-token") if request.method == "PUT" else (405, "")
        if request.headers.get("x-aws-ec2-metadata-token") != "imds-token":
            return 401, ""
        if path.endswith("/security-credentials/"):
            return 200, "instance-role"
        return 200, json.dumps({"Code": "Success", "Type": "AWS-HMAC", **self._credentials()})

    def _sts(self, request: Request) -> tuple[int, str]:
        asked = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
        action = asked["Action"]
        if "sts" in self.refuses or asked.get("WebIdentityToken", self.web_token) != self.web_token:
            return 403, _STS_ERROR.format(secret="hidden-detail")
        made = self._credentials()
        filled = {"key": made["AccessKeyId"], "secret": made["SecretAccessKey"], "token": made["Token"]}
        return 200, _STS.format(action=action, expiration=made["Expiration"], **filled)

    def _sso(self, request: Request) -> tuple[int, str]:
        if request.headers.get("x-amz-sso_bearer_token") not in (self.sso_token, self.refreshed_token):
            return 401, json.dumps({"message": "Session token not found or invalid"})
        made = self._credentials()
        expires = int((datetime.now(UTC) + self.lives).timestamp() * 1000)
        return 200, json.dumps({
            "roleCredentials": {
                "accessKeyId": made["AccessKeyId"], "secretAccessKey": made["SecretAccessKey"],
                "sessionToken": made["Token"], "expiration": expires,
            }
        })  # fmt: skip

    def _bedrock(self, request: Request) -> tuple[int, str]:
        if wrong := wrong_signature(request, self.secrets):
            return 403, json.dumps({"message": wrong, "__type": "InvalidSignatureException"})
        signer = request.headers["authorization"].partition("Credential=")[2].partition("/")[0]
        if signer in self.expired:
            expired = "The security token included in the request is expired"
            return 403, json.dumps({"message": expired, "__type": "ExpiredTokenException"})
        self.signed_by.append(signer)
        self.turns.append(request)
        return 200, json.dumps(ANSWER)


@asynccontextmanager
async def open_aws(**members: Any) -> AsyncIterator[FakeAws]:
    """Serve on a free port of 127.0.0.1 until the block ends."""
    aws = FakeAws(**members)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    aws.port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(trio.serve_listeners, partial(_serve, aws), listeners))
        try:
            yield aws
        finally:
            nursery.cancel_scope.cancel()


async def _serve(aws: FakeAws, stream: trio.SocketStream) -> None:
    connection = h11.Connection(h11.SERVER)
    async with stream:
        while (request := await _next_request(connection, stream)) is not None:
            status, body = aws.answer(request)
            headers = [("content-length", str(len(body.encode()))), ("content-type", "application/json")]
            data = connection.send(h11.Response(status_code=status, headers=headers)) or b""
            data += connection.send(h11.Data(data=body.encode())) or b""
            data += connection.send(h11.EndOfMessage()) or b""
            await stream.send_all(data)
            if connection.our_state is h11.MUST_CLOSE:
                return
            connection.start_next_cycle()


async def _next_request(connection: h11.Connection, stream: trio.SocketStream) -> Request | None:
    head: h11.Request | None = None
    body = b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            try:
                connection.receive_data(await stream.receive_some())
            except trio.BrokenResourceError:
                return None
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            headers = {name.decode(): value.decode() for name, value in head.headers}
            return Request(head.method.decode(), head.target.decode(), headers, body)
        else:
            return None


# -- SigV4 ------------------------------------------------------------------------------------------------------------


def wrong_signature(request: Request, secrets: Mapping[str, str], *, region: str = "us-east-1") -> str:
    """What is wrong with a request's signature; "" for a good one. `secrets`: by access key."""
    words = request.headers.get("authorization", "")
    algorithm, _, rest = words.partition(" ")
    if algorithm != "AWS4-HMAC-SHA256":
        return "not signed"
    fields = dict(pair.strip().split("=", 1) for pair in rest.split(","))
    key, *scope = fields["Credential"].split("/")
    moment = request.headers["x-amz-date"]
    if scope != [moment[:8], region, "bedrock", "aws4_request"]:
        return f"the scope is {scope}"
    if abs(datetime.strptime(moment, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) - datetime.now(UTC)) > timedelta(minutes=5):
        return f"Signature expired: {moment}"
    signed = fields["SignedHeaders"].split(";")
    if not {"host", "x-amz-date"} <= set(signed) or signed != sorted(signed):
        return f"signed headers are {signed}"
    if ("x-amz-security-token" in request.headers) != ("x-amz-security-token" in signed):
        return "the token is not signed"
    parts = urlsplit(request.target)
    canonical = "\n".join((
        request.method,
        quote(parts.path, safe="/-_.~"),  # encoded once more than in the request's line
        parts.query,
        *(f"{name}:{' '.join(request.headers[name].split())}" for name in signed),
        "",
        ";".join(signed),
        hashlib.sha256(request.body).hexdigest(),
    ))  # fmt: skip
    to_sign = "\n".join((algorithm, moment, "/".join(scope), hashlib.sha256(canonical.encode()).hexdigest()))
    signing_key = f"AWS4{secrets.get(key, '')}".encode()
    for word in scope:
        signing_key = hmac.digest(signing_key, word.encode(), "sha256")
    expected = hmac.digest(signing_key, to_sign.encode(), "sha256").hex()
    return "" if hmac.compare_digest(expected, fields["Signature"]) else "The request signature does not match"

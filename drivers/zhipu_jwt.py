"""Signs Zhipu's keys of the form id.secret into the short-lived tokens that the platform's own SDKs send.

The token: JWT, HS256 with the secret's bytes, header `sign_type: SIGN`, claims api_key, timestamp and exp, the times in
milliseconds (JWT's own are seconds). Lifetimes as in the SDK zhipuai 2.1 (core/_jwt_token.py). pyjwt is imported when a
key of this form is used, and only then. No key or token ends in a repr, an error or a log.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from loopforge.drivers import limits
from loopforge.drivers.auth import SecretHeaders  # which imports this module when it meets such a key
from loopforge.drivers.errors import CredentialsRejected
from loopforge.drivers.json_values import to_json
from loopforge.drivers.wire import HttpRequest

LIFETIME_S: Final = 210.0
RENEW_BEFORE_S: Final = 30.0
"""A token still lives so long when it is renewed: what is sent now arrives with a token that holds."""
CLOCK_CODES: Final = ("1002", "1003")
"""What a token made by a wrong clock is answered with: no token, token expired."""
TELLING_SKEW_S: Final = 5.0  # less is the way of the answer, and Date counts whole seconds

Clock = Callable[[], float]


def split_key(key: str) -> tuple[str, str] | None:
    """(id, secret) of a key that is to be signed; None for one that is sent as it is, such as a ready token."""
    key_id, dot, secret = key.partition(".")
    return (key_id, secret) if key_id and dot and secret and "." not in secret else None


class ZhipuJwt:
    """The auth of one id.secret key. Keeps a token until shortly before its end.

    `wall`: unix seconds, which the token carries; `monotonic`: seconds that a corrected clock does not move. Signing
    never waits, so of several turns that find the token old one renews it before the next looks.
    """

    def __init__(self, key_id: str, secret: str, *, wall: Clock = time.time, monotonic: Clock = time.monotonic) -> None:
        self._key_id = key_id
        self._signed = _open_signer(secret)
        self._wall = wall
        self._monotonic = monotonic
        self._token = ""
        self._made_wall = self._made_monotonic = 0.0

    def __repr__(self) -> str:
        return "ZhipuJwt()"

    async def sign(self, request: HttpRequest) -> HttpRequest:
        headers = SecretHeaders({**request.headers, "authorization": f"Bearer {self._fresh_token()}"})
        return replace(request, headers=headers)

    def rejected(self, error: CredentialsRejected, headers: Mapping[str, str]) -> bool:
        """Forget the token that was answered with `error`; True when a new one may do better.

        Where the answer tells its time and that is not ours, the error says so: the clock is what needs mending.
        """
        self._token = ""
        told = limits.answered_at(headers)
        if told is not None and abs(skew := self._wall() - told) >= TELLING_SKEW_S:
            error.what += f"; this machine's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} theirs"
            error.action = "set this machine's clock; if it is right, check the key"
        return error.raw in CLOCK_CODES

    def _fresh_token(self) -> str:
        """The token, made anew when either clock says that it is old: one of them stops while a machine sleeps."""
        wall, monotonic = self._wall(), self._monotonic()
        ages = (wall - self._made_wall, monotonic - self._made_monotonic)
        if not self._token or not all(0 <= age < LIFETIME_S - RENEW_BEFORE_S for age in ages):
            now_ms = round(wall * 1000)
            claims = {"api_key": self._key_id, "timestamp": now_ms, "exp": now_ms + round(LIFETIME_S * 1000)}
            self._token = self._signed(to_json(claims).encode())
            self._made_wall, self._made_monotonic = wall, monotonic
        return self._token


def _open_signer(secret: str) -> Callable[[bytes], str]:
    """A function that makes a token of its claims' JSON."""
    from jwt import PyJWS  # 60 ms that other kinds of keys do not pay
    from jwt.algorithms import HMACAlgorithm

    class PlatformsSecret(HMACAlgorithm):
        """The platform gives out secrets of 16 characters; a warning about each token would change nothing."""

        def check_key_length(self, key: bytes) -> str | None:  # noqa: ARG002 - the shape of the library's
            return None

    jws = PyJWS()
    jws.unregister_algorithm("HS256")
    jws.register_algorithm("HS256", PlatformsSecret(HMACAlgorithm.SHA256))
    key = secret.encode()
    return lambda claims: jws.encode(claims, key, algorithm="HS256", headers={"sign_type": "SIGN"})

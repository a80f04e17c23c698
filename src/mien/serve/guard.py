"""What a request has to pass before a byte of its body is read."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException

from mien.serve.service import Limits

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

RETRY_AFTER = 1  # seconds
OPEN_PATHS = ("/health",)  # tell nothing worth a token
_FORM = 64 * 1024  # bytes of a request beside its photos
_ALWAYS = [
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
]


class Guard:
    """Checks host, origin, token, size, time and how many requests there are already.

    Args:
        app: What is guarded.
        limits: Of size, number and time.
        token: That every request but those of ``OPEN_PATHS`` must bear; empty: none is needed.
        hosts: Names the service answers to; empty: any. A web page that had its own name point to
            this computer (DNS rebinding) is turned away by it.
    """

    def __init__(
        self, app: ASGIApp, limits: Limits, token: str = "", hosts: Sequence[str] = ()
    ) -> None:
        self.app, self.limits, self.hosts = app, limits, {h.lower() for h in hosts}
        self.token = token.encode()
        self.active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        send = _with_headers(send)
        headers: dict[bytes, bytes] = dict(scope["headers"])
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _answer(send, *refusal)
            return
        if scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        if self.active >= self.limits.requests:
            await _answer(send, 503, "All places are taken; try again soon.", _retry())
            return
        self.active += 1
        try:
            await self.app(scope, self._bounded(receive), send)
        finally:
            self.active -= 1

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> tuple[Any, ...] | None:
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self.hosts and _without_port(host) not in self.hosts:
            return 400, "The service does not answer to this host name."
        origin = headers.get(b"origin", b"").decode("latin-1").lower()
        if origin and origin.partition("://")[2] != host:
            return 403, "Requests of other web pages are not answered."
        if self.token and scope["path"] not in OPEN_PATHS:
            kind, _, given = headers.get(b"authorization", b"").partition(b" ")
            right = hmac.compare_digest(given.strip(), self.token)
            if kind.lower() != b"bearer" or not right:
                challenge = [(b"www-authenticate", b"Bearer")]
                return 401, "Send the token: Authorization: Bearer TOKEN.", challenge
        declared = headers.get(b"content-length", b"0")
        if scope["method"] == "POST" and declared.isdigit() and int(declared) > self._most:
            return 413, f"A request has at most {self._most:,} bytes.", [(b"connection", b"close")]
        return None

    @property
    def _most(self) -> int:
        return 2 * self.limits.max_bytes + _FORM

    def _bounded(self, receive: Receive) -> Receive:
        """Bound size and time of a body, whatever its header declares."""
        size, complete = 0, False
        end = time.monotonic() + self.limits.upload_seconds

        async def bounded() -> Message:
            nonlocal size, complete
            if complete:  # waits for the client to hang up
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.001, end - time.monotonic()))
            except (TimeoutError, asyncio.TimeoutError):
                raise HTTPException(
                    408, f"A request arrives within {self.limits.upload_seconds:g} seconds."
                ) from None
            size += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if size > self._most:
                raise HTTPException(413, f"A request has at most {self._most:,} bytes.")
            return message

        return bounded


def _retry() -> list[tuple[bytes, bytes]]:
    return [(b"retry-after", str(RETRY_AFTER).encode())]


def _without_port(host: str) -> str:
    """``[::1]:80`` → ``::1``, ``localhost:80`` → ``localhost``."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *_ALWAYS]
        await send(message)

    return sent


async def _answer(
    send: Send, status: int, detail: str, headers: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    body = json.dumps({"detail": detail}).encode()
    length = (b"content-length", str(len(body)).encode())
    head = [(b"content-type", b"application/json"), length, *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})

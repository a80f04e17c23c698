"""Start the service: who may reach it, and under which limits."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mien.files.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from mien.methods.base import Method
    from mien.serve.service import Limits

TOKEN_VARIABLE = "MIEN_TOKEN"  # noqa: S105  (a name)
_SHORTEST_TOKEN = 16
_CONNECTIONS = 1000  # open at a time; more get 503 of uvicorn
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


def serve(
    weights: str | Path | Method | Sequence[str | Path | Method] = "facecycle",
    *,
    host: str = "127.0.0.1",
    port: int = 8017,
    token: str | None = None,
    detector: str = "dlib",
    limits: Limits | None = None,
) -> None:
    """Serve weights over HTTP until interrupted.

    Nothing of a request is logged or kept, and nothing is sent anywhere else.

    Args:
        weights: Shipped names, ``.safetensors`` files, or methods; the first is the default.
        host: Address to listen on. Any but a loopback address needs a token; put a proxy that
            speaks TLS before it.
        port: To listen on.
        token: That every request must bear (``Authorization: Bearer TOKEN``); the environment
            variable MIEN_TOKEN if not given.
        detector: Face detector; ``crop`` for pictures that are face crops already.
        limits: Of size, number and time (``mien.serve.Limits``).

    Raises:
        ConfigError: No token off loopback, or one that is too short.
        MissingExtraError: The extra ``serve`` is not installed.
        WeightsError: No such weights, or a damaged file.
    """
    token = check_token(os.environ.get(TOKEN_VARIABLE, "") if token is None else token, host)
    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise MissingExtraError(error.name or "fastapi", "serve") from None
    from mien.serve.rest import create_app
    from mien.serve.service import Service

    if not isinstance(weights, Sequence) or isinstance(weights, str):
        weights = [weights]
    service = Service(weights, detector)
    hosts = _LOOPBACK_NAMES if is_loopback(host) else ()
    uvicorn.run(
        create_app(service, limits, token, hosts),
        host=host,
        port=port,
        access_log=False,
        server_header=False,
        log_level="warning",
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=10,
    )


def check_token(token: str, host: str) -> str:
    """Return the token.

    Raises:
        ConfigError: It is needed and missing, too short, or holds what no header can.
    """
    if not token and not is_loopback(host):
        raise ConfigError(
            f"{host} can be reached from other computers: set a token in {TOKEN_VARIABLE}, e.g. by "
            f"export {TOKEN_VARIABLE}=$(openssl rand -hex 32), or listen on 127.0.0.1."
        )
    if token and (len(token) < _SHORTEST_TOKEN or not token.isascii() or not token.isprintable()):
        raise ConfigError(f"A token has at least {_SHORTEST_TOKEN} printable ASCII characters.")
    return token


def is_loopback(host: str) -> bool:
    """Tell whether only this computer can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: may lead anywhere
        return False

"""A service of a method that needs no training."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx2")

from mien.faces.image import encode_image
from mien.serve import Service, create_app
from mien.serve.service import Limits

TOKEN = "0123456789abcdef"


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def jpeg(photo) -> bytes:
    return encode_image(photo, "JPEG")


@pytest.fixture
def make_client(toy_method, toy_finder):
    """Return a function that starts an application; its clients are closed at the end."""
    from starlette.testclient import TestClient

    clients = []

    def make(count: int = 1, limits: Limits | None = None, **options) -> TestClient:
        service = Service([toy_method], finder=toy_finder(count))
        headers = {"Authorization": f"Bearer {TOKEN}"} if "token" in options else {}
        client = TestClient(create_app(service, limits, **options), headers=headers)
        client.__enter__()
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.__exit__(None, None, None)

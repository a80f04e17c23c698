"""The REST interface: right answers, batches, limits, tokens, and signed pictures."""

from __future__ import annotations

import io
import json
import logging
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx2")

from PIL import Image as Pillow

from mien.edit.photos import Editor
from mien.faces.image import encode_image, read_image
from mien.faces.provenance import read_provenance
from mien.files.errors import ConfigError, WeightsError
from mien.serve import Limits, Service, create_app
from mien.serve.server import check_token, is_loopback
from mien.serve.service import Job

OPENAPI = Path(__file__).with_name("openapi.json")
TOKEN = "0123456789abcdef"


def declared(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes that declares a size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0"))


def test_embed_gives_the_codes_of_every_face(make_client, jpeg, toy_method, toy_finder) -> None:
    found = make_client(2).post("/embed", files={"photo": jpeg}).json()
    faces = toy_finder(2)([read_image(jpeg)])[0]
    codes = Editor(toy_method, finder=toy_finder(2)).encode([f.crop for f in faces])
    assert found["weights"] == "toy"
    assert [f["face"] for f in found["faces"]] == [0, 1]
    for i, face in enumerate(found["faces"]):
        assert face["box"] == pytest.approx(faces[i].box.tolist())
        assert face["yaw"] is None  # not known
        for factor, values in codes.items():
            assert face["codes"][factor] == pytest.approx(values[i].tolist())


def test_edit_is_what_the_editor_does_and_signed(
    make_client, jpeg, toy_method, toy_finder, tmp_path
) -> None:
    answer = make_client().post("/edit?task=neutralise&strength=0.5", files={"photo": jpeg})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    photo = read_image(jpeg)
    editor = Editor(toy_method, finder=toy_finder())
    expected = editor.apply("neutralise", photo, editor.find(photo), strength=0.5)
    assert np.array_equal(read_image(answer.content), expected)
    (tmp_path / "edited.png").write_bytes(answer.content)
    found = read_provenance(tmp_path / "edited.png")
    assert found is not None
    assert (found.record.task, found.record.strength, found.state) == ("neutralise", 0.5, "valid")


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_edit_with_a_driver_in_every_format(make_client, jpeg, photo, format, tmp_path) -> None:
    driver = encode_image(photo[:, ::-1])
    client, files = make_client(), {"photo": jpeg, "driver": driver}
    answer = client.post(f"/edit?task=identity&format={format}", files=files)
    assert answer.headers["content-type"] == f"image/{format}"
    (tmp_path / "edited").write_bytes(answer.content)
    found = read_provenance(tmp_path / "edited")
    assert found is not None
    assert found.record.task == "identity"


def test_strength_zero_is_the_photo(make_client, photo) -> None:
    data = encode_image(photo)
    answer = make_client().post("/edit?task=neutralise&strength=0", files={"photo": data})
    assert np.array_equal(read_image(answer.content), photo)


def test_compare(make_client, jpeg, photo) -> None:
    client = make_client()
    same = client.post("/compare", files={"photo": jpeg, "other": jpeg}).json()["cosine"]
    assert same == pytest.approx({"identity": 1.0, "expression": 1.0})
    inverse = encode_image(255 - photo)
    other = client.post("/compare", files={"photo": jpeg, "other": inverse}).json()["cosine"]
    assert other["identity"] < 0


def test_methods_and_health(make_client) -> None:
    client = make_client()
    (about,) = client.get("/methods").json()
    assert about["codes"] == {"identity": 3, "expression": 3}
    assert {e["task"] for e in about["edits"]} == {"neutralise", "identity", "mean-face"}
    health = client.get("/health").json()
    assert (health["status"], health["requests"], health["most_requests"]) == ("ok", 0, 64)


def test_requests_at_one_time_share_a_batch(toy_method, toy_finder, jpeg) -> None:
    service = Service([toy_method], finder=toy_finder())
    toy_method.calls = 0
    photos = [encode_image(np.roll(read_image(jpeg), 9 * i, 1)) for i in range(5)]
    jobs = [Job("edit", "toy", (p,), ("only",), "neutralise") for p in photos]
    jobs += [Job("embed", "toy", (p,), ("all",)) for p in photos]
    jobs.insert(3, Job("edit", "toy", (b"text",), ("only",), "neutralise"))
    found = service(jobs)
    assert toy_method.calls == 1
    alone = [service([job])[0] for job in jobs]
    assert "is not a JPEG" in str(found[3])
    for one, other in zip(found, alone, strict=True):
        if isinstance(one, bytes):
            assert np.array_equal(read_image(one), read_image(other))
        elif isinstance(one, list):
            for a, b in zip(one, other, strict=True):
                np.testing.assert_allclose(a.codes["identity"], b.codes["identity"], atol=1e-6)
    assert sum(isinstance(r, bytes) for r in found) == 5


# Wrong orders ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/edit", 422, "task"),
        ("/edit?task=nonsense", 422, "task"),
        ("/edit?task=frontalise", 422, "cannot do 'frontalise'"),
        ("/edit?task=identity", 422, "needs a driver"),
        ("/edit?task=neutralise&strength=2", 422, "strength"),
        ("/edit?task=neutralise&strength=nan", 422, "strength"),
        ("/edit?task=neutralise&format=gif", 422, "format"),
        ("/embed?weights=other", 422, "No weights 'other'"),
        ("/embed?face=7", 422, "no face number 7"),
        ("/embed?face=middle", 422, "face"),
        ("/nothing", 404, "Not Found"),
    ],
)
def test_wrong_parameters(make_client, jpeg, path, status, said) -> None:
    answer = make_client().post(path, files={"photo": jpeg})
    assert answer.status_code == status
    assert said in answer.json()["detail"]


@pytest.mark.parametrize(
    ("data", "status", "said"),
    [
        (b"", 415, "not a JPEG"),
        (b"text", 415, "not a JPEG"),
        (b"GIF89a" + bytes(100), 415, "not a JPEG"),
        (b"%PDF-1.7", 415, "not a JPEG"),
        (b"\xff\xd8\xff" + bytes(50), 415, "damaged"),
        (declared(8000, 6000), 413, "8000 x 6000 pixels"),
        (declared(40_000, 1), 415, "a side"),
        (declared(100, 100), 422, "damaged or cut off"),
        (declared(4, 4), 422, "at least 16"),
    ],
)
def test_pictures_that_are_not_taken(make_client, data, status, said) -> None:
    answer = make_client().post("/embed", files={"photo": data})
    assert answer.status_code == status
    assert said in answer.json()["detail"]


def test_formats_that_are_not_listed_are_never_decoded(make_client, monkeypatch) -> None:
    target = io.BytesIO()
    Pillow.new("RGB", (64, 64)).save(target, "BMP")
    monkeypatch.setattr(Pillow, "open", None)
    answer = make_client().post("/embed", files={"photo": target.getvalue()})
    assert answer.status_code == 415


def test_photos_without_a_face(make_client, jpeg) -> None:
    answer = make_client(0).post("/edit?task=neutralise", files={"photo": jpeg})
    assert answer.status_code == 422
    assert "no face" in answer.json()["detail"]
    answer = make_client(3).post("/edit?task=neutralise", files={"photo": jpeg})
    assert "3 faces; choose one" in answer.json()["detail"]


def test_paths_and_addresses_are_not_read(make_client, tmp_path, jpeg) -> None:
    (tmp_path / "me.jpg").write_bytes(jpeg)
    client = make_client()
    for text in (str(tmp_path / "me.jpg"), (tmp_path / "me.jpg").as_uri(), "http://127.0.0.1/"):
        assert client.post("/embed", data={"photo": text}).status_code == 422
        assert client.post(f"/embed?photo={text}").status_code == 422
        assert client.post("/embed", json={"photo": text}).status_code == 422


def test_too_large_a_file(make_client, jpeg) -> None:
    client = make_client(limits=Limits(max_bytes=len(jpeg)))
    assert client.post("/embed", files={"photo": jpeg}).status_code == 200
    answer = client.post("/embed", files={"photo": jpeg + b"\0"})
    assert (answer.status_code, "bytes" in answer.json()["detail"]) == (413, True)
    answer = client.post("/embed", files={"photo": bytes(3 * len(jpeg) + 2**17)})
    assert answer.status_code == 413


def test_a_body_of_undeclared_size_is_bounded(make_client) -> None:
    client = make_client(limits=Limits(max_bytes=1000))
    sent = []

    def body():
        yield b'--x\r\nContent-Disposition: form-data; name="photo"; filename="a"\r\n\r\n'
        for _ in range(1000):
            sent.append(1000)
            yield bytes(1000)

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert client.post("/embed", content=body(), headers=headers).status_code == 413


# Who may -----------------------------------------------------------------------------------------


def test_token(make_client, jpeg) -> None:
    client = make_client(token=TOKEN)
    assert client.post("/embed", files={"photo": jpeg}).status_code == 200
    for wrong in ("", "Bearer ", f"Bearer {TOKEN}x", f"Basic {TOKEN}", f"Bearer {TOKEN[:-1]}"):
        answer = client.post("/embed", files={"photo": jpeg}, headers={"Authorization": wrong})
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
    assert client.get("/methods", headers={"Authorization": ""}).status_code == 401
    assert client.get("/openapi.json", headers={"Authorization": ""}).status_code == 401
    assert client.get("/health", headers={"Authorization": ""}).status_code == 200


def test_other_web_pages_are_turned_away(make_client, jpeg) -> None:
    client = make_client(hosts=["localhost", "127.0.0.1", "::1"])
    for host in ("localhost:8017", "127.0.0.1", "[::1]:8017", "LOCALHOST"):
        assert client.get("/health", headers={"Host": host}).status_code == 200
    assert client.get("/health", headers={"Host": "evil.example"}).status_code == 400
    own = {"Host": "localhost:8017", "Origin": "http://localhost:8017"}
    assert client.post("/embed", files={"photo": jpeg}, headers=own).status_code == 200
    for origin in ("https://evil.example", "null", "http://localhost:80"):
        answer = client.post("/embed", files={"photo": jpeg}, headers={**own, "Origin": origin})
        assert answer.status_code == 403


def test_token_is_needed_off_loopback() -> None:
    for host in ("127.0.0.1", "::1", "localhost", "127.1.2.3"):
        assert is_loopback(host)
        assert check_token("", host) == ""
    for host in ("0.0.0.0", "::", "192.168.0.1", "example.org", ""):
        with pytest.raises(ConfigError, match="set a token"):
            check_token("", host)
        assert check_token(TOKEN, host) == TOKEN
    for token in ("short", TOKEN + "\n", TOKEN + "ü"):
        with pytest.raises(ConfigError, match="at least 16"):
            check_token(token, "127.0.0.1")


# Under load --------------------------------------------------------------------------------------


def test_requests_beyond_the_limit_get_503(toy_method, toy_finder, jpeg) -> None:
    from starlette.testclient import TestClient

    go = threading.Event()

    class Slow(type(toy_finder())):
        def __call__(self, images, sources=None):
            go.wait(10)
            return super().__call__(images, sources)

    limits = Limits(requests=3, batch=1)
    app = create_app(Service([toy_method], finder=Slow()), limits)
    with TestClient(app) as client, ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(client.post, "/embed", files={"photo": jpeg}) for _ in range(8)]
        while sum(a.done() for a in asked) < 5:
            pass
        assert client.get("/health").json()["requests"] == 3
        go.set()
        answers = [a.result() for a in asked]
        assert client.get("/health").json()["requests"] == 0
    full = [a for a in answers if a.status_code == 503]
    assert [a.status_code for a in answers].count(200) == 3
    assert len(full) == 5
    assert {a.headers["retry-after"] for a in full} == {"1"}


def test_requests_that_take_too_long_get_503(toy_method, toy_finder, jpeg) -> None:
    from starlette.testclient import TestClient

    go = threading.Event()

    class Slow(type(toy_finder())):
        def __call__(self, images, sources=None):
            go.wait(10)
            return super().__call__(images, sources)

    app = create_app(Service([toy_method], finder=Slow()), Limits(seconds=0.05))
    with TestClient(app) as client:
        answer = client.post("/embed", files={"photo": jpeg})
        go.set()
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert client.post("/embed", files={"photo": jpeg}).status_code == 200


def test_nothing_of_a_photo_is_logged(make_client, jpeg, caplog, capfd) -> None:
    caplog.set_level(logging.DEBUG)
    found = make_client().post("/embed", files={"photo": ("a-name.jpg", jpeg)}).json()
    out, err = capfd.readouterr()
    logged = caplog.text + out + err
    assert str(found["faces"][0]["codes"]["identity"][0]) not in logged
    assert "a-name" not in logged


def test_wrong_services(toy_method, toy_finder) -> None:
    with pytest.raises(ConfigError, match="at least one"):
        Service([])
    with pytest.raises(ConfigError, match="Two weights"):
        Service([toy_method, toy_method], finder=toy_finder())
    with pytest.raises(WeightsError, match="No weights"):
        Service(["nothing"])
    with pytest.raises(ConfigError, match="above 0"):
        Limits(requests=0)


# The interface -----------------------------------------------------------------------------------


def openapi() -> dict:
    """Return the interface of a service with a token, for weights called ``facecycle``."""

    class Named(Service):
        def __init__(self) -> None:
            self.editors = {"facecycle": None}  # type: ignore[dict-item]
            self._about = []

    return json.loads(json.dumps(create_app(Named(), token=TOKEN).openapi()))


def test_openapi_is_the_snapshot() -> None:
    known = json.loads(OPENAPI.read_text())
    now = openapi()
    renew = "If the change is meant, run `python tests/serve/test_rest.py`, note it in CHANGELOG.md"
    assert now.keys() == known.keys()
    for part in ("paths", "components"):
        for name in sorted(known[part].keys() | now[part].keys()):
            assert now[part].get(name) == known[part].get(name), f"{name} has changed. {renew}"


@pytest.mark.slow
def test_the_interface_holds_what_it_says(toy_method, toy_finder) -> None:
    """Every check of schemathesis, on requests it makes up."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given, settings

    app = create_app(Service([toy_method], finder=toy_finder()), token=TOKEN)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers=headers)
    schema.config.update(headers=headers)
    # What the schema allows need not be a picture.
    schema.config.checks.positive_data_acceptance.expected_statuses = ["200", "415", "422"]
    quiet = settings(
        max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )

    def holds(case) -> None:
        case.call_and_validate(headers=headers)

    for found in schema.get_all_operations():
        operation = found.ok()
        modes = list(schemathesis.GenerationMode)
        if operation.method.lower() == "get":  # without parameters nothing can be wrong
            modes = [schemathesis.GenerationMode.POSITIVE]
        for mode in modes:
            cases = operation.as_strategy(generation_mode=mode)
            quiet(given(case=cases)(holds))()


if __name__ == "__main__":
    OPENAPI.write_text(json.dumps(openapi(), indent=1, sort_keys=True) + "\n")

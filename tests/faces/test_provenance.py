"""Edited pictures carry a signed record; changes are noticed; without C2PA the record is EXIF."""

from __future__ import annotations

import io
import json
import stat
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from mien.faces import provenance
from mien.faces.image import encode_image, read_image
from mien.faces.provenance import EditRecord, inspect, read_provenance, write_edited
from mien.files.errors import ImageError

RECORD = EditRecord("neutralise", 0.75, "facecycle", "ab" * 32)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".webp", ".PNG"])
def test_manifest_reads_back(tmp_path: Path, image: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"edited{suffix}"
    write_edited(path, image, RECORD)
    found = read_provenance(path)
    assert found is not None
    assert found.record == RECORD
    assert found.state == "valid"
    if suffix.lower() == ".png":
        assert np.array_equal(read_image(path), image)


def test_manifest_says_what_any_reader_shows(tmp_path: Path, image: np.ndarray) -> None:
    c2pa = pytest.importorskip("c2pa")
    path = tmp_path / "edited.png"
    write_edited(path, image, RECORD, original=encode_image(image, "JPEG"))
    with c2pa.Reader("image/png", io.BytesIO(path.read_bytes())) as reader:
        manifest = reader.get_active_manifest()
    actions = manifest["assertions"][0]["data"]["actions"]
    edited = [a for a in actions if a["action"] == "c2pa.edited"]
    assert edited[0]["digitalSourceType"].endswith("/compositeWithTrainedAlgorithmicMedia")
    assert edited[0]["softwareAgent"]["name"] == "mien"
    assert "thumbnail" not in json.dumps(manifest)
    assert manifest["ingredients"][0]["format"] == "image/jpeg"


def test_history_of_an_edited_picture_is_carried_on(tmp_path: Path, image: np.ndarray) -> None:
    c2pa = pytest.importorskip("c2pa")
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    write_edited(first, image, RECORD)
    later = EditRecord("frontalise", 1.0, "facecycle")
    write_edited(second, image, later, original=first.read_bytes())
    found = read_provenance(second)
    assert found is not None
    assert found.record == later
    assert found.state == "valid"
    with c2pa.Reader("image/png", io.BytesIO(second.read_bytes())) as reader:
        assert len(json.loads(reader.json())["manifests"]) == 2


def test_inspect_tells_the_whole_history(tmp_path: Path, image: np.ndarray) -> None:
    pytest.importorskip("c2pa")
    first, second = tmp_path / "first.jpg", tmp_path / "second.png"
    write_edited(first, image, RECORD, original=encode_image(image, "WEBP"))
    later = EditRecord("frontalise", 1.0, "derl", "cd" * 32, "derl")
    write_edited(second, image, later, original=first.read_bytes())
    found = inspect(second)
    assert found.state == "valid"
    assert found.record == later
    assert not found.failures
    assert [step.record for step in found.steps] == [later, RECORD]
    edited = "c2pa.edited (compositeWithTrainedAlgorithmicMedia)"
    assert all(edited in step.actions for step in found.steps)
    assert found.steps[0].ingredients == (
        "Photo (parentOf, image/jpeg, with a history of its own)",
    )
    assert "without a history" in found.steps[1].ingredients[0]
    said = str(found)
    assert said.index("frontalise, strength 1, weights derl") < said.index("Manifest 2 of 2")
    assert "method derl" in said


def test_inspect_reads_what_others_signed(tmp_path: Path, image: np.ndarray) -> None:
    c2pa = pytest.importorskip("c2pa")
    certificates, key = provenance._credentials()
    info = c2pa.C2paSignerInfo(c2pa.C2paSigningAlg.ES256, certificates, key, None)
    source = "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"
    created = {"action": "c2pa.created", "digitalSourceType": source}
    manifest = {
        "claim_generator_info": [{"name": "a camera", "version": "1"}],
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}],
    }
    target = io.BytesIO()
    plain = io.BytesIO(encode_image(image))
    with c2pa.Signer.from_info(info) as signer, c2pa.Builder.from_json(json.dumps(manifest)) as b:
        b.sign(signer, "image/png", plain, target)
    (tmp_path / "camera.png").write_bytes(target.getvalue())
    found = inspect(tmp_path / "camera.png")
    assert found.state == "valid"
    assert found.record is None
    assert read_provenance(tmp_path / "camera.png") is None
    assert "by a camera 1" in str(found)
    assert "action: c2pa.created (digitalCapture)" in str(found)
    write_edited(tmp_path / "edited.png", image, RECORD, original=target.getvalue())
    assert [s.generator for s in inspect(tmp_path / "edited.png").steps][1] == "a camera 1"


def test_inspect_of_exif_alone_and_of_nothing(tmp_path: Path, image: np.ndarray) -> None:
    write_edited(tmp_path / "edited.png", image, RECORD)
    with Pillow.open(tmp_path / "edited.png") as opened:
        opened.save(tmp_path / "stripped.png", exif=opened.getexif())
    found = inspect(tmp_path / "stripped.png")
    assert (found.state, found.record, found.steps) == ("unsigned", RECORD, ())
    assert "EXIF note says this" in str(found)
    (tmp_path / "plain.png").write_bytes(encode_image(image))
    assert inspect(tmp_path / "plain.png").state is None
    with pytest.raises(ImageError, match="does not exist"):
        inspect(tmp_path / "nothing.png")


def test_nothing_but_the_edit_is_written(tmp_path: Path, image: np.ndarray) -> None:
    path = tmp_path / "somebody's name.png"
    write_edited(path, image, RECORD)
    data = path.read_bytes()
    assert b"somebody" not in data
    assert str(tmp_path).encode() not in data


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_tampering_is_noticed(tmp_path: Path, image: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"edited{suffix}"
    write_edited(path, image, RECORD)
    data = bytearray(path.read_bytes())
    where = data.index(b"neutralise", data.index(b"jumb"))  # inside the manifest
    data[where : where + 10] = b"frontalise"
    if suffix == ".png":  # a careful forger mends the checksum of the chunk
        start = data.index(b"caBX")
        end = start + 4 + int.from_bytes(data[start - 4 : start], "big")
        data[end : end + 4] = zlib.crc32(data[start:end]).to_bytes(4, "big")
    path.write_bytes(data)
    found = read_provenance(path)
    assert found is not None
    assert found.state == "altered"


def test_changed_pixels_are_noticed(tmp_path: Path, image: np.ndarray) -> None:
    path = tmp_path / "edited.jpg"
    write_edited(path, image, RECORD)
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)
    found = read_provenance(path)
    assert found is not None
    assert found.state == "altered"


def test_another_computer_does_not_trust_the_certificate(
    tmp_path: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "edited.png"
    write_edited(path, image, RECORD)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "elsewhere"))
    found = read_provenance(path)
    assert found is not None
    assert found.state == "untrusted"
    write_edited(tmp_path / "other.png", image, RECORD)  # makes another certificate
    assert read_provenance(path) == found


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_exif_is_the_fallback(
    tmp_path: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setitem(sys.modules, "c2pa", None)
    path = tmp_path / f"edited{suffix}"
    with pytest.warns(UserWarning, match="EXIF alone"):
        write_edited(path, image, RECORD)
    found = read_provenance(path)
    assert found is not None
    assert found.record == RECORD
    assert found.state == "unsigned"


def test_exif_survives_when_the_manifest_is_stripped(tmp_path: Path, image: np.ndarray) -> None:
    path = tmp_path / "edited.png"
    write_edited(path, image, RECORD)
    with Pillow.open(path) as opened:
        opened.save(tmp_path / "stripped.png", exif=opened.getexif())
    found = read_provenance(tmp_path / "stripped.png")
    assert found is not None
    assert found.state == "unsigned"


def test_key_is_private_and_made_once(tmp_path: Path, image: np.ndarray) -> None:
    write_edited(tmp_path / "a.png", image, RECORD)
    folder = provenance.config_folder()
    key = folder / "key.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = key.read_bytes()
    write_edited(tmp_path / "b.png", image, RECORD)
    assert key.read_bytes() == before
    assert not list(folder.glob("*.tmp"))


def test_threads_share_the_key(tmp_path: Path, image: np.ndarray) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda path: write_edited(path, image, RECORD), paths))
    assert {found.state for p in paths if (found := read_provenance(p))} == {"valid"}


def test_damaged_certificate_is_made_anew(tmp_path: Path, image: np.ndarray) -> None:
    write_edited(tmp_path / "a.png", image, RECORD)
    (provenance.config_folder() / "certificate.pem").write_text("not a certificate")
    write_edited(tmp_path / "b.png", image, RECORD)
    found = read_provenance(tmp_path / "b.png")
    assert found is not None
    assert found.state == "valid"


def test_plain_pictures_have_no_provenance(tmp_path: Path, image: np.ndarray) -> None:
    path = tmp_path / "plain.png"
    path.write_bytes(encode_image(image, metadata={"anything": "else"}))
    assert read_provenance(path) is None


def test_what_is_no_picture_is_an_error(tmp_path: Path, image: np.ndarray) -> None:
    path = tmp_path / "text.jpg"
    path.write_text("text")
    with pytest.raises(ImageError, match="not a JPEG"):
        read_provenance(path)
    with pytest.raises(ImageError, match="must end in"):
        write_edited(tmp_path / "a.gif", image, RECORD)
    assert not (tmp_path / "a.gif").exists()

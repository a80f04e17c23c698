"""Provenance: every edited picture says that it was edited, by what and how.

A C2PA manifest (https://c2pa.org) is embedded and signed, so that any C2PA reader shows the edit
and later changes are noticed. Where that is impossible, and beside it, the same record stands in
the EXIF field ImageDescription. Neither holds anything about the person: no codes, no landmarks,
no file names.

The certificate is made once per user (``~/.config/mien``): it proves that a picture was not
changed since ``mien`` wrote it, not who the user is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import shutil
import threading
import warnings
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, Literal

from mien.faces.face import Image
from mien.faces.image import IMAGE_SUFFIXES, encode_image, read_image, read_metadata
from mien.faces.remake import read_comment
from mien.faces.video import VIDEO_SUFFIXES
from mien.files.atomic import atomic_path, write_bytes
from mien.files.errors import ImageError, MienError

State = Literal["valid", "untrusted", "altered", "unsigned"]

_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
_LABEL = "org.mien.edit"
_VALID_DAYS = 3650
_MAKING = threading.Lock()
# What --no-provenance leaves out, in the words of the command line.
OMITTED = (
    "The edited pictures do not say that they were edited: no C2PA manifest (the edit, method, "
    "hash of the weights, the photo they were made of, and any history that the photo had) and no "
    "EXIF note. Nobody can tell them from photos. Where the law asks for a mark, add one."
)
_STATES: dict[State, str] = {
    "valid": "Signed on this computer and not changed since.",
    "untrusted": "Signed with a certificate that this computer does not know; not changed since.",
    "altered": "Changed after it was signed: its record cannot be relied on.",
    "unsigned": "Its record is not signed: anybody may have written or changed it.",
}


@dataclass(frozen=True)
class EditRecord:
    """What a picture says about its edit.

    Attributes:
        task: Name of the task, e.g. ``neutralise``.
        strength: From 0 to 1.
        weights: Name of the weights.
        weights_sha256: Hex SHA-256 of the weight file; empty if they were never in a file.
        method: Name of the method.
        version: Version of mien.
    """

    task: str
    strength: float
    weights: str
    weights_sha256: str = ""
    method: str = ""
    version: str = dataclasses.field(default_factory=lambda: version("mien"))


@dataclass(frozen=True)
class Provenance:
    """What was found in a picture.

    Attributes:
        record: The edit.
        state: ``valid``: intact and signed on this computer; ``untrusted``: intact, signed with
            another certificate; ``altered``: changed since; ``unsigned``: EXIF only.
    """

    record: EditRecord
    state: State

    def __str__(self) -> str:
        """Return the plain text of an edit."""
        r = self.record
        weights = f"{r.weights} (SHA-256 {r.weights_sha256})" if r.weights_sha256 else r.weights
        method = f", method {r.method}" if r.method else ""
        return (
            f"Edited with mien {r.version}: {r.task}, strength {r.strength:g}, "
            f"weights {weights}{method}.\n"
            f"{_STATES[self.state]}"
        )


def encode_edited(
    image: Image,
    record: EditRecord,
    format: str = "PNG",
    original: bytes | None = None,
    quality: int = 95,
) -> bytes:
    """Encode an edited picture with its record.

    Args:
        image: uint8 ``(H, W, 3)`` RGB.
        record: The edit.
        format: ``PNG``, ``JPEG`` or ``WEBP``.
        original: File content of the photo that was edited: its own C2PA history is carried on.
        quality: 1 to 100, for JPEG and WebP.

    Raises:
        ImageError: Unknown format, or the array is not a picture.

    Warns:
        UserWarning: The C2PA manifest could not be made; the record is in EXIF alone.
    """
    data = encode_image(image, format, quality=quality, metadata=_exif(record))
    try:
        return _sign(data, record, original)
    except Exception as error:  # a native library, a file system: no edit is lost for the mark
        warnings.warn(
            f"No C2PA manifest could be written ({error}); the record stands in EXIF alone.",
            stacklevel=2,
        )
        return data


def write_edited(
    path: str | Path,
    image: Image,
    record: EditRecord,
    original: bytes | None = None,
    quality: int = 95,
) -> None:
    """Write an edited picture atomically; see ``encode_edited``.

    Args:
        path: Target; the suffix (.png, .jpg, .jpeg, .webp) names the format.
        image: uint8 ``(H, W, 3)`` RGB.
        record: The edit.
        original: File content of the photo.
        quality: 1 to 100, for JPEG and WebP.

    Raises:
        ImageError: Unknown suffix, or the array is not a picture.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in IMAGE_SUFFIXES:
        raise ImageError(f"Cannot write {path}: its name must end in {', '.join(IMAGE_SUFFIXES)}.")
    write_bytes(path, encode_edited(image, record, suffix, original, quality))


def sign_video(path: str | Path, target: str | Path, record: EditRecord, original: Path) -> None:
    """Write an edited MP4 video with its manifest, atomically.

    Files are handed to the C2PA library as streams; what it keeps of them is up to it.

    Args:
        path: The video, which holds ``video_note`` as its comment already.
        target: File to write.
        record: The edit.
        original: The video that was edited: its own C2PA history is carried on.

    Warns:
        UserWarning: The C2PA manifest could not be made; the record is in the comment alone.
    """
    with atomic_path(target) as temporary:
        try:
            with (
                Path(path).open("rb") as data,
                original.open("rb") as before,
                temporary.open("w+b") as written,
            ):
                known = _mime_of(before.read(16))
                parent = before if known else data
                parent.seek(0)
                _embed(data, "video/mp4", record, parent, known or "video/mp4", written, "Video")
        except Exception as error:  # as for pictures
            warnings.warn(
                f"No C2PA manifest could be written ({error}); the record stands in the comment "
                "alone.",
                stacklevel=2,
            )
            shutil.copyfile(path, temporary)


def video_note(record: EditRecord) -> str:
    """Return what stands in the comment of an edited video, beside the manifest."""
    return json.dumps(_exif(record))


def read_provenance(path: str | Path) -> Provenance | None:
    """Read what a picture or MP4 video says about its edit; None if mien did not edit it.

    Raises:
        ImageError: Not a picture and not an MP4 video.
    """
    path = Path(path)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        found = inspect(path)
        if found.record is None or found.state is None:
            return None
        return Provenance(found.record, found.state)
    read_image(path, min_side=1)  # a damaged file is an error, not a picture without a record
    signed = _read_manifest(path.read_bytes())
    if signed is not None:
        return signed
    values = read_metadata(path)
    if values.get("edited_by") != "mien":
        return None
    return Provenance(_record(values), "unsigned")


@dataclass(frozen=True)
class Step:
    """One manifest of a file's history.

    Attributes:
        generator: What wrote it, e.g. ``mien 0.1.0``.
        title: Title of the file at that time.
        actions: What was done, e.g. ``c2pa.edited``; with the digital source type if there is one.
        record: The edit, if mien wrote the manifest.
        ingredients: What the file was made of, in words.
    """

    generator: str
    title: str
    actions: tuple[str, ...]
    record: EditRecord | None
    ingredients: tuple[str, ...]


@dataclass(frozen=True)
class Inspection:
    """What a file says about where it comes from.

    Attributes:
        state: As for ``Provenance``; None if the file says nothing.
        steps: Its C2PA manifests, the newest first.
        record: The newest edit by mien: of the manifest, else of the EXIF note.
        failures: Codes of the checks that failed (C2PA specification), e.g.
            ``assertion.dataHash.mismatch``.
    """

    state: State | None
    steps: tuple[Step, ...] = ()
    record: EditRecord | None = None
    failures: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the plain text that ``mien inspect`` prints."""
        if self.state is None:
            return "It says nothing about its history: no C2PA manifest, no note by mien."
        lines = []
        if self.record is not None:
            lines.append(str(Provenance(self.record, self.state)))
        else:
            lines.append(_STATES[self.state])
        lines += [f"Failed check: {code}" for code in self.failures]
        for number, step in enumerate(self.steps, 1):
            title = f" ({step.title})" if step.title else ""
            lines.append(f"Manifest {number} of {len(self.steps)}, by {step.generator}{title}")
            lines += [f"  action: {action}" for action in step.actions]
            lines += [f"  made of: {ingredient}" for ingredient in step.ingredients]
        if not self.steps:
            lines.append("There is no C2PA manifest; the EXIF note says this.")
        return "\n".join(lines)


def inspect(path: str | Path) -> Inspection:
    """Read and verify the whole history of a picture or an MP4 video, whoever wrote it.

    Raises:
        ImageError: Neither a picture that can be read nor an MP4 video.
    """
    path = Path(path)
    data = path.read_bytes() if path.is_file() else b""
    video = _mime_of(data) == "video/mp4"
    if not video:
        read_image(path, min_side=1)  # a damaged file is an error, not one without a history
    store = _read_store(data)
    if store is not None:
        state, failures, manifests = store
        steps = tuple(_step(manifest) for manifest in manifests)
        record = steps[0].record if steps else None
        return Inspection(state, steps, record, tuple(sorted(failures)))
    values = _read_note(path) if video else read_metadata(path)
    if values.get("edited_by") == "mien":
        return Inspection("unsigned", record=_record(values))
    return Inspection(None)


def config_folder() -> Path:
    """Return the folder of the user's certificate (XDG_CONFIG_HOME or ``~/.config``)."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "mien"


def _exif(record: EditRecord) -> dict[str, str]:
    values = {name: str(value) for name, value in dataclasses.asdict(record).items()}
    return {"edited_by": "mien", "digital_source_type": _SOURCE_TYPE, **values}


def _read_note(path: Path) -> dict[str, str]:
    try:
        values = json.loads(read_comment(path))
    except (MienError, ValueError):  # no PyAV, no video inside, or somebody else's comment
        return {}
    return {str(k): str(v) for k, v in values.items()} if isinstance(values, dict) else {}


def _record(values: dict[str, Any]) -> EditRecord:
    try:
        strength = float(values.get("strength", "nan"))
    except (TypeError, ValueError):
        strength = float("nan")
    text = {
        k: str(values.get(k, ""))
        for k in ("task", "weights", "weights_sha256", "method", "version")
    }
    return EditRecord(strength=strength, **text)


def _sign(data: bytes, record: EditRecord, original: bytes | None) -> bytes:
    """Embed a signed manifest into the encoded picture ``data``."""
    target = io.BytesIO()
    parent = original if original is not None and _mime_of(original) else data
    _embed(
        io.BytesIO(data),
        _mime_of(data),
        record,
        io.BytesIO(parent),
        _mime_of(parent),
        target,
        "Picture",
    )
    return target.getvalue()


def _embed(
    data: BinaryIO,
    mime: str,
    record: EditRecord,
    parent: BinaryIO,
    parent_mime: str,
    target: BinaryIO,
    kind: str,
) -> None:
    """Copy a file with a signed manifest embedded, in pieces."""
    import c2pa

    agent = {"name": "mien", "version": record.version}
    values = {k: v for k, v in dataclasses.asdict(record).items() if k != "version"}
    action = {
        "action": "c2pa.edited",
        "softwareAgent": agent,
        "digitalSourceType": _SOURCE_TYPE,
        "parameters": {f"org.mien.{name}": value for name, value in values.items()},
    }
    manifest = {
        "claim_generator_info": [agent],
        "title": f"{kind} with an edited face",
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [action]}},
            {"label": _LABEL, "data": {**values, "version": record.version}},
        ],
    }
    # A thumbnail of the original would hand the unedited face on.
    settings = {
        "builder": {"thumbnail": {"enabled": False}},
        "verify": {"remote_manifest_fetch": False},
    }
    certificates, key = _credentials()
    info = c2pa.C2paSignerInfo(c2pa.C2paSigningAlg.ES256, certificates, key, None)
    with (
        c2pa.Signer.from_info(info) as signer,
        c2pa.Context.from_dict(settings) as context,
        c2pa.Builder.from_json(json.dumps(manifest), context=context) as builder,
    ):
        builder.set_intent(c2pa.C2paBuilderIntent.EDIT)
        ingredient = json.dumps(
            {"title": "Photo" if kind == "Picture" else kind, "relationship": "parentOf"}
        )
        builder.add_ingredient(ingredient, parent_mime, parent)
        builder.sign(signer, mime, data, target)


def _read_manifest(data: bytes) -> Provenance | None:
    """Return the newest edit by mien in the manifest of an encoded picture."""
    store = _read_store(data)
    if store is None:
        return None
    state, _, manifests = store
    record = _step(manifests[0]).record if manifests else None
    return None if record is None else Provenance(record, state)


def _read_store(data: bytes) -> tuple[State, set[str], list[dict[str, Any]]] | None:
    """Return state, failed checks and manifests of a file, the active manifest first."""
    try:
        import c2pa
    except ImportError:
        return None
    root = config_folder() / "root.pem"
    settings: dict[str, Any] = {"verify": {"verify_trust": True, "remote_manifest_fetch": False}}
    with contextlib.suppress(OSError):
        settings["trust"] = {"user_anchors": root.read_text()}
    try:
        with c2pa.Context.from_dict(settings) as context:
            reader = c2pa.Reader.try_create(_mime_of(data), io.BytesIO(data), None, context)
            if reader is None:
                return None
            with reader:
                store = json.loads(reader.json())
                results = reader.get_validation_results() or {}
    except c2pa.C2paError:  # cut off or overwritten: nothing can be read out of it
        return None
    failures = {f["code"] for f in results.get("activeManifest", {}).get("failure", [])}
    state: State = "valid"
    if failures - {"signingCredential.untrusted"}:
        state = "altered"
    elif failures:
        state = "untrusted"
    manifests = dict(store.get("manifests", {}))
    newest = manifests.pop(store.get("active_manifest"), None)
    ordered = [] if newest is None else [newest]
    # From parent to parent; what else there is (other ingredients) stands at the end.
    for each in ordered:
        for ingredient in each.get("ingredients", []):
            parent = manifests.pop(ingredient.get("active_manifest"), None)
            if parent is not None:
                ordered.append(parent)
    return state, failures, [*ordered, *manifests.values()]


def _step(manifest: dict[str, Any]) -> Step:
    """Put a manifest of the C2PA library's JSON into words."""
    agents = manifest.get("claim_generator_info") or [{"name": manifest.get("claim_generator")}]
    agent = agents[0]
    generator = f"{agent.get('name') or 'unknown'} {agent.get('version') or ''}".strip()
    actions: list[str] = []
    record = None
    for assertion in manifest.get("assertions", []):
        label, data = str(assertion.get("label")), assertion.get("data")
        if label.startswith("c2pa.actions") and isinstance(data, dict):
            for action in data.get("actions", []):
                kind = str(action.get("digitalSourceType", "")).rpartition("/")[2]
                actions.append(f"{action.get('action')}{f' ({kind})' if kind else ''}")
        elif label == _LABEL and isinstance(data, dict):
            record = _record(data)
    ingredients = tuple(
        f"{i.get('title') or 'a file'} ({i.get('relationship')}, {i.get('format')}, "
        f"{'with' if i.get('active_manifest') else 'without'} a history of its own)"
        for i in manifest.get("ingredients", [])
    )
    return Step(generator, str(manifest.get("title") or ""), tuple(actions), record, ingredients)


def _mime_of(data: bytes) -> str:
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith(b"\x89PNG"):
        return "image/png"
    if data[4:8] == b"ftyp":
        return "video/mp4"
    return "image/webp" if data[8:12] == b"WEBP" else ""


def _credentials() -> tuple[bytes, bytes]:
    """Return the user's certificate chain and private key (PEM), made at first use."""
    folder = config_folder()
    chain, key = folder / "certificate.pem", folder / "key.pem"
    with _MAKING:  # threads that sign their first pictures at one time
        if not (chain.is_file() and key.is_file() and _current(chain.read_bytes())):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            root, *pair = _new_credentials()
            # The key goes last: an interrupted run leaves no key that lacks its certificate.
            for file, content in zip((folder / "root.pem", chain, key), (root, *pair), strict=True):
                _write_private(file, content)
        return chain.read_bytes(), key.read_bytes()


def _write_private(path: Path, data: bytes) -> None:
    """Write atomically a file that nobody but the user could ever read."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        os.fsync(file.fileno())
    temporary.replace(path)


def _current(chain: bytes) -> bool:
    from cryptography import x509

    try:
        end = x509.load_pem_x509_certificates(chain)[0].not_valid_after_utc
    except (ValueError, IndexError):
        return False
    return end > datetime.now(timezone.utc) + timedelta(days=1)


def _new_credentials() -> tuple[bytes, bytes, bytes]:
    """Return root certificate, chain and key of the leaf. C2PA refuses self-signed leaves."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    pem = serialization.Encoding.PEM
    start = datetime.now(timezone.utc) - timedelta(days=1)

    def named(name: str) -> x509.Name:
        return x509.Name(
            [
                x509.NameAttribute(NameOID.COMMON_NAME, name),
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "mien (self-made certificate)"),
            ]
        )

    def usage(authority: bool) -> x509.KeyUsage:
        return x509.KeyUsage(
            digital_signature=not authority,
            key_cert_sign=authority,
            crl_sign=authority,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )

    root_key, leaf_key = (
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP256R1()),
    )
    base = (
        x509.CertificateBuilder()
        .issuer_name(named("mien root"))
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=_VALID_DAYS))
    )
    root = (
        base.subject_name(named("mien root"))
        .public_key(root_key.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(authority=True), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(root_key.public_key()), critical=False
        )
        .sign(root_key, hashes.SHA256())
    )
    leaf = (
        base.subject_name(named("mien"))
        .public_key(leaf_key.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(authority=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False
        )
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(leaf_key.public_key()), critical=False
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()),
            critical=False,
        )
        .sign(root_key, hashes.SHA256())
    )
    key = leaf_key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    root_pem = root.public_bytes(pem)
    return root_pem, leaf.public_bytes(pem) + root_pem, key

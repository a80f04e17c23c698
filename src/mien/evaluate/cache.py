"""Embeddings of many crops, computed once.

Embeddings of faces are biometric data: the cache lies in the user's own folder, readable by no
one else, holds no file name and is bounded in size. ``clear(folder)`` or ``rm -r ~/.cache/mien``
deletes it.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mien.evaluate.pictures import resize, to_rgb
from mien.faces.face import Image
from mien.files.atomic import atomic_path

if TYPE_CHECKING:
    from mien.evaluate.encoders import Encoder

CACHE_BYTES = 4 << 30
_BLOCK = 1024
_HALF_MAX = 6e4
_VERSION = 1

Embeddings = NDArray[Any]  # (N, D), float16, or float32 where half precision would overflow


def default_folder() -> Path:
    """Return ``$XDG_CACHE_HOME/mien/embeddings``, by default ``~/.cache/mien/embeddings``."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "mien" / "embeddings"


def clear(folder: Path | None = None) -> int:
    """Delete all cached embeddings; return how many files there were."""
    files = list((folder or default_folder()).glob("*.npy"))
    for file in files:
        file.unlink(missing_ok=True)
    return len(files)


def embed(
    encoder: Encoder,
    crops: Image,
    *,
    flip: bool = False,
    batch_size: int = 64,
    cache: Path | None = None,
    progress: bool = True,
) -> Embeddings:
    """Embed crops in batches; read the result from the cache if it is there.

    Args:
        encoder: Gets uint8 ``(B, S, S, 3)`` with S its ``input_size``.
        crops: uint8 ``(N, R, R, 3)`` or grey ``(N, R, R)``; only slices of it are read, so that it
            may be a memory-mapped file.
        flip: Average the embeddings of each picture and its mirror image.
        batch_size: Crops in a call.
        cache: Folder of the cache; None keeps nothing.
        progress: Show a progress bar.

    Returns:
        ``(N, D)``, rounded to float16 with or without a cache, so that both give equal figures.
    """
    key = hashlib.sha256(
        json.dumps([_VERSION, encoder.key, encoder.input_size, flip, crops.shape]).encode()
    )
    for start in range(0, len(crops), _BLOCK):
        key.update(np.ascontiguousarray(crops[start : start + _BLOCK]).data)
    file = cache / f"{key.hexdigest()}.npy" if cache and encoder.key else None
    if file is not None and file.is_file():
        os.utime(file)
        return np.asarray(np.load(file, allow_pickle=False))
    parts: list[Embeddings] = []
    bar = tqdm(total=len(crops), unit="img", desc=encoder.name, disable=not progress, leave=False)
    with bar:
        for start in range(0, len(crops), batch_size):
            block = np.ascontiguousarray(crops[start : start + batch_size])
            batch = to_rgb(resize(block, encoder.input_size))
            out = encoder(batch)
            if flip:
                out = (out + encoder(np.ascontiguousarray(batch[:, :, ::-1]))) * np.float32(0.5)
            fits = not out.size or float(np.abs(out).max()) < _HALF_MAX
            parts.append(out.astype(np.float16 if fits else np.float32))
            bar.update(len(batch))
    values = np.concatenate(parts)
    if file is not None:
        _store(file, values)
    return values


def _store(file: Path, values: Embeddings) -> None:
    """Write atomically, readable by the user only; then drop the oldest files over the bound."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with atomic_path(file) as temporary, temporary.open("wb") as stream:
        np.save(stream, values, allow_pickle=False)
    file.chmod(0o600)
    total = 0
    for old in sorted(file.parent.glob("*.npy"), key=lambda f: f.stat().st_mtime, reverse=True):
        total += old.stat().st_size
        if total > CACHE_BYTES and old != file:
            old.unlink(missing_ok=True)

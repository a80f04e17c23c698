from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest

from mien.evaluate import cache as module
from mien.evaluate.cache import clear, default_folder, embed
from mien.evaluate.encoders import Encoder


class Counting:
    """Mean and last pixel of each crop; counts the pictures it saw."""

    def __init__(self, scale: float = 1.0) -> None:
        self.seen = 0
        self.scale = scale

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        self.seen += len(crops)
        out = np.stack([crops.mean((1, 2, 3)), crops[:, 0, -1, 0]], 1) * self.scale
        return out.astype(np.float32)


def _crops(n: int = 5, size: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3)).astype(np.uint8)


def _embed(encoder: Encoder, folder: Path | None, crops: np.ndarray, flip: bool = False):
    return embed(encoder, crops, flip=flip, batch_size=2, cache=folder, progress=False)


def test_a_hit_costs_no_call_and_gives_the_same_values(tmp_path: Path) -> None:
    work = Counting()
    encoder = Encoder("count", "k", 16, work)
    first = _embed(encoder, tmp_path, _crops())
    assert work.seen == 5
    assert np.array_equal(_embed(encoder, tmp_path, _crops()), first)
    assert work.seen == 5
    assert np.array_equal(_embed(encoder, None, _crops()), first)
    assert work.seen == 10


@pytest.mark.parametrize("change", ["key", "size", "flip", "pixels"])
def test_anything_that_changes_the_values_is_a_miss(tmp_path: Path, change: str) -> None:
    work = Counting()
    _embed(Encoder("count", "k", 16, work), tmp_path, _crops())
    crops = _crops()
    if change == "pixels":
        crops[0, 0, 0, 0] ^= 1
    other = Encoder("count", "l" if change == "key" else "k", 8 if change == "size" else 16, work)
    _embed(other, tmp_path, crops, flip=change == "flip")
    assert work.seen > 5
    assert len(list(tmp_path.iterdir())) == 2


def test_an_encoder_without_a_key_leaves_nothing(tmp_path: Path) -> None:
    _embed(Encoder("callable", "", 16, Counting()), tmp_path / "cache", _crops())
    assert not (tmp_path / "cache").exists()


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_files_are_private_and_named_by_hash_only(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    _embed(Encoder("secret-name", "k", 16, Counting()), folder, _crops())
    (file,) = folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(file.stem) == 64
    assert set(file.stem) <= set("0123456789abcdef")
    assert b"secret-name" not in file.read_bytes()


def test_clear_deletes_them(tmp_path: Path) -> None:
    _embed(Encoder("count", "k", 16, Counting()), tmp_path, _crops())
    assert clear(tmp_path) == 1
    assert clear(tmp_path) == 0


def test_the_oldest_go_when_the_cache_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CACHE_BYTES", 400)
    for i in range(4):
        _embed(Encoder("count", f"k{i}", 16, Counting()), tmp_path, _crops())
        newest = max(tmp_path.iterdir(), key=lambda f: f.stat().st_mtime_ns)
        os.utime(newest, (i + 1, i + 1))
    kept = list(tmp_path.iterdir())
    assert sum(f.stat().st_size for f in kept) <= 400
    assert kept


def test_flip_averages_with_the_mirror_image() -> None:
    crops = np.zeros((1, 8, 8, 3), np.uint8)
    crops[0, 0, 0] = 100
    out = _embed(Encoder("count", "", 8, Counting()), None, crops, flip=True)
    assert out[0, 1] == 50


def test_values_too_large_for_half_precision_stay_float32() -> None:
    small = _embed(Encoder("count", "", 16, Counting()), None, _crops())
    large = _embed(Encoder("count", "", 16, Counting(1e4)), None, _crops())
    assert small.dtype == np.float16
    assert large.dtype == np.float32
    assert np.isfinite(large).all()


def test_grey_crops_and_other_sizes_reach_the_encoder_as_it_wants_them() -> None:
    shapes = []

    def look(crops: np.ndarray) -> np.ndarray:
        shapes.append(crops.shape)
        return np.zeros((len(crops), 1), np.float32)

    grey = np.zeros((3, 48, 48), np.uint8)
    embed(Encoder("look", "", 64, look), grey, batch_size=3, progress=False)
    assert shapes == [(3, 64, 64, 3)]


def test_the_folder_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "mien" / "embeddings"

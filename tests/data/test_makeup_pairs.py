from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mien.data.cache import FaceCache
from mien.data.makeup_pairs import MakeupPairSampler, MakeupPairSettings, makeup_warp
from mien.data.procedural import LICENCE, Parameters, ProceduralFaces
from mien.data.table import Row, TableWriter
from mien.data.warp import spline_flow
from mien.faces.image import encode_image
from mien.faces.regions import LEFT_EYE, REGIONS, region_masks
from mien.files.errors import ConfigError, TableError

SIZE = 112


def _table(folder: Path, dataset: str = "procedural", twins: bool = False) -> FaceCache:
    """Write twelve persons: bare, and made up in the same picture of a clip if ``twins``."""
    artist = ProceduralFaces(size=SIZE)
    with TableWriter(folder, crop="tight", size=SIZE) as writer:
        for person in range(12):
            scene = Parameters(artist.identity(person), yaw=person * 3.0 - 18)
            for worn in (False, True):
                if worn:
                    scene = replace(scene, makeup=artist.worn(person))
                image, at = artist.draw(scene)
                writer.add(
                    Row(
                        encode_image(image, "PNG"), f"{person}/{worn}", dataset, str(person),
                        clip="0" if twins else "", makeup=worn, landmarks=at, yaw=scene.yaw,
                        pitch=0.0, roll=0.0, split="train", licence=LICENCE,
                    )
                )  # fmt: skip
    return FaceCache(folder, SIZE)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> FaceCache:
    return _table(tmp_path_factory.mktemp("photos") / "t")


@pytest.fixture(scope="module")
def renders(tmp_path_factory: pytest.TempPathFactory) -> FaceCache:
    return _table(tmp_path_factory.mktemp("renders") / "t", "ict_makeup", twins=True)


def test_a_cache_knows_who_wears_make_up(photos: FaceCache) -> None:
    assert photos.makeup.tolist() == [0, 1] * 12


def test_batches_are_a_function_of_seed_rank_and_step(photos: FaceCache) -> None:
    settings = MakeupPairSettings(painted=1, mined=1)
    first = MakeupPairSampler([photos], settings, 6, 0, 0)(3)
    again = MakeupPairSampler([photos], settings, 6, 0, 0)(3)
    assert first.keys() == again.keys()
    for name, value in first.items():
        assert torch.equal(value, again[name]), name
    for other in ((0, 0, 4), (0, 1, 3), (1, 0, 3)):
        batch = MakeupPairSampler([photos], settings, 6, *other[:2])(other[2])
        assert not torch.equal(batch["lips_bare"], first["lips_bare"])


def test_every_kind_says_what_it_knows(photos: FaceCache, renders: FaceCache) -> None:
    settings = MakeupPairSettings(painted=1, rendered=1, mined=1)
    batch = MakeupPairSampler([photos, renders], settings, 24, 0, 0)(0)
    kind = batch["kind"]
    assert set(kind.tolist()) == {0, 1, 2}
    for region in REGIONS:
        bare, target, known = (batch[f"{region}_{k}"] for k in ("bare", "target", "known"))
        assert bare.shape == target.shape == batch[f"{region}_warped"].shape == (24, 3, 64, 64)
        assert batch[f"{region}_bare_mask"].shape == (24, 1, 64, 64)
        assert torch.equal(known, (kind != 2).float())
        assert torch.equal(target[kind == 2], bare[kind == 2])
        changed = (target - bare).abs().mean((1, 2, 3))
        assert changed[kind == 0].min() > 0.001
        removed = (batch[f"{region}_removed"] - batch[f"{region}_reference"]).abs()
        assert removed.mean((1, 2, 3))[kind != 2].min() > 0.001
        assert removed[kind == 2].max() == 0
        assert target.abs().max() <= 1 + 1e-5


def test_a_target_differs_only_where_make_up_goes(renders: FaceCache) -> None:
    settings = MakeupPairSettings(painted=0, rendered=1, degrees=10, regions=("lips",))
    batch = MakeupPairSampler([renders], settings, 12, 0, 0)(0)
    change = (batch["lips_target"] - batch["lips_bare"]).abs().mean(1, keepdim=True)
    mask = batch["lips_bare_mask"]
    on = (change * (mask > 0.9)).sum() / (mask > 0.9).sum()
    off = (change * (mask < 0.01)).sum() / (mask < 0.01).sum()
    assert on > 10 * off, "the render lies exactly where its bare twin does"


def test_one_region_alone_is_the_same_region(photos: FaceCache) -> None:
    settings = MakeupPairSettings(regions=("eyes",))
    batch = MakeupPairSampler([photos], settings, 4, 0, 0)(0)
    assert not any(name.startswith(("lips", "skin")) for name in batch)
    eye = batch["eyes_bare_points"][:, LEFT_EYE]
    assert eye.min() > 0, "the eye that is seen is called the left one"
    assert eye.max() < 63


def test_a_spline_takes_points_to_points(photos: FaceCache) -> None:
    a, b = (torch.from_numpy(photos.landmarks[[k]]) for k in (0, 8))
    flow = spline_flow(a, b, SIZE, SIZE)
    grid = a * (2 / (SIZE - 1)) - 1
    seen = torch.nn.functional.grid_sample(flow, grid[:, None], align_corners=True)[:, :, 0].mT
    moved = a + seen * (SIZE - 1) / 2
    assert (moved - b).norm(dim=-1).mean() < 0.3  # the ridge smooths a little
    assert (a - b).norm(dim=-1).max() > 4


def test_the_warp_carries_make_up_over(photos: FaceCache) -> None:
    rows = np.arange(0, 24, 2)
    x = photos.take(rows).float() / 127.5 - 1
    y = photos.take(np.roll(rows, 2) + 1).float() / 127.5 - 1
    at = torch.from_numpy(photos.landmarks[rows])
    y_at = torch.from_numpy(photos.landmarks[np.roll(rows, 2) + 1])
    masks, y_masks = region_masks(at, SIZE), region_masks(y_at, SIZE)
    warped = makeup_warp(x, at, y, y_at, masks)

    def lips(images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        mean = ((images + 1) * mask[:, :1]).sum((2, 3))
        return mean / mean.sum(1, keepdim=True)

    before = (lips(x, masks) - lips(y, y_masks)).norm(dim=1)
    after = (lips(warped, masks) - lips(y, y_masks)).norm(dim=1)
    assert after.mean() < 0.3 * before.mean()
    outside = masks.sum(1, keepdim=True) == 0
    assert torch.equal(torch.where(outside, warped, x), x)


def test_what_no_table_holds_is_said(photos: FaceCache, tmp_path: Path) -> None:
    with pytest.raises(TableError, match="ict_makeup"):
        MakeupPairSampler([photos], MakeupPairSettings(rendered=1), 4, 0, 0)
    with pytest.raises(TableError, match="FER-2013"):
        MakeupPairSampler([_table(tmp_path, "fer2013")], MakeupPairSettings(), 4, 0, 0)
    with pytest.raises(ConfigError, match="No region"):
        MakeupPairSampler([photos], MakeupPairSettings(regions=("hair",)), 4, 0, 0)
    with pytest.raises(ConfigError, match="shares"):
        MakeupPairSampler([photos], MakeupPairSettings(painted=0), 4, 0, 0)

import numpy as np
import pytest
import torch

from mien.methods import landmarks
from mien.methods.landmarks import LandmarkTraining

SIZE = 112


@pytest.fixture
def plain(monkeypatch):
    """Without the changes of colour and sharpness."""
    for name in ("color_jitter", "grayscale", "lower_resolution", "noise"):
        monkeypatch.setattr(landmarks, name, lambda x, *_, **__: x)


def squares(x, points, **settings):
    config = LandmarkTraining.Config(width=4, negatives=0.0, **settings)
    n = len(x)
    return LandmarkTraining(config)._squares(
        x,
        points,
        np.zeros((n, 3)),
        np.ones(n, bool),
        np.random.default_rng(0),
        torch.Generator().manual_seed(0),
    )


def spots(n, rng):
    """Points of faces, and pictures that are bright at point 30 only."""
    points = np.repeat(rng.uniform(30, 80, (1, 68, 2)), n, 0).astype(np.float32)
    points[:, 30] = (55, 52)  # inside, however the square is cut
    y, x = np.mgrid[:SIZE, :SIZE]
    centre = points[:, 30]
    far = (x - centre[:, :1, None]) ** 2 + (y - centre[:, 1:, None]) ** 2
    picture = 2 * np.exp(-far / 18) - 1
    return torch.from_numpy(picture[:, None].repeat(3, 1)).float(), points


@pytest.mark.parametrize("truncated", [0.0, 1.0])
def test_points_stay_on_what_they_mark(plain, truncated):
    x, points = spots(24, np.random.default_rng(1))
    batch = squares(x, points, truncated=truncated)
    at = batch["points"][:, 30].view(-1, 1, 1, 2)
    shown = torch.nn.functional.grid_sample(batch["image"][:, :1], at, align_corners=False)
    assert shown.min() > 0.7


def test_a_picture_cut_close_to_the_face_is_mirrored_beyond_its_edges(plain):
    """Only what is inside the moved edges is shown, and never a border of another value."""
    points = np.repeat(np.random.default_rng(2).uniform(40, 70, (1, 68, 2)), 16, 0)
    x = torch.ones(16, 3, SIZE, SIZE)
    x[..., 32:80, 32:80] = 0.0  # the face and all that a cut leaves around it
    shown = squares(x, points, truncated=1.0)["image"]
    whole = squares(x, points, truncated=0.0)["image"]
    assert (whole > 0.5).float().mean() > 0.02
    assert (shown > 0.5).float().mean() == 0

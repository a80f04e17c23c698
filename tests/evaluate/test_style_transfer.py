"""The measures of expression transfer by style codes, on a tiny random generator."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mien.cli.evaluation import _layers
from mien.data.procedural import write_table
from mien.evaluate.style_transfer import aligned_error, evaluate_transfer
from mien.files.errors import ConfigError
from mien.methods.styletransfer import StyleTransfer


def small(crops: np.ndarray) -> np.ndarray:
    """A judge: the picture itself, small."""
    x = crops.reshape(len(crops), 16, 4, 16, 4, 3).mean((2, 4)) - 128
    return np.asarray(x.reshape(len(x), -1), np.float32)


def test_every_question_is_answered(tmp_path: Path) -> None:
    write_table(tmp_path / "table", persons=24, frames=2, size=64)
    torch.manual_seed(0)
    config = StyleTransfer.Config(
        channel_base=256, channel_max=8, z_dim=8, w_dim=8, width=4, mapping_layers=2
    )
    method = StyleTransfer(config).eval()
    method.calibrate()
    method.neutral_directions[0] = torch.nn.functional.normalize(torch.randn(80), dim=0).view(10, 8)
    report = evaluate_transfer(
        method, tmp_path / "table", judge=small, pairs=4, search_pairs=1, generated=2, steps=4,
        layers=[(2, 3, 4)], splits=("val", "test"), out=tmp_path / "report", cache=False,
        progress=False,
    )  # fmt: skip
    measures = report.measures
    assert (
        measures["generated: PSNR, dB"]["value"]
        > measures["generated: PSNR, dB"]["others"]["w_avg"]
    )
    assert {"w_avg", "nearest training face"} <= set(measures["photos: PSNR, dB"]["others"])
    still = measures["configured layers 3, 4: cosine to the source"]
    assert still["others"]["unedited"] == pytest.approx(1, abs=1e-4)
    assert still["value"] < 1
    more = measures["given layers 2, 3, 4: cosine to the source"]
    assert more["others"] == still["others"]
    assert more["value"] != still["value"]
    directed = measures["directions away from neutral: cosine to the source"]
    assert directed["value"] not in (still["value"], more["value"])
    assert report.layers["method"] == "all masks"
    assert report.layers["rank_of_configured"] >= 1
    assert "counted from 1" in report.markdown()
    for name in ("transfer.json", "transfer.md", "transfer.png", "descent.png", "masks.png"):
        assert (tmp_path / "report" / name).stat().st_size > 0


def test_aligned_error_sees_shape_alone() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(size=(3, 68, 2)).astype(np.float32)
    turn = np.array([[0.8, -0.6], [0.6, 0.8]], np.float32)
    assert aligned_error(2 * true @ turn + 5, true).max() < 1e-3
    assert aligned_error(true * [1, 1.5], true).min() > 1


def test_layers_are_read() -> None:
    assert _layers("2-4") == _layers("2,3,4") == (2, 3, 4)
    assert _layers("1,4-5") == (1, 4, 5)
    for bad in ("", "a", "3-", "2--4"):
        with pytest.raises(ConfigError, match="--layers"):
            _layers(bad)


def test_other_methods_are_refused(tmp_path: Path) -> None:
    other = SimpleNamespace(name="fake")
    with pytest.raises(ConfigError, match="no style codes"):
        evaluate_transfer(other, tmp_path, judge=small)  # type: ignore[arg-type]

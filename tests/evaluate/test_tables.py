from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mien.data.procedural import write_table
from mien.evaluate.encoders import Encoder, encoder
from mien.evaluate.tables import arrange, as_numbers, column, open_faces, reduced
from mien.evaluate.task import Settings
from mien.files.errors import ConfigError, TableError


def test_columns_and_fingerprint(coded_table: Path) -> None:
    faces = open_faces([coded_table])
    assert len(faces) == 24 * 12
    assert faces.pose.shape == (288, 3)
    assert np.abs(faces.pose).max(0) == pytest.approx([60, 30, 20], abs=2)
    assert set(faces.expression) == {"happy", "neutral", "sad", "surprise"}
    assert set(faces.makeup) == {0, 1}
    assert len(faces.fingerprint) == 64
    assert faces.names == "coded"
    assert len(np.unique(faces.groups)) == 24


def test_the_crops_are_those_of_the_rows(coded_table: Path, reads: Callable) -> None:
    faces = open_faces([coded_table])
    values = faces.embed(encoder(reads("yaw")), Settings(), None, False)
    assert values[:, 0] == pytest.approx(faces.pose[:, 0] / 120 + 0.5, abs=4e-3)


def test_several_tables_keep_their_order(
    coded_table: Path, write_coded: Callable, tmp_path: Path, reads: Callable
) -> None:
    other = write_coded(tmp_path / "other", persons=3, dataset="other", first_person=50)
    both = open_faces([coded_table], [other])
    assert both.names == "coded → other"
    assert both.held.sum() == 36
    assert set(both.dataset[both.held]) == {"other"}
    assert both.fingerprint != open_faces([coded_table]).fingerprint
    values = both.embed(encoder(reads("pitch")), Settings(), None, False)
    assert values[:, 0] == pytest.approx(both.pose[:, 1] / 60 + 0.5, abs=4e-3)


def test_limit_takes_the_same_rows_of_labels_and_crops(coded_table: Path, reads: Callable) -> None:
    faces = open_faces([coded_table], limit=40)
    assert len(faces) == 40
    values = faces.embed(encoder(reads("roll")), Settings(), None, False)
    assert values[:, 0] == pytest.approx(faces.pose[:, 2] / 40 + 0.5, abs=4e-3)


def test_folds_measure_everybody_once_and_part_persons(coded_table: Path) -> None:
    faces = open_faces([coded_table])
    splits, words = arrange(faces, np.ones(288, bool), folds=4)
    assert "4 folds" in words
    assert sorted(np.concatenate([s.test for s in splits]).tolist()) == list(range(288))
    for split in splits:
        sides = [set(faces.groups[rows]) for rows in (split.train, split.val, split.test)]
        assert not sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2]
        assert split.carved
        assert len(split.official_train) == len(split.train) + len(split.val)
        assert min(len(s) for s in sides) >= 1


def test_the_split_column_is_used_where_it_names_a_test_split(tmp_path: Path) -> None:
    write_table(tmp_path / "t", persons=20, frames=3, size=32)
    faces = open_faces([tmp_path / "t"])
    ((split,), words) = arrange(faces, np.ones(60, bool), folds=5)
    assert "own split" in words
    assert (len(split.train), len(split.val), len(split.test)) == (48, 6, 6)
    assert not split.carved
    assert split.official_train is split.train
    many, _ = arrange(faces, np.ones(60, bool), folds=5, always_folds=True)
    assert len(many) == 5


def test_only_a_validation_split_means_folds(write_coded: Callable, tmp_path: Path) -> None:
    faces = open_faces([write_coded(tmp_path / "v", persons=6, split="val")])
    splits, _ = arrange(faces, np.ones(len(faces), bool), folds=3)
    assert len(splits) == 3
    assert all(len(s.train) and len(s.val) for s in splits)


def test_test_tables_are_tested_on_only(
    coded_table: Path, write_coded: Callable, tmp_path: Path
) -> None:
    other = write_coded(tmp_path / "other", persons=3, dataset="other")
    faces = open_faces([coded_table], [other])
    ((split,), _) = arrange(faces, np.ones(len(faces), bool), folds=5)
    assert faces.held[split.test].all()
    assert not faces.held[np.concatenate([split.train, split.val])].any()


def test_one_person_on_both_sides_is_an_error(
    coded_table: Path, write_coded: Callable, tmp_path: Path
) -> None:
    again = write_coded(tmp_path / "again", persons=2)
    faces = open_faces([coded_table], [again])
    with pytest.raises(TableError, match=r"2 persons .* in the training and in the test sets"):
        arrange(faces, np.ones(len(faces), bool), folds=5)


def test_too_few_persons(write_coded: Callable, tmp_path: Path) -> None:
    faces = open_faces([write_coded(tmp_path / "few", persons=2)])
    with pytest.raises(TableError, match="for 2 persons"):
        arrange(faces, np.ones(len(faces), bool), folds=5)


def test_projection_is_fitted_on_train_only(coded_table: Path, reads: Callable) -> None:
    faces = open_faces([coded_table])
    splits, _ = arrange(faces, np.ones(288, bool), folds=3)
    values = np.random.default_rng(0).normal(size=(288, 30)).astype(np.float32)
    plain = Encoder("x", "", 16, reads("yaw"))
    assert reduced(values, splits[0], plain, Settings())[1] == 0
    wanted = Encoder("x", "", 16, reads("yaw"), pca=5)
    parts, count = reduced(values, splits[0], wanted, Settings())
    assert count == 5
    assert [p.shape[1] for p in parts] == [5, 5, 5]
    ruined = values.copy()
    ruined[splits[0].test] = 1e3
    assert np.array_equal(reduced(ruined, splits[0], wanted, Settings())[0][0], parts[0])


def _npz(path: Path, poses: np.ndarray) -> None:
    images = np.zeros((len(poses), 64, 64, 3), np.uint8)
    images[:, :, :32] = (poses[:, 0] / 2 + 128).astype(np.uint8)[:, None, None, None]
    np.savez(path, image=images, pose=poses)


def test_published_crops_are_read_without_a_table(tmp_path: Path) -> None:
    poses = np.random.default_rng(0).uniform(-90, 90, (12, 3))
    _npz(tmp_path / "AFLW2000.npz", poses)
    faces = open_faces([f"pose_npz:{tmp_path / 'AFLW2000.npz'}"])
    assert faces.parts[0].shape == (12, 64, 64, 3)
    assert faces.pose == pytest.approx(poses * (-1, 1, 1), abs=1e-4)
    assert len(np.unique(faces.groups)) == 12


def test_published_photos_need_prepare(lfw_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "01").mkdir()
    (tmp_path / "01" / "frame_00003_rgb.png").write_bytes(b"")
    (tmp_path / "01" / "frame_00003_pose.txt").write_text("1 0 0\n0 1 0\n0 0 1\n\n0 0 0\n")
    with pytest.raises(TableError, match="mien prepare biwi:"):
        open_faces([f"biwi:{tmp_path}"])


def test_no_table(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--table"):
        open_faces([])
    with pytest.raises(TableError, match="not a table of faces"):
        open_faces([tmp_path])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("yaw", "f"),
        ("makeup", "f"),
        ("expression", "U"),
        ("person", "U"),
        ("AU12", "f"),
        ("light_azimuth", "f"),
        ("note", "U"),
    ],
)
def test_columns(coded_table: Path, name: str, kind: str) -> None:
    values = column(open_faces([coded_table]), name)
    assert values.shape == (288,)
    assert values.dtype.kind == kind


def test_no_such_column(coded_table: Path) -> None:
    faces = open_faces([coded_table])
    with pytest.raises(TableError, match="did you mean 'expression'"):
        column(faces, "expresion")
    with pytest.raises(TableError, match="is empty"):
        column(faces, "clip")


def test_as_numbers() -> None:
    assert as_numbers(["1", "", "2.5"])[[0, 2]].tolist() == [1, 2.5]
    assert as_numbers(["1", "short"]).tolist() == ["1", "short"]

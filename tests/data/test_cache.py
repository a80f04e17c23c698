import cv2
import numpy as np
import pytest

from mien.data.cache import FaceCache
from mien.data.table import Row, TableWriter
from mien.faces.image import encode_image
from mien.files.errors import TableError


def _picture(value: int, size: int = 32):
    image = np.full((size, size, 3), value, np.uint8)
    image[:, : size // 2, 0] = 255 - value
    return image


def _table(folder, rows, size=32):
    with TableWriter(folder, crop="tight", size=size) as writer:
        for i, known in enumerate(rows):
            image = known.pop("image", None) or encode_image(_picture(10 * i, size))
            writer.add(Row(image, f"{i}.png", **known))
    return folder


def test_pictures_are_the_table_s_in_its_order(tmp_path):
    cache = FaceCache(_table(tmp_path / "t", [{} for _ in range(5)]), 32)
    assert cache.images.shape == (5, 3, 32, 32)
    for i in range(5):
        assert np.array_equal(cache.images[i], _picture(10 * i).transpose(2, 0, 1))
    taken = cache.take(np.array([3, 1, 3]))
    assert np.array_equal(taken.numpy(), cache.images[[3, 1, 3]])


def test_another_size_resizes_pictures_and_landmarks(tmp_path):
    points = np.zeros((68, 2), np.float32)
    points[0] = (-0.5, -0.5)  # outer corner: stays it at every size
    points[1] = (31.5, 31.5)
    cache = FaceCache(_table(tmp_path / "t", [{"landmarks": points}, {}]), 16)
    assert cache.images.shape == (2, 3, 16, 16)
    mean = cv2.resize(_picture(0), (16, 16), interpolation=cv2.INTER_AREA)
    assert np.array_equal(cache.images[0], mean.transpose(2, 0, 1))
    assert np.allclose(cache.landmarks[0, :2], [[-0.5, -0.5], [15.5, 15.5]])
    assert np.isnan(cache.landmarks[1]).all()


def test_labels(tmp_path):
    rows = [
        {"dataset": "a", "person": "1", "clip": "x", "yaw": 3.0, "split": "train"},
        {"dataset": "a", "person": "1", "clip": "y", "split": "val"},
        {"dataset": "b", "person": "1", "clip": "x", "expression": "happy", "split": "test"},
        {"dataset": "a", "person": "2", "clip": "x"},
        {},
    ]
    cache = FaceCache(_table(tmp_path / "t", rows), 32)
    assert cache.person[0] == cache.person[1]
    assert len(set(cache.person.tolist())) == 4  # a1, b1, a2, unknown
    assert cache.person[4] == cache.clip[4] == -1
    assert len(set(cache.clip[:4].tolist())) == 4  # clip names are a person's own
    assert cache.pose[0, 0] == 3
    assert np.isnan(cache.pose[0, 1:]).all()
    assert cache.expression.tolist() == ["", "", "happy", "", ""]
    assert cache.select().tolist() == [0, 3, 4]  # no split: train
    assert cache.select("val").tolist() == [1]


def test_a_missing_split_is_an_error(tmp_path):
    cache = FaceCache(_table(tmp_path / "t", [{}]), 32)
    with pytest.raises(TableError, match="no faces in the split 'val'"):
        cache.select("val")


def test_the_cache_is_built_once_and_again_when_the_table_changes(tmp_path):
    folder = _table(tmp_path / "t", [{}, {}])
    FaceCache(folder, 32)
    file = folder / ".cache-32.npy"
    before = file.stat().st_mtime_ns
    FaceCache(folder, 32)
    assert file.stat().st_mtime_ns == before
    with TableWriter(folder, crop="tight", size=32) as writer:
        writer.add(Row(encode_image(_picture(99)), "new.png"))
    cache = FaceCache(folder, 32)
    assert len(cache) == 3
    assert np.array_equal(cache.images[2], _picture(99).transpose(2, 0, 1))


def test_a_build_that_was_cut_off_is_done_again(tmp_path):
    folder = _table(tmp_path / "t", [{}])
    FaceCache(folder, 32)
    (folder / ".cache-32.json").unlink()
    (folder / ".cache-32.npy").write_bytes(b"half")
    assert len(FaceCache(folder, 32)) == 1


def test_a_damaged_picture_is_named_and_leaves_no_cache(tmp_path):
    folder = _table(tmp_path / "t", [{}, {"image": b"no picture"}])
    with pytest.raises(TableError, match=r"picture of 1\.png .* is damaged"):
        FaceCache(folder, 32)
    assert not list(folder.glob(".cache*"))


def test_an_empty_table_is_an_error(tmp_path):
    with TableWriter(tmp_path / "t", crop="tight", size=32):
        pass
    with pytest.raises(TableError, match="holds no faces"):
        FaceCache(tmp_path / "t", 32)


def test_pictures_are_mapped_and_not_loaded(tmp_path):
    cache = FaceCache(_table(tmp_path / "t", [{}]), 32)
    assert isinstance(cache.images, np.memmap)
    assert not cache.images.flags.writeable

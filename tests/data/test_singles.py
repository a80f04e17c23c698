import pytest
import torch

from mien.data.cache import FaceCache
from mien.data.procedural import write_table
from mien.data.singles import Part, SingleSampler
from mien.files.errors import ConfigError, TableError


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> list[FaceCache]:
    folders = [tmp_path_factory.mktemp(name) for name in ("few", "many")]
    for folder, persons in zip(folders, (2, 6), strict=True):
        write_table(folder, persons=persons, frames=2, size=16)
    return [FaceCache(folder, 16) for folder in folders]


class Marked:
    """Pictures that tell their table and row by their first two values."""

    def __init__(self, mark: int, count: int) -> None:
        self.images = torch.zeros(count, 3, 2, 2, dtype=torch.uint8)
        self.images[:, 0, 0, 0] = mark
        self.images[:, 0, 0, 1] = torch.arange(count)

    def __len__(self) -> int:
        return len(self.images)

    def select(self, split: str):
        assert split == "train"
        return torch.arange(len(self.images)).numpy()

    def take(self, rows):
        return self.images[torch.from_numpy(rows)]


def test_a_batch_is_a_function_of_seed_rank_and_step(caches):
    def draw(seed, rank, step):
        return SingleSampler(caches, {"a": Part(5), "b": Part(3)}, seed, rank)(step)

    first, again = draw(1, 0, 7), draw(1, 0, 7)
    assert first.keys() == {"a", "b"}
    assert first["a"].shape == (5, 3, 16, 16)
    assert first["a"].dtype == torch.float32
    assert first["a"].abs().max() <= 1
    assert all(v.equal(again[k]) for k, v in first.items())
    assert not first["a"][:3].equal(first["b"])  # parts are drawn independently
    for other in (draw(2, 0, 7), draw(1, 1, 7), draw(1, 0, 8)):
        assert not first["a"].equal(other["a"])


def origin(batch: torch.Tensor) -> torch.Tensor:
    return ((batch[:, 0, 0, 0] + 1) * 127.5).round()


def test_tables_have_their_shares():
    tables = [Marked(1, 10), Marked(2, 30)]
    by_size = origin(SingleSampler(tables, {"x": Part(4000)}, 0, 0)(0)["x"])
    assert (by_size == 2).float().mean() == pytest.approx(0.75, abs=0.03)
    weighted = origin(SingleSampler(tables, {"x": Part(4000, (3.0, 1.0))}, 0, 0)(0)["x"])
    assert (weighted == 2).float().mean() == pytest.approx(0.25, abs=0.03)
    one = origin(SingleSampler(tables, {"x": Part(50, (0.0, 1.0))}, 0, 0)(0)["x"])
    assert (one == 2).all()


def test_every_picture_is_drawn():
    drawn = SingleSampler([Marked(1, 20)], {"x": Part(400)}, 0, 0)(0)["x"]
    rows = ((drawn[:, 0, 0, 1] + 1) * 127.5).round()
    assert rows.unique().tolist() == list(range(20))


def test_weights_must_fit_the_tables():
    with pytest.raises(TableError, match="2 weights are given for 1 tables"):
        SingleSampler([Marked(1, 4)], {"x": Part(2, (1.0, 2.0))}, 0, 0)


def test_partners_are_other_frames_of_the_clip_or_the_mirror_image():
    clips = Marked(1, 12)
    clips.clip = torch.arange(12).numpy() // 4 - 1  # -1: the first four have no clip
    clips.images[:, 0, 1, 0] = 7  # on the left alone
    parts = {"x": Part(300, partners=3), "y": Part(5)}
    batch = SingleSampler([clips], parts, 0, 0)(0)
    assert batch.keys() == {"x", "x_partners", "y"}
    assert batch["x_partners"].shape == (900, 3, 2, 2)

    def value(pictures: torch.Tensor, y: int, x: int) -> torch.Tensor:
        return ((pictures[:, 0, y, x] + 1) * 127.5).round()

    row = value(batch["x"], 0, 1)
    alone = row < 4
    for partners in batch["x_partners"].chunk(3):
        other = value(partners, 0, 1)
        assert ((other // 4) == (row // 4))[~alone].all()
        assert (other != row)[~alone].float().mean() > 0.8
        assert (value(partners, 1, 1) == 7).equal(alone)  # mirrored
        assert (value(partners, 0, 0) == row)[alone].all()
    first, second, _ = batch["x_partners"].chunk(3)
    assert not first.equal(second)


def test_networks_of_another_size_are_refused_with_the_mend(caches: list[FaceCache]) -> None:
    parts = {"image": Part(4)}
    with pytest.raises(ConfigError, match=r"add config\.size=16"):
        SingleSampler(caches, parts, 0, 0, size=64)
    assert SingleSampler(caches, parts, 0, 0, size=16)(0)["image"].shape == (4, 3, 16, 16)

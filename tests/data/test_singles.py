import pytest
import torch

from mien.data.cache import FaceCache
from mien.data.procedural import write_table
from mien.data.singles import SingleSampler
from mien.files.errors import TableError


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

    def select(self, split: str):
        assert split == "train"
        return torch.arange(len(self.images)).numpy()

    def take(self, rows):
        return self.images[torch.from_numpy(rows)]


def test_a_batch_is_a_function_of_seed_rank_and_step(caches):
    def draw(seed, rank, step):
        return SingleSampler(caches, {"a": 5, "b": 3}, seed, rank)(step)

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
    by_size = origin(SingleSampler(tables, {"x": 4000}, 0, 0)(0)["x"])
    assert (by_size == 2).float().mean() == pytest.approx(0.75, abs=0.03)
    weighted = origin(SingleSampler(tables, {"x": 4000}, 0, 0, (3.0, 1.0))(0)["x"])
    assert (weighted == 2).float().mean() == pytest.approx(0.25, abs=0.03)
    one = origin(SingleSampler(tables, {"x": 50}, 0, 0, (0.0, 1.0))(0)["x"])
    assert (one == 2).all()


def test_every_picture_is_drawn():
    drawn = SingleSampler([Marked(1, 20)], {"x": 400}, 0, 0)(0)["x"]
    rows = ((drawn[:, 0, 0, 1] + 1) * 127.5).round()
    assert rows.unique().tolist() == list(range(20))


def test_weights_must_fit_the_tables():
    with pytest.raises(TableError, match="2 weights are given for 1 tables"):
        SingleSampler([Marked(1, 4)], {"x": 2}, 0, 0, (1.0, 2.0))

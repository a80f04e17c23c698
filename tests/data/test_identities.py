import numpy as np
import pytest
import torch

from mien.data.facs import UNITS
from mien.data.identities import IdentitySampler, IdentitySettings
from mien.files.errors import TableError

STILL = {"flip": 0.0}


class Column:
    def __init__(self, persons):
        self.persons = persons

    def column(self, name):
        assert name == "person"
        return self.persons


class Marked:
    """Pictures that tell their table and row by their first two values."""

    size = 16

    def __init__(self, mark: int, persons: list[str | None], dataset: str = "a") -> None:
        self.images = torch.zeros(len(persons), 3, 16, 16, dtype=torch.uint8)
        self.images[:, 0, 0, 0] = mark
        self.images[:, 0, 0, 1] = torch.arange(len(persons))
        self.images[:, 1] = torch.randint(256, (16, 16), dtype=torch.uint8)
        self.dataset = np.array([dataset] * len(persons))
        self.table = Column(persons)
        self.train = np.arange(len(persons))

    def select(self, split: str):
        assert split == "train"
        return self.train

    def take(self, rows):
        return self.images[torch.from_numpy(rows)]


PERSONS = ["zoe", "ann", "zoe", "bob", None, "ann", "ann", None]


def origin(x: torch.Tensor) -> torch.Tensor:
    """Table and row of unchanged pictures: ``(B, 2)``."""
    return ((x[:, 0, 0, :2] + 1) * 127.5).round().long()


def sampler(caches, batch_size=64, seed=0, rank=0, teacher=(), **settings):
    return IdentitySampler(
        caches, IdentitySettings(**settings), batch_size, seed, rank, teacher=teacher
    )


def test_a_batch_is_a_function_of_seed_rank_and_step():
    caches = [Marked(0, PERSONS)]
    settings = {"degrees": 8.0, "jitter": 0.3, "blur": 0.5}

    def draw(seed, rank, step):
        return sampler(caches, 16, seed, rank, **settings)(step)

    first, again = draw(1, 0, 7), draw(1, 0, 7)
    assert first.keys() == {"source", "attributes", "label", "same"}
    assert first["source"].shape == first["attributes"].shape == (16, 3, 16, 16)
    assert first["source"].abs().max() <= 1 + 1e-6
    assert first["label"].dtype == torch.int64
    assert all(v.equal(again[k]) for k, v in first.items())
    for other in (draw(2, 0, 7), draw(1, 1, 7), draw(1, 0, 8)):
        assert not first["source"].equal(other["source"])


def test_labels_are_sorted_persons_of_all_tables_with_enough_pictures():
    caches = [Marked(0, PERSONS), Marked(1, ["bob", "ann", "bob"], "b"), Marked(2, ["ann"])]
    drawn = sampler(caches, 400, **STILL)
    assert drawn.persons == 3  # ann and zoe of a, bob of b; bob of a and ann of b have one picture
    batch = drawn(0)
    told = {
        tuple(o): label
        for o, label in zip(origin(batch["source"]).tolist(), batch["label"].tolist(), strict=True)
    }
    table = {(0, i): {"ann": 0, "zoe": 1}.get(p or "", -1) for i, p in enumerate(PERSONS)}
    assert told == table | {(1, 0): 2, (1, 1): -1, (1, 2): 2, (2, 0): 0}
    assert sampler(caches, least=1).persons == 5
    assert sampler(caches, least=3).persons == 1


def test_pictures_outside_the_training_split_are_never_drawn_nor_counted():
    cache = Marked(0, PERSONS)
    cache.train = np.array([0, 1, 4])
    drawn = sampler([cache], 200, **STILL)
    assert drawn.persons == 0
    batch = drawn(0)
    for key in ("source", "attributes"):
        assert set(origin(batch[key])[:, 1].tolist()) == {0, 1, 4}


@pytest.mark.parametrize("flip", [0.0, 0.5, 1.0])
def test_same_pairs_are_one_picture_bit_for_bit(flip):
    batch = sampler([Marked(0, PERSONS)], 64, flip=flip)(0)
    same = batch["same"] > 0
    assert same.sum() == 32
    alike = (batch["source"] == batch["attributes"]).flatten(1).all(1)
    assert alike[same].all()
    assert not alike[~same].any(), "the others are another picture"


def test_same_person_pairs_are_two_pictures_of_a_person():
    batch = sampler([Marked(0, PERSONS)], 600, same_person=True, **STILL)(0)
    same = batch["same"] > 0
    rows = torch.stack([origin(batch[k])[:, 1] for k in ("source", "attributes")], 1)
    seen = {tuple(pair) for pair in rows[same].tolist()}
    alone = {(i, i) for i in (3, 4, 7)}  # one picture, or an unknown person
    twins = {(a, b) for a in (1, 5, 6) for b in (1, 5, 6) if a != b} | {(0, 2), (2, 0)}
    assert seen == alone | twins


def test_the_share_of_same_pairs_is_exact_in_the_mean():
    caches = [Marked(0, PERSONS)]
    for share in (0.0, 0.3, 1.0):
        drawn = sampler(caches, 5, same_share=share)
        counts = [int(drawn(step)["same"].sum()) for step in range(300)]
        assert set(counts) <= {int(5 * share), int(5 * share) + 1}
        assert np.mean(counts) / 5 == pytest.approx(share, abs=0.03)


def test_tables_have_their_shares_in_sources_and_attributes():
    caches = [Marked(0, [None] * 10), Marked(1, [None] * 30)]
    for weights, share in (((), 0.75), ((3.0, 1.0), 0.25)):
        batch = sampler(caches, 4000, weights=weights, same_share=0.0, **STILL)(0)
        tables = [origin(batch[k])[:, 0].float() for k in ("source", "attributes")]
        for table in tables:
            assert table.mean() == pytest.approx(share, abs=0.03)
        assert torch.corrcoef(torch.stack(tables))[0, 1].abs() < 0.06, "independent"


def test_only_sources_are_augmented():
    """``attributes`` is what the drawn face is compared with."""
    batch = sampler([Marked(0, PERSONS)], 16, flip=0.0, degrees=8.0, jitter=0.5)(0)
    same = batch["same"] > 0
    assert not batch["source"][same].equal(batch["attributes"][same])
    assert (origin(batch["attributes"])[:, 1] < len(PERSONS)).all()


def test_a_teacher_tells_what_it_knows_of_the_source():
    caches = [Marked(0, PERSONS), Marked(1, [None] * 4)]
    known = np.arange(16, dtype=np.float32).reshape(8, 2)
    known[3] = np.nan
    batch = sampler(caches, 100, teacher=[known, None], **STILL)(0)
    for (table, row), embedding in zip(origin(batch["source"]), batch["teacher"], strict=True):
        if table == 0 and row != 3:
            assert embedding.tolist() == known[row].tolist()
        else:
            assert embedding.isnan().all()
    assert "teacher" not in sampler(caches, teacher=[None, None])(0)


def test_numbers_that_do_not_fit():
    caches = [Marked(0, PERSONS), Marked(1, [None] * 4)]
    with pytest.raises(TableError, match="3 weights are given for 2 tables"):
        sampler(caches, weights=(1.0, 1.0, 1.0))
    with pytest.raises(TableError, match="1 teacher files are given for 2 tables"):
        sampler(caches, teacher=[None])
    teacher = [np.zeros((8, 2), np.float32), np.zeros((4, 3), np.float32)]
    with pytest.raises(TableError, match="one length"):
        sampler(caches, teacher=teacher)


class Photos(Marked):
    """Photos with landmarks, half of which smile: AU12 moves the mouth's corners."""

    def __init__(self, count: int = 240) -> None:
        super().__init__(0, [f"p{i % 40}" for i in range(count)])
        rng = np.random.default_rng(0)
        smile = np.where(np.arange(count) % 2, 0.9, 0.0).astype(np.float32)
        self.images = torch.from_numpy(rng.integers(0, 255, (count, 3, 16, 16), dtype=np.uint8))
        self.landmarks = rng.uniform(4, 12, (68, 2)) + rng.normal(0, 0.05, (count, 68, 2))
        self.landmarks[:, 48:68, 1] -= 3 * smile[:, None]
        self.landmarks = self.landmarks.astype(np.float32)
        self.pose = rng.normal(0, 3, (count, 3)).astype(np.float32)
        self.clip = np.full(count, -1)
        self.action_units = np.zeros((count, len(UNITS)), np.float32)
        self.action_units[:, UNITS.index("AU12")] = smile


def test_sources_wear_others_expressions_and_attributes_stay_themselves():
    photos = Photos()
    plain, worn = (
        sampler([photos], 64, same_share=0.5, expressions=share, **STILL)(3) for share in (0.0, 1.0)
    )
    assert plain["label"].equal(worn["label"])
    changed = (plain["source"] != worn["source"]).flatten(1).any(1)
    assert changed.all()
    assert worn["source"].abs().max() <= 1
    taken = ((worn["attributes"] + 1) * 127.5).round().byte()
    assert all((photos.images == one).flatten(1).all(1).any() for one in taken)
    some = sampler([photos], 64, same_share=0.5, expressions=0.5, **STILL)(3)
    again = sampler([photos], 64, same_share=0.5, expressions=0.5, **STILL)(3)
    assert some["source"].equal(again["source"])


def test_clips_and_faces_without_landmarks_keep_their_expression():
    photos = Photos(440)
    photos.clip[:100] = 1
    photos.landmarks[100:200] = np.nan
    kept = sampler([photos], 256, expressions=1.0, **STILL)(0)["source"]
    taken = ((kept + 1) * 127.5).round().byte()
    untouched = torch.stack([(photos.images[:200] == one).flatten(1).all(1).any() for one in taken])
    assert 80 < untouched.sum() < 150  # 200 of 440 photos


def test_expressions_need_photos_with_action_units():
    photos = Photos()
    photos.action_units[:] = 0
    with pytest.raises(TableError, match="annotations"):
        sampler([photos], 4, expressions=0.5)

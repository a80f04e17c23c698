"""Chains: one change a face, batches over photos, resume, comparison, the table of the best."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from mien import weights
from mien.data.warp import warp
from mien.edit.best import BEST, able, best, card_tasks
from mien.edit.chain import Chain, Step, compose
from mien.edit.many import compare, edit_photos
from mien.edit.photos import Editor
from mien.faces.image import read_image, write_image
from mien.faces.provenance import read_provenance
from mien.files.errors import ConfigError, FaceError


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def results(node: object, measure: str) -> float | None:
    """Return the edited value of a measure, wherever it stands in a card's results."""
    if isinstance(node, dict):
        if measure in node:
            return float(node[measure].get("edited", node[measure].get("swapped")))
        found = [results(v, measure) for v in node.values()]
        return next((f for f in found if f is not None), None)
    return None


@pytest.mark.parametrize("task", BEST)
def test_the_best_is_what_the_cards_say(task) -> None:
    assert best(task) == BEST[task].weights
    if not BEST[task].measure:
        return
    cards = {name: weights.card(name)["results"] for name in able(task)}
    found = {name: results(card, BEST[task].measure) for name, card in cards.items()}
    if task == "frontalise":  # derl's neutral faces are no frontal ones
        assert "derl" not in found
    measured = {k: v for k, v in found.items() if v is not None}
    assert best(task) == (min if BEST[task].lower else max)(measured, key=measured.__getitem__)


def test_a_task_without_weights_says_so() -> None:
    with pytest.raises(ConfigError, match="did you mean 'neutralise'"):
        best("neutralize")


def test_one_step_is_the_edit_itself(toy_method, toy_finder, photo) -> None:
    chain = Chain([Step("neutralise", method=toy_method)], finder=toy_finder(1))
    editor = Editor(toy_method, finder=toy_finder(1))
    faces = editor.find(photo)
    assert np.array_equal(chain.apply(photo, faces), editor.apply("neutralise", photo, faces))


def test_strength_zero_changes_nothing(toy_method, toy_finder, photo) -> None:
    steps = [Step("neutralise", strength=0, method=toy_method)] * 2
    chain = Chain(steps, finder=toy_finder(1))
    assert np.array_equal(chain.apply(photo, chain.finder([photo])[0]), photo)


def test_flows_add_up_to_one() -> None:
    torch.manual_seed(0)
    image = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 6), (64, 64), mode="bicubic")
    inner = torch.zeros(1, 1, 64, 64)
    inner[..., 16:48, 16:48] = 1
    smooth = torch.nn.functional.avg_pool2d(inner, 9, 1, 4)
    first = 0.08 * smooth * torch.tensor([1.0, -0.5]).view(1, 2, 1, 1)
    second = 0.06 * smooth * torch.tensor([-0.3, 1.0]).view(1, 2, 1, 1)
    twice = warp(warp(image, first), second)
    assert (warp(image, compose(first, second)) - twice).abs().max() < 0.02
    assert (warp(image, first + second) - twice).abs().max() > (
        2 * (warp(image, compose(first, second)) - twice).abs().max()
    )


def test_steps_are_done_in_order_and_pasted_once(toy_method, toy_finder, photo) -> None:
    white = np.full_like(photo, 255)
    swap = Step("identity", white, 0.5, toy_method)
    mean = Step("mean-face", None, 0.5, toy_method)
    one, other = (Chain(s, finder=toy_finder(1)) for s in ([swap, mean], [mean, swap]))
    faces = one.finder([photo])[0]
    old = faces[0].crop.astype(float)
    (change,) = one.changes(faces)
    assert np.abs(change.new - ((old + 255) / 2 + 127.5) / 2).max() <= 1
    (change,) = other.changes(faces)
    assert np.abs(change.new - ((old + 127.5) / 2 + 255) / 2).max() <= 1
    assert one.record.task == "identity+mean-face"


def test_faces_of_all_photos_are_one_batch(tmp_path, toy_method, toy_finder, photo) -> None:
    for i in range(4):
        write_image(tmp_path / "in" / f"{i}.png", photo)
    steps = [Step("neutralise", method=toy_method), Step("mean-face", method=toy_method)]
    done = edit_photos(
        tmp_path / "in", steps, out=tmp_path / "out", face="all", finder=toy_finder(2)
    )
    assert toy_method.calls == 1
    assert [p.name for p in done.written] == [f"{i}-neutralise+mean-face.png" for i in range(4)]
    found = read_provenance(done.written[0])
    assert found is not None
    assert (found.state, found.record.task) == ("valid", "neutralise+mean-face")


def test_damaged_photos_cost_nothing_else_and_finished_ones_stay(
    tmp_path, toy_method, toy_finder, photo
) -> None:
    for name in ("a", "c"):
        write_image(tmp_path / "in" / f"{name}.png", photo)
    (tmp_path / "in" / "b.png").write_text("text")
    args = {"out": tmp_path / "out", "finder": toy_finder(1)}
    steps = [Step("neutralise", method=toy_method)]
    first = edit_photos(tmp_path / "in", steps, **args)
    assert len(first.written) == 2
    assert list(first.skipped) == [str(tmp_path / "in" / "b.png")]
    again = edit_photos(tmp_path / "in", steps, **args)
    assert (again.written, again.finished) == ([], first.written)
    first.written[0].unlink()
    assert edit_photos(tmp_path / "in", steps, **args).written == first.written[:1]
    later = first.written[0].stat().st_mtime + 10
    os.utime(tmp_path / "in" / "c.png", (later, later))
    assert edit_photos(tmp_path / "in", steps, **args).written == first.written[1:]
    os.utime(tmp_path / "in" / "c.png", (0, 0))
    half = [Step("neutralise", strength=0.5, method=toy_method)]
    assert len(edit_photos(tmp_path / "in", half, **args).written) == 2
    assert len(edit_photos(tmp_path / "in", half, overwrite=True, **args).written) == 2
    with pytest.raises(FaceError, match="None of 3 photos"):
        edit_photos(tmp_path / "in", half, out=tmp_path / "none", finder=toy_finder(0))


def test_what_other_settings_left_is_not_finished(
    tmp_path, toy_method, toy_finder, photo, monkeypatch
) -> None:
    """A run that is cut off must not take the pictures of an earlier, different run for its own."""
    for name in ("a", "b"):
        write_image(tmp_path / "in" / f"{name}.png", photo)
    args = {"out": tmp_path / "out", "finder": toy_finder(1)}
    edit_photos(tmp_path / "in", [Step("neutralise", method=toy_method)], **args)
    half = [Step("neutralise", strength=0.5, method=toy_method)]
    with monkeypatch.context() as cut:
        cut.setattr(Chain, "changes", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            edit_photos(tmp_path / "in", half, **args)
    done = edit_photos(tmp_path / "in", half, **args)
    assert len(done.written) == 2
    assert read_provenance(done.written[0]).record.strength == 0.5


def test_a_sheet_of_every_method(tmp_path, toy_method, toy_finder, photo) -> None:
    write_image(tmp_path / "a.png", photo)
    out = tmp_path / "sheet.png"
    compare(
        tmp_path / "a.png",
        [Step("identity", photo[::-1].copy())],
        out=out,
        methods=[toy_method, toy_method],
        finder=toy_finder(1),
    )
    sheet = read_image(out)
    assert sheet.shape[1] == 4 * 256  # photo, driver, two methods
    assert np.array_equal(sheet[:, 512:768], sheet[:, 768:])
    assert not np.array_equal(sheet[24:, :256], sheet[24:, 768:])
    assert read_provenance(out).state == "valid"


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([], "at least one step"),
        ([Step("neutralise", driver="x.jpg")], "takes no driver"),
        ([Step("neutralise"), Step("expression")], "needs a driver"),
        ([Step("neutralise", strength=2)], "from 0"),
    ],
)
def test_wrong_chains(steps, message, toy_finder) -> None:
    with pytest.raises(ConfigError, match=message):
        Chain(steps, finder=toy_finder(1))


def test_the_pose_that_steps_aim_at(toy_method, toy_finder, photo) -> None:
    finder = toy_finder(1)
    face = dataclasses.replace(finder([photo], [""])[0][0], pose=(20.0, 4.0, 3.0))
    driver = dataclasses.replace(face, pose=(-10.0, 8.0, 9.0))
    chain = Chain([Step("neutralise", method=toy_method)], finder=finder)
    assert chain.wanted_pose(face) is None
    chain.steps, chain.drivers = [Step("frontalise", strength=0.5)], [None]
    assert chain.wanted_pose(face) == (10.0, 4.0, 3.0)
    chain.steps, chain.drivers = [Step("pose", driver)], [driver]
    assert chain.wanted_pose(face) == (-10.0, 8.0, 3.0)


def test_tasks_of_some_weights_alone_stand_in_their_card() -> None:
    card = {"method": "styletransfer", "tasks": ["neutralise"]}
    assert card_tasks(card) == ["neutralise", "expression"]
    assert card_tasks({"method": "styletransfer"}) == ["expression"]
    assert "styletransfer" in able("neutralise")

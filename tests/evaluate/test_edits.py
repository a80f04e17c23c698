import json

import numpy as np
import pytest

from mien.data.table import Row, TableWriter
from mien.evaluate.edits import evaluate_edits
from mien.faces.image import encode_image
from mien.files.errors import ConfigError, TableError
from mien.methods.base import Edit

SIZE = 64


def picture(person: int, smile: bool) -> np.ndarray:
    image = np.full((SIZE, SIZE, 3), 60 + 20 * person, np.uint8)
    image[40:46, 20:44] = 200 if smile else 120
    return image


@pytest.fixture
def table(tmp_path):
    with TableWriter(tmp_path / "t", crop="tight", size=SIZE) as writer:
        for person in range(3):
            for expression in ("neutral", "smiling"):
                data = encode_image(picture(person, expression == "smiling"))
                name = f"{person}_{expression}"
                writer.add(Row(data, name, person=str(person), expression=expression))
        writer.add(Row(encode_image(picture(5, True)), "alone", person="9", expression="smiling"))
    return tmp_path / "t"


class Toy:
    """Paints the mouth: of everybody neutral, or as bright as the driver's."""

    name = "toy"

    def neutralise(self, images, strength=1.0):
        out = images.clone()
        out[:, :, 40:46, 20:44] = 120 / 127.5 - 1
        return Edit(out)

    def transfer_expression(self, images, drivers, strength=1.0):
        out = images.clone()
        out[:, :, 40:46, 20:44] = drivers[:, :, 40:46, 20:44]
        return Edit(out)


def test_a_perfect_edit_has_no_error_and_the_copy_has(table, tmp_path):
    report = evaluate_edits(Toy(), table, out=tmp_path / "r")
    assert report.data["pairs"] == 3
    for name in ("transfer L1", "neutralise L1"):
        entry = report.measures[name]
        assert entry["edited"] == 0
        assert entry["copy"] == pytest.approx(80 / 255 * 6 * 24 / SIZE**2, rel=1e-3)
    assert report.measures["transfer SSIM"]["edited"] == pytest.approx(1)
    assert report.measures["transfer SSIM"]["copy"] < 1
    assert report.measures["neutralise landmarks % eyes"]["edited"] == 0
    saved = json.loads((tmp_path / "r" / "edits.json").read_text())
    assert saved["data"]["fingerprint"]
    assert "transfer L1" in (tmp_path / "r" / "edits.md").read_text()


def test_doing_nothing_equals_the_copy(table):
    class Lazy(Toy):
        def neutralise(self, images, strength=1.0):
            return Edit(images)

    entry = evaluate_edits(Lazy(), table).measures["neutralise SSIM"]
    assert entry["edited"] == pytest.approx(entry["copy"])


def test_what_cannot_be_measured_is_said(table, tmp_path):
    class Blind:
        name = "blind"

    with pytest.raises(ConfigError, match="no edit 'neutralise'"):
        evaluate_edits(Blind(), table)
    with TableWriter(tmp_path / "n", crop="tight", size=SIZE) as writer:
        writer.add(Row(encode_image(picture(0, True)), "a", person="1", expression="smiling"))
    with pytest.raises(TableError, match="mien prepare london"):
        evaluate_edits(Toy(), tmp_path / "n")

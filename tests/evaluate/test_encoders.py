from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mien import weights
from mien.evaluate.encoders import Encoder, datasets, encoder
from mien.evaluate.onnx_model import OnnxModel
from mien.files.errors import ConfigError, WeightsError
from mien.files.weights import save_weights
from mien.methods import base


class Toy(base.Method):
    """Two codes of 4 values, and features of any size."""

    @dataclasses.dataclass(frozen=True)
    class Config:
        size: int = 32
        width: int = 3

    name = "toy"

    def __init__(self, config: Config, stage: str = "main") -> None:
        super().__init__(config, stage)
        self.conv = nn.Conv2d(3, config.width, 3, 2, 1)
        self.fc = nn.Linear(config.width * (config.size // 2) ** 2, 8)

    def encode(self, images: Tensor) -> dict[str, Tensor]:
        a, b = self.fc(self.conv(images).flatten(1)).chunk(2, 1)
        return {"expression": a, "identity": b}

    def features(self, images: Tensor, code: str = "expression") -> Tensor:
        return self.conv(images) * (1 if code == "expression" else -1)


class CodesOnly(Toy):
    name = "codes-only"
    features = None  # type: ignore[assignment]


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Path of the weights of a Toy, trained on 'lfw' and 'omi', earlier on renders."""
    monkeypatch.setitem(base._METHODS, "toy", Toy)
    monkeypatch.setitem(base._METHODS, "codes-only", CodesOnly)
    torch.manual_seed(5)
    tensors = Toy(Toy.Config()).state_dict()
    for name in ("toy", "codes-only"):
        card = {"method": name, "config": {"size": 32}, "stage": "main"}
        save_weights(
            tmp_path / f"{name}.safetensors",
            tensors,
            {
                **card,
                "data": [{"table": "LFW_tight", "licences": {"omi": 3, "MIT": 2}}],
                "earlier_stages": [{"data": [{"table": "ict_clips"}]}, {}],
            },
        )
    return str(tmp_path / "toy.safetensors")


def _crops(size: int, n: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3)).astype(np.uint8)


def _images(crops: np.ndarray) -> Tensor:
    return torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 127.5 - 1


@pytest.mark.parametrize(
    ("spec", "size", "dims"),
    [
        ("hog", 64, 1764),
        ("hog,size=48,cell=6", 48, 1764),
        ("lbp", 64, 944),
        ("lbp,size=100", 100, 1475),
        ("pixels", 48, 2304),
        ("pixels,size=32,pca=10", 32, 1024),
    ],
)
def test_hand_made_encoders(spec: str, size: int, dims: int) -> None:
    made = encoder(spec)
    assert (made.name, made.input_size) == (spec, size)
    out = made(_crops(size))
    assert out.shape == (3, dims)
    assert out.dtype == np.float32


def test_keys_differ_where_the_values_do() -> None:
    specs = ["hog", "hog,cell=16", "lbp", "lbp,patch=8", "pixels"]
    assert len({encoder(s).key for s in specs}) == len(specs)
    assert encoder("pixels,pca=10").key == encoder("pixels").key
    assert encoder("pixels,pca=10").pca == 10


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("hog,cel=8", "did you mean 'cell'"),
        ("hog,cell=eight", "is a number"),
        ("hog,cell=2.5", "whole number"),
        ("hog,size=8", "from 16"),
        ("pixels,pca=-1", "from 0"),
        ("onnx:/nowhere/x.onnx", "No ONNX file"),
    ],
)
def test_a_wrong_option_is_one_plain_sentence(spec: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        encoder(spec)


def test_an_unknown_name_is_no_weights() -> None:
    with pytest.raises(WeightsError, match="neither"):
        encoder("nobody-ships-this")


def test_weights_give_the_features_of_the_asked_factor(toy: str) -> None:
    method = weights.load(toy)
    crops = _crops(32)
    with torch.inference_mode():
        features = method.conv(_images(crops)).flatten(1).numpy()
        codes = {k: v.numpy() for k, v in method.encode(_images(crops)).items()}
    assert np.allclose(encoder(toy, "expression")(crops), features, atol=1e-5)
    assert np.allclose(encoder(toy, "identity")(crops), -features, atol=1e-5)
    assert np.allclose(encoder(f"{toy}@features", "identity")(crops), -features, atol=1e-5)
    assert np.allclose(
        encoder(f"{toy}@expression-features", "identity")(crops), features, atol=1e-5
    )
    assert np.allclose(encoder(f"{toy}@identity")(crops), codes["identity"], atol=1e-5)
    both = encoder(f"{toy}@identity+expression")(crops)
    assert np.allclose(both, np.concatenate([codes["identity"], codes["expression"]], 1), atol=1e-5)


def test_weights_at_another_size(toy: str) -> None:
    made = encoder(f"{toy},size=40")
    assert made.input_size == 40
    assert made(_crops(40)).shape == (3, 3 * 20 * 20)


def test_features_of_an_earlier_stage(toy: str) -> None:
    crops = _crops(64)
    made = {k: encoder(f"facecycle,stage={k}", "expression") for k in (0, 2, 5)}
    assert np.array_equal(made[0](crops), made[5](crops))
    assert made[2](crops).shape == (3, 64 * 8 * 8)
    assert made[0].key != made[2].key
    with pytest.raises(ConfigError, match="stages 1 to 5, no 6"):
        encoder("facecycle,stage=6")(crops)
    with pytest.raises(ConfigError, match="is a code"):
        encoder("facecycle@identity,stage=2")
    with pytest.raises(ConfigError, match="features of one stage"):
        encoder(f"{toy},stage=2")


def test_a_method_without_features_gives_its_code(toy: str) -> None:
    made = encoder(toy.replace("toy.", "codes-only."), "identity")
    assert made(_crops(32)).shape == (3, 4)
    with pytest.raises(ConfigError, match="asks for 'expression-features', did you mean"):
        encoder(toy.replace("toy.", "codes-only.") + "@features")


def test_a_factor_that_the_method_has_not_falls_back(toy: str) -> None:
    assert encoder(toy, "pose")(_crops(32)).shape == (3, 3 * 16 * 16)
    with pytest.raises(ConfigError, match="did you mean 'expression'"):
        encoder(f"{toy}@expresion")


def test_the_untrained_twin_is_seeded_and_differs(toy: str) -> None:
    crops = _crops(32)
    state = torch.random.get_rng_state()
    twin = encoder(f"untrained:{toy}")
    assert torch.equal(torch.random.get_rng_state(), state)
    again = encoder(f"untrained:{toy}")
    other = encoder(f"untrained:{toy},seed=1")
    assert np.array_equal(twin(crops), again(crops))
    assert len({twin.key, other.key, encoder(toy).key}) == 3
    assert not np.allclose(twin(crops), encoder(toy)(crops))
    assert not np.allclose(twin(crops), other(crops))
    assert twin(crops).shape == encoder(toy)(crops).shape


def test_what_the_weights_saw(toy: str) -> None:
    assert encoder(toy).seen == ("clips", "ict", "lfw", "mit", "omi", "tight")
    assert encoder(f"untrained:{toy}").seen == ()
    assert datasets([{"dataset": "UTKFace", "rows": 3}, "omi"]) == ("omi", "utkface")
    assert datasets({"datasets": {"LFW": 3}, "fingerprint": "fer2013"}) == ("lfw",)
    assert datasets(None) == ()


def test_a_callable() -> None:
    def mean(crops: np.ndarray) -> np.ndarray:
        return crops.mean((1, 2))

    made = encoder(mean)
    assert (made.name, made.key, made.input_size) == ("mean", "", 64)
    assert made(_crops(64)).dtype == np.float32
    assert encoder(made) is made


@pytest.mark.parametrize(
    "bad",
    [
        lambda crops: np.zeros((len(crops) + 1, 3)),
        lambda crops: np.zeros(len(crops)),
        lambda crops: np.full((len(crops), 2), np.nan),
    ],
)
def test_an_encoder_that_returns_nonsense_is_told_so(bad) -> None:
    with pytest.raises(ConfigError, match="returned"):
        Encoder("bad", "", 16, bad)(_crops(16))


def _onnx_file(path: Path, batch: int | str, last: bool = False) -> str:
    """A model that returns the sums over the height and width of each channel."""
    import onnx
    from onnx import TensorProto, helper

    shape = [batch, 20, 20, 3] if last else [batch, 3, 20, 20]
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2] if last else [2, 3])
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["image", "axes"], ["sum"], keepdims=0)],
        "sums",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, [batch, 3])],
        [axes],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, path)
    return f"onnx:{path}"


@pytest.mark.parametrize(("batch", "last"), [("n", False), (1, False), (2, True)])
def test_an_onnx_file(tmp_path: Path, batch: int | str, last: bool) -> None:
    made = encoder(_onnx_file(tmp_path / "m.onnx", batch, last))
    crops = _crops(20)
    assert made.input_size == 20
    expected = (crops / 127.5 - 1).sum((1, 2))
    assert np.allclose(made(crops), expected, atol=1e-2)


def test_onnx_options(tmp_path: Path) -> None:
    spec = _onnx_file(tmp_path / "m.onnx", "n")
    crops = _crops(20)
    made = encoder(f"{spec},mean=0,std=255,channels=bgr")
    assert np.allclose(made(crops), (crops[..., ::-1] / 255).sum((1, 2)), atol=1e-2)
    assert made.key != encoder(spec).key
    for wrong in (",channels=grey", ",std=0", ",output=logits"):
        with pytest.raises(ConfigError):
            encoder(spec + wrong)


def test_a_text_file_named_onnx_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_text("hello")
    with pytest.raises(ConfigError, match="not a usable ONNX model"):
        encoder(f"onnx:{tmp_path / 'x.onnx'}")


def _reshaping_file(path: Path, shape: list[int], batch_dependent: bool = False) -> str:
    """A model for one picture at a time whose output is a reshape of the channels' means."""
    import onnx
    from onnx import TensorProto, helper

    nodes = [helper.make_node("GlobalAveragePool", ["image"], ["mean"])]
    if batch_dependent:  # subtract the mean over the batch: of one picture it is itself
        nodes += [
            helper.make_node("ReduceMean", ["mean"], ["all"], axes=[0], keepdims=1),
            helper.make_node("Sub", ["mean", "all"], ["rest"]),
        ]
    nodes.append(helper.make_node("Reshape", ["rest" if batch_dependent else "mean", "s"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 20, 20])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor("s", TensorProto.INT64, [len(shape)], shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, path)
    return f"onnx:{path}"


@pytest.mark.parametrize("shape", [[1, -1], [1, 3]])
def test_a_model_for_one_picture_gets_whole_batches(tmp_path: Path, shape: list[int]) -> None:
    spec = _reshaping_file(tmp_path / "m.onnx", shape)
    assert OnnxModel(tmp_path / "m.onnx")._fixed == 0
    crops = _crops(20)
    assert np.allclose(encoder(spec)(crops), crops.mean((1, 2)) / 127.5 - 1, atol=1e-5)


def test_a_model_that_mixes_its_pictures_goes_one_by_one(tmp_path: Path) -> None:
    spec = _reshaping_file(tmp_path / "m.onnx", [1, -1], batch_dependent=True)
    assert OnnxModel(tmp_path / "m.onnx")._fixed == 1
    assert np.abs(encoder(spec)(_crops(20))).max() < 1e-6

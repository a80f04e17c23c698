"""Every method keeps the contract of mien.methods.base, whatever its paper says."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, optim

from mien import weights
from mien.data.cache import FaceCache
from mien.data.procedural import write_table
from mien.data.table import SCHEMA
from mien.edit.tasks import TASKS, task_names
from mien.files.errors import ConfigError
from mien.files.weights import save_weights
from mien.methods import FACTORS, Method, config_from, method_class, method_names

# Settings that make a method small enough for tests; a method that is not named uses its defaults.
SMALL: dict[str, dict[str, Any]] = {
    "facecycle": {"width": 4, "generator_width": 4, "blocks": 2, "perceptual": "none"},
    "ipgan": {"width": 4, "identity_dim": 16, "attribute_dim": 8, "identities": 8},
    "derl": {"width": 4, "local_width": 8, "expressions": ("happy|surprise", "neutral")},
    "landmarks": {"width": 4},
    "pairedcyclegan": {"width": 4, "discriminator_width": 4, "blocks": 2, "size": 16},
    "pcl": {"width": 4, "pose_images": 1, "negatives": 3},
    "simclr": {"width": 4},
    "moco": {"width": 4, "queue": 8},
    "byol": {"width": 4},
    "simsiam": {"width": 4},
    "stylegan": {
        "size": 64,
        "channel_base": 256,
        "channel_max": 8,
        "z_dim": 8,
        "w_dim": 8,
        "mapping_layers": 2,
        "augment": "adaptive",
    },
    "styletransfer": {
        "channel_base": 256,
        "channel_max": 8,
        "z_dim": 8,
        "w_dim": 8,
        "width": 4,
        "invert_steps": 2,
    },
}
SIZE = 64  # of the images
# Methods that the tests of the engine register are not meant.
NAMES = [n for n in method_names() if method_class(n).__module__.startswith("mien.")]
STAGES = [(name, stage) for name in NAMES for stage in method_class(name).stages]


def build(name: str, stage: str | None = None) -> Method:
    """Return a small method with random weights, in evaluation mode."""
    cls = method_class(name)
    torch.manual_seed(0)
    return cls(config_from(cls.Config, SMALL.get(name, {})), stage or cls.stages[-1]).eval()


def images(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 8, 8, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bilinear")


def codes(method: Method, x: Tensor) -> dict[str, Tensor]:
    try:
        with torch.inference_mode():
            return method.encode(x)
    except NotImplementedError:
        pytest.skip("has no codes")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FaceCache:
    folder = tmp_path_factory.mktemp("table")
    write_table(folder, persons=4, frames=4, size=SIZE)
    return FaceCache(folder, SIZE)


@pytest.mark.parametrize("name", NAMES)
def test_class(name: str) -> None:
    cls = method_class(name)
    assert cls.name == name
    assert cls.__doc__
    assert cls.stages
    assert len(set(cls.stages)) == len(cls.stages)
    assert set(cls.columns) <= set(SCHEMA.names)


@pytest.mark.parametrize("name", NAMES)
def test_config_round_trip(name: str) -> None:
    cls = method_class(name)
    for config in (cls.Config(), config_from(cls.Config, SMALL.get(name, {}))):
        values = json.loads(json.dumps(dataclasses.asdict(config)))
        assert config_from(cls.Config, values) == config
        with pytest.raises(dataclasses.FrozenInstanceError):
            config.anything = 1


@pytest.mark.parametrize("name", NAMES)
def test_unknown_settings_and_stages_are_errors(name: str) -> None:
    cls = method_class(name)
    with pytest.raises(ConfigError, match="no_such_setting"):
        config_from(cls.Config, {"no_such_setting": 1})
    first = dataclasses.fields(cls.Config)[0].name
    with pytest.raises(ConfigError, match=f"did you mean '{first}'"):
        config_from(cls.Config, {f"{first}_": 1})
    with pytest.raises(ConfigError, match="no_such_stage"):
        cls(cls.Config(**SMALL.get(name, {})), "no_such_stage")


@pytest.mark.parametrize(("name", "stage"), STAGES)
def test_codes(name: str, stage: str) -> None:
    method = build(name, stage)
    found = codes(method, images(3))
    assert found
    assert set(found) <= set(FACTORS)
    for factor, values in found.items():
        assert values.dtype == torch.float32, factor
        assert values.ndim == 2
        assert len(values) == 3
        assert values.isfinite().all()
        assert (values[0] != values[1]).any(), "depends on the image"
    again = codes(method, images(3))
    alone = codes(method, images(3)[1:2])
    for factor, values in found.items():
        assert torch.equal(values, again[factor]), "deterministic"
        torch.testing.assert_close(values[1:2], alone[factor], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "task"), [(name, task) for name in NAMES for task in task_names(build(name))]
)
def test_edits(name: str, task: str) -> None:
    method = build(name)
    function = getattr(method, TASKS[task].function)
    x = images(2)
    inputs = (x, images(2, seed=1)) if TASKS[task].driver else (x,)
    before = x.clone()
    changes = []
    for strength in (0.0, 0.5, 1.0):
        edit = function(*inputs, strength=strength)
        assert edit.images.shape == x.shape
        assert edit.images.dtype == torch.float32
        assert edit.images.abs().max() <= 1
        assert torch.equal(edit.images, function(*inputs, strength=strength).images)
        if edit.flow is not None:
            assert edit.flow.shape[:2] == (2, 2)
            assert edit.flow.isfinite().all()
        changes.append((edit.images - x).abs().mean().item())
    assert torch.equal(x, before), "the input is left alone"
    assert changes[0] < 1e-6
    assert changes[1] > 0
    assert changes[1] < changes[2]
    for wrong in (-0.1, 1.1):
        with pytest.raises(ConfigError):
            function(*inputs, strength=wrong)


@pytest.mark.parametrize(("name", "stage"), STAGES)
def test_steps(name: str, stage: str, cache: FaceCache) -> None:
    """Two updates on drawn faces: finite losses, weights that move, batches that repeat."""
    method = build(name, stage).train()
    for column in method.columns:
        cache.table.require([column], name)
    sample = method.sampler([cache], batch_size=4, seed=0, rank=0)
    for key, value in sample(0).items():
        assert torch.equal(value, sample(0)[key]), "a batch is a function of the step"
    optimisers: dict[str, optim.Optimizer] = method.optimisers(1e-3)
    updated: list[str] = []

    def update(which: str, loss: Tensor) -> None:
        assert loss.isfinite()
        optimisers[which].zero_grad()
        loss.backward()
        optimisers[which].step()
        updated.append(which)

    old = {k: v.clone() for k, v in method.named_parameters() if v.requires_grad}
    for step in range(2):
        scalars = method.step(sample(step), update)
        assert scalars
        assert all(isinstance(v, float) and v == v for v in scalars.values())
    assert set(updated) == set(optimisers)
    moved = [k for k, v in method.named_parameters() if k in old and not torch.equal(v, old[k])]
    assert len(moved) > len(old) // 2

    picture = method.preview(sample(0))
    assert picture.dtype.name == "uint8"
    assert picture.ndim == 3
    assert picture.shape[2] == 3
    assert picture.std() > 0


@pytest.mark.parametrize(("name", "stage"), STAGES)
def test_weights_round_trip(name: str, stage: str, tmp_path: Path) -> None:
    method = build(name, stage)
    card = {"method": name, "stage": stage, "config": SMALL.get(name, {})}
    save_weights(tmp_path / "w.safetensors", method.state_dict(), card)
    loaded = weights.load(tmp_path / "w.safetensors")
    assert not loaded.training
    assert loaded.config == method.config
    state = loaded.state_dict()
    assert state.keys() == method.state_dict().keys()
    assert all(torch.equal(v, state[k]) for k, v in method.state_dict().items())

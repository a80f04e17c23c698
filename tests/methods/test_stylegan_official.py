"""Published generators: files in the official layouts, and what the official code would draw.

The files are written here, with the official names; no network of the package takes part in what is
expected of them.
"""

from __future__ import annotations

import argparse
import os
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien import weights
from mien.files.errors import WeightsError
from mien.files.network_pickle import read_network_pickle
from mien.methods.stylegan_official import convert, load_official

SIZES = (4, 8, 16)
WIDTH = {4: 6, 8: 6, 16: 4}  # channel_base 64, channel_max 6
W = 5
LAYERS = 2
FIR = torch.outer(*[torch.tensor([1.0, 3.0, 3.0, 1.0])] * 2) / 64


def official_generator(architecture: str = "skip") -> dict[str, Tensor]:
    """Random tensors by NVIDIA's names."""
    torch.manual_seed(0)
    g = {"mapping.w_avg": torch.randn(W), "synthesis.b4.const": torch.randn(6, 4, 4)}
    for i in range(LAYERS):
        g[f"mapping.fc{i}.weight"] = torch.randn(W, W) * 100
        g[f"mapping.fc{i}.bias"] = torch.randn(W) * 10
    for s in SIZES:
        cin, c = WIDTH[max(4, s // 2)], WIDTH[s]
        for layer, a in (("conv0", cin), ("conv1", c), ("torgb", c)):
            if (s == 4 and layer == "conv0") or (
                layer == "torgb" and architecture != "skip" and s != SIZES[-1]
            ):
                continue
            start = f"synthesis.b{s}.{layer}"
            rgb = layer == "torgb"
            g[f"{start}.weight"] = torch.randn(3 if rgb else c, a, *((1, 1) if rgb else (3, 3)))
            g[f"{start}.bias"] = torch.randn(3 if rgb else c)
            g[f"{start}.affine.weight"] = torch.randn(a, W)
            g[f"{start}.affine.bias"] = 1 + 0.3 * torch.randn(a)
            if not rgb:
                g[f"{start}.noise_const"] = torch.randn(s, s)
                g[f"{start}.noise_strength"] = torch.randn(())
                g[f"{start}.resample_filter"] = FIR.clone()
        if architecture == "resnet" and s > 4:
            g[f"synthesis.b{s}.skip.weight"] = torch.randn(c, cin, 1, 1)
        g[f"synthesis.b{s}.resample_filter"] = FIR.clone()
    return g


def official_discriminator() -> dict[str, Tensor]:
    torch.manual_seed(1)
    d = {"b16.fromrgb.weight": torch.randn(4, 3, 1, 1), "b16.fromrgb.bias": torch.randn(4)}
    for s in SIZES[:0:-1]:
        a, b = WIDTH[s], WIDTH[s // 2]
        d[f"b{s}.conv0.weight"], d[f"b{s}.conv0.bias"] = torch.randn(a, a, 3, 3), torch.randn(a)
        d[f"b{s}.conv1.weight"], d[f"b{s}.conv1.bias"] = torch.randn(b, a, 3, 3), torch.randn(b)
        d[f"b{s}.skip.weight"] = torch.randn(b, a, 1, 1)
        d[f"b{s}.conv1.resample_filter"] = FIR.clone()
    d["b4.conv.weight"], d["b4.conv.bias"] = torch.randn(6, 7, 3, 3), torch.randn(6)
    d["b4.fc.weight"], d["b4.fc.bias"] = torch.randn(6, 96), torch.randn(6)
    d["b4.out.weight"], d["b4.out.bias"] = torch.randn(1, 6), torch.randn(1)
    return d


# What the official code computes, on the official names. -----------------------------------------


def filtered(x: Tensor, pad: int | tuple[int, ...], gain: float = 1.0) -> Tensor:
    edges = (pad,) * 4 if isinstance(pad, int) else pad
    y = F.pad(x, edges).flatten(0, 1)[:, None]
    return F.conv2d(y, FIR[None, None] * gain)[:, 0].unflatten(0, x.shape[:2])


def doubled(x: Tensor) -> Tensor:
    wide = torch.zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    wide[:, :, ::2, ::2] = x
    return filtered(wide, (2, 1, 2, 1), 4)


def lrelu(x: Tensor, clamp: float | None, gain: float = 1.0) -> Tensor:
    y = F.leaky_relu(x, 0.2) * 2**0.5 * gain
    return y if clamp is None else y.clamp(-clamp * gain, clamp * gain)


def draw(
    g: dict[str, Tensor], z: Tensor, architecture: str = "skip", clamp: float | None = None
) -> Tensor:
    w = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
    for i in range(LAYERS):
        weight = g[f"mapping.fc{i}.weight"] * 0.01 / W**0.5
        w = lrelu(w @ weight.T + g[f"mapping.fc{i}.bias"] * 0.01, None)

    def style(name: str) -> Tensor:
        return w @ (g[f"{name}.affine.weight"] / W**0.5).T + g[f"{name}.affine.bias"]

    def conv(x: Tensor, name: str, up: bool, gain: float = 1.0) -> Tensor:
        weight, s = g[f"{name}.weight"], style(name)
        d = (weight[None] * s[:, None, :, None, None]).square().sum((2, 3, 4)).add(1e-8).rsqrt()
        x = x * s[:, :, None, None]
        if up:
            x = filtered(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), 1, 4)
        else:
            x = F.conv2d(x, weight, padding=1)
        x = x * d[:, :, None, None] + g[f"{name}.noise_const"] * g[f"{name}.noise_strength"]
        return lrelu(x + g[f"{name}.bias"][:, None, None], clamp, gain)

    def rgb(x: Tensor, name: str) -> Tensor:
        s = style(name) / x.shape[1] ** 0.5
        y = F.conv2d(x * s[:, :, None, None], g[f"{name}.weight"], g[f"{name}.bias"])
        return y if clamp is None else y.clamp(-clamp, clamp)

    x = conv(g["synthesis.b4.const"].expand(len(z), -1, -1, -1), "synthesis.b4.conv1", False)
    image = rgb(x, "synthesis.b4.torgb") if architecture == "skip" else None
    for s in SIZES[1:]:
        b = f"synthesis.b{s}"
        if architecture == "resnet":
            y = doubled(F.conv2d(x, g[f"{b}.skip.weight"] / x.shape[1] ** 0.5)) * 0.5**0.5
            x = y + conv(conv(x, f"{b}.conv0", True), f"{b}.conv1", False, 0.5**0.5)
        else:
            x = conv(conv(x, f"{b}.conv0", True), f"{b}.conv1", False)
        if architecture == "skip" or s == SIZES[-1]:
            y = rgb(x, f"{b}.torgb")
            image = y if image is None else doubled(image) + y
    assert image is not None
    return image


def judge(d: dict[str, Tensor], x: Tensor, clamp: float | None = None) -> Tensor:
    def conv(x: Tensor, name: str, pad: int) -> Tensor:
        weight = d[f"{name}.weight"]
        return F.conv2d(x, weight / weight[0].numel() ** 0.5, padding=pad)

    def biased(x: Tensor, name: str) -> Tensor:
        return x + d[f"{name}.bias"][:, None, None]

    x = lrelu(biased(conv(x, "b16.fromrgb", 0), "b16.fromrgb"), clamp)
    for s in SIZES[:0:-1]:
        skip = conv(filtered(x, 1)[:, :, ::2, ::2], f"b{s}.skip", 0) * 0.5**0.5
        if clamp is not None:
            skip = skip.clamp(-clamp * 0.5**0.5, clamp * 0.5**0.5)
        x = lrelu(biased(conv(x, f"b{s}.conv0", 1), f"b{s}.conv0"), clamp)
        weight = d[f"b{s}.conv1.weight"]
        x = F.conv2d(filtered(x, 2), weight / weight[0].numel() ** 0.5, stride=2)
        x = lrelu(biased(x, f"b{s}.conv1"), clamp, 0.5**0.5) + skip
    y = x.reshape(4, -1, *x.shape[1:])
    y = (y - y.mean(0)).square().mean(0).add(1e-8).sqrt().mean((1, 2, 3))
    x = torch.cat([x, y.repeat(4)[:, None, None, None].expand(-1, 1, 4, 4)], 1)
    x = lrelu(biased(conv(x, "b4.conv", 1), "b4.conv"), clamp).flatten(1)
    x = lrelu(x @ (d["b4.fc.weight"] / 96**0.5).T + d["b4.fc.bias"], None)
    return (x @ (d["b4.out.weight"] / 6**0.5).T + d["b4.out.bias"])[:, 0]


# Files. ------------------------------------------------------------------------------------------


def _reconstruct_persistent_obj(meta: Any) -> Any:
    raise AssertionError("executed")


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


class EasyDict(dict):
    pass


EasyDict.__module__, EasyDict.__qualname__ = "dnnlib.util", "EasyDict"


class Persistent:
    """Pickles as a class of NVIDIA's does."""

    def __init__(self, kind: str, state: dict[str, Any]) -> None:
        self.meta = {
            "type": "class",
            "version": 6,
            "module_src": "raise SystemExit('executed')",
            "class_name": kind,
            "state": state,
        }

    def __reduce__(self) -> Any:
        return _reconstruct_persistent_obj, (EasyDict(self.meta),)


def module(kind: str, tensors: dict[str, Tensor], **arguments: Any) -> Persistent:
    """Nest tensors by their dotted names into modules."""
    own = {n: t for n, t in tensors.items() if "." not in n}
    buffers = ("noise_const", "resample_filter", "w_avg")
    inner: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        first, dot, rest = name.partition(".")
        if dot:
            inner.setdefault(first, {})[rest] = value
    state = {
        "training": False,
        "_parameters": OrderedDict(
            (n, nn.Parameter(t)) for n, t in own.items() if n not in buffers
        ),
        "_buffers": OrderedDict((n, t) for n, t in own.items() if n in buffers),
        "_non_persistent_buffers_set": set(),
        "_forward_hooks": OrderedDict(),
        "_modules": OrderedDict((n, module("Layer", t)) for n, t in inner.items()),
        "weight_gain": np.float64(0.5),
        "_init_args": (),
        "_init_kwargs": EasyDict(arguments),
    }
    return Persistent(kind, state)


@pytest.fixture
def official_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pickle find the names that it writes; they are gone when files are read."""
    for name, thing in (
        ("torch_utils.persistence", _reconstruct_persistent_obj),
        ("dnnlib.util", EasyDict),
    ):
        for part in (name.partition(".")[0], name):
            monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
        setattr(sys.modules[name], thing.__name__, thing)


def write_nvidia(
    file: Path, protocol: int = 4, architecture: str = "skip", clamp: float | None = None,
    **more: Any,
) -> Path:  # fmt: skip
    synthesis = EasyDict(architecture=architecture, conv_clamp=clamp, num_fp16_res=4)
    networks = {
        "training_set_kwargs": EasyDict(path="/x", use_labels=False),
        "G": None,
        "D": module(
            "Discriminator", official_discriminator(), conv_clamp=clamp,
            epilogue_kwargs=EasyDict(mbstd_group_size=4),
        ),
        "G_ema": module(
            "Generator", official_generator(architecture), z_dim=W, synthesis_kwargs=synthesis
        ),
        "augment_pipe": None,
        **more,
    }  # fmt: skip
    file.write_bytes(pickle.dumps(networks, protocol))
    return file


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.usefixtures("official_modules")
def test_nvidia(tmp_path: Path, protocol: int) -> None:
    method = load_official(write_nvidia(tmp_path / "network.pkl", protocol))
    g = official_generator()
    z, x = torch.randn(3, W), torch.randn(8, 3, 16, 16)
    with torch.no_grad():
        expected = draw(g, z)
        assert expected.std() > 0.1
        assert (method.g(z, noise="const") - expected).abs().max() < 1e-4
        torch.testing.assert_close(
            method.d(x), judge(official_discriminator(), x), atol=1e-4, rtol=1e-4
        )
    assert torch.equal(method.g.w_avg, g["mapping.w_avg"])


@pytest.mark.parametrize("architecture", ["skip", "resnet"])
@pytest.mark.usefixtures("official_modules")
def test_nvidia_clamps(tmp_path: Path, architecture: str) -> None:
    file = write_nvidia(tmp_path / "network.pkl", 4, architecture, 1.5)
    method = load_official(file)
    z, x = torch.randn(3, W), torch.randn(8, 3, 16, 16)
    g = official_generator(architecture)
    with torch.no_grad():
        expected = draw(g, z, architecture, 1.5)
        assert (expected - draw(g, z, architecture)).abs().max() > 0.1
        assert (method.g(z, noise="const") - expected).abs().max() < 1e-4
        told = judge(official_discriminator(), x, 1.5)
        torch.testing.assert_close(method.d(x), told, atol=1e-4, rtol=1e-4)


def rosinality() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The same networks by rosinality's names; kernels there are scaled, which changes nothing."""
    g, d = official_generator(), official_discriminator()
    ours = {"input.input": g["synthesis.b4.const"][None]}
    for i in range(LAYERS):
        for p in ("weight", "bias"):
            ours[f"style.{i + 1}.{p}"] = g[f"mapping.fc{i}.{p}"]
    names = {"b4.conv1": "conv1", "b4.torgb": "to_rgb1"}
    for j, s in enumerate(SIZES[1:]):
        names |= {f"b{s}.conv0": f"convs.{2 * j}", f"b{s}.conv1": f"convs.{2 * j + 1}"}
        names[f"b{s}.torgb"] = f"to_rgbs.{j}"
    for theirs, name in names.items():
        start = f"synthesis.{theirs}"
        ours[f"{name}.conv.weight"] = g[f"{start}.weight"][None]
        for p in ("weight", "bias"):
            ours[f"{name}.conv.modulation.{p}"] = g[f"{start}.affine.{p}"]
        if "rgb" in name:
            ours[f"{name}.bias"] = g[f"{start}.bias"].view(1, 3, 1, 1)
            ours[f"{name}.upsample.kernel"] = FIR * 4
            continue
        ours[f"{name}.activate.bias"] = g[f"{start}.bias"]
        ours[f"{name}.noise.weight"] = g[f"{start}.noise_strength"].view(1)
        place = {"b4": 0, "b8": 1, "b16": 3}[theirs.partition(".")[0]] + theirs.endswith("conv1")
        place -= theirs.startswith("b4")
        ours[f"noises.noise_{place}"] = g[f"{start}.noise_const"][None, None]
    theirs = {"convs.0.0.weight": d["b16.fromrgb.weight"], "convs.0.1.bias": d["b16.fromrgb.bias"]}
    for i, s in ((1, 16), (2, 8)):
        theirs[f"convs.{i}.conv1.0.weight"] = d[f"b{s}.conv0.weight"]
        theirs[f"convs.{i}.conv1.1.bias"] = d[f"b{s}.conv0.bias"]
        theirs[f"convs.{i}.conv2.0.kernel"] = FIR
        theirs[f"convs.{i}.conv2.1.weight"] = d[f"b{s}.conv1.weight"]
        theirs[f"convs.{i}.conv2.2.bias"] = d[f"b{s}.conv1.bias"]
        theirs[f"convs.{i}.skip.0.kernel"] = FIR
        theirs[f"convs.{i}.skip.1.weight"] = d[f"b{s}.skip.weight"]
    theirs["final_conv.0.weight"], theirs["final_conv.1.bias"] = (
        d["b4.conv.weight"],
        d["b4.conv.bias"],
    )
    for i, name in enumerate(("fc", "out")):
        for p in ("weight", "bias"):
            theirs[f"final_linear.{i}.{p}"] = d[f"b4.{name}.{p}"]
    return ours, theirs


def test_rosinality_and_encoders(tmp_path: Path) -> None:
    g, d = rosinality()
    mean = official_generator()["mapping.w_avg"]
    arguments = argparse.Namespace(iter=800000, path="x")
    torch.save({"g_ema": g, "d": d, "latent_avg": mean, "args": arguments}, tmp_path / "a.pt")
    encoder = {f"decoder.{k}": v for k, v in g.items()} | {"encoder.x": torch.zeros(2)}
    kept = {"state_dict": encoder, "latent_avg": mean.repeat(6, 1), "opts": {"lr": 1e-4}}
    torch.save(kept, tmp_path / "b.pt")
    torch.save({"g_ema": g}, tmp_path / "c.pt")
    z, x = torch.randn(3, W), torch.randn(8, 3, 16, 16)
    with torch.no_grad():
        expected = draw(official_generator(), z)
        for name in "abc":
            method = load_official(tmp_path / f"{name}.pt")
            assert (method.g(z, noise="const") - expected).abs().max() < 1e-4
            if name != "c":
                torch.testing.assert_close(method.g.w_avg, mean)
        assert method.g.w_avg.abs().sum() > 0  # measured, as the file holds none
        told = judge(official_discriminator(), x)
        found = load_official(tmp_path / "a.pt").d(x)
        torch.testing.assert_close(found, told, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("official_modules")
def test_converted_files_are_weights(tmp_path: Path) -> None:
    write_nvidia(tmp_path / "network.pkl", clamp=256.0)
    torch.save({"g_ema": rosinality()[0]}, tmp_path / "network.pt")
    z = torch.randn(2, W)
    for name, has in (("network.pkl", True), ("network.pt", False)):
        out = tmp_path / "out.safetensors"
        made = convert(tmp_path / name, out)
        loaded = weights.load(out)
        assert hasattr(loaded, "d") == has
        assert loaded.config == made.config
        assert torch.equal(loaded.g(z, noise="const"), made.g(z, noise="const"))
        assert weights.card(out)["converted_from"]["file"] == name
    assert made.config.clamp == 0
    with pytest.raises(WeightsError, match="safetensors"):
        convert(tmp_path / "network.pt", tmp_path / "out.pt")


class Attack:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


def attacks(mark: Path) -> dict[str, Any]:
    return {
        "os": Attack(os.mkdir, str(mark)),
        "eval": Attack(eval, f"__import__('os').mkdir({str(mark)!r})"),
        "attribute": Attack(getattr, os, "mkdir"),
        "numpy": Attack(np.load, str(mark)),
        "torch": Attack(torch.load, str(mark)),
    }


@pytest.mark.parametrize("kind", ["os", "eval", "numpy", "torch", "storage"])
@pytest.mark.usefixtures("official_modules")
def test_a_malicious_pickle_is_refused(tmp_path: Path, kind: str) -> None:
    mark, file = tmp_path / "executed", tmp_path / "network.pkl"
    if kind == "storage":  # the attack lies in the bytes of a tensor
        inner = Attack(torch.storage._load_from_bytes, pickle.dumps(Attack(os.mkdir, str(mark))))
        words = "cannot be read"
    else:
        inner, words = attacks(mark)[kind], "refused: it asks for .* could execute code"
    for protocol in (0, 2, 4):
        write_nvidia(file, protocol=max(protocol, 2), augment_pipe=inner)
        if protocol == 0:
            file.write_bytes(pickle.dumps({"G_ema": inner}, 0))
        with pytest.raises(WeightsError, match=words) as caught:
            load_official(file)
        assert "\n" not in str(caught.value)
    torch.save({"g_ema": rosinality()[0], "args": inner}, tmp_path / "network.pt")
    with pytest.raises(WeightsError):
        load_official(tmp_path / "network.pt")
    assert not mark.exists()


def test_a_stack_that_calls_anything_else(tmp_path: Path) -> None:
    file = tmp_path / "network.pkl"
    for stream, words in (
        (b"\x80\x02Vx\n)R.", "calls what is no known name"),
        (b"\x80\x02cos\nsystem\n(Vls\ntR.", "asks for os.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "asks for os.system"),
        (b"(ios\nsystem\n.", "no use for INST"),
        (b"\x80\x02Vx\nQ.", "no use for BINPERSID"),
        (b"\x80\x02}.", "holds no network"),
        (b"\x80\x02].", "holds a list"),
        (b"", "cannot? be read|can be read"),
        (b"\x80\x02R.", "can be read"),
        (b"\x80\x02h\x07.", "can be read"),
        (bytes(range(256)), "can be read"),
    ):
        file.write_bytes(stream)
        with pytest.raises(WeightsError, match=words):
            read_network_pickle(file)
    with pytest.raises(WeightsError, match="No file"):
        read_network_pickle(tmp_path / "absent.pkl")


@pytest.mark.parametrize(
    "change",
    [(0, (1 << 40,), (0,)), (0, (5,), (1,)), (3, (2,), (1,)), (0, (-1,), (1,)), (-1, (1,), (1,))],
)
def test_tensors_stay_in_their_storage(tmp_path: Path, change: Any) -> None:
    offset, size, stride = change
    storage = torch.zeros(4).untyped_storage()
    typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
    value = Attack(torch._utils._rebuild_tensor_v2, typed, offset, size, stride, False, {})
    (tmp_path / "network.pkl").write_bytes(pickle.dumps({"x": value}))
    with pytest.raises(WeightsError, match="outside of its storage"):
        read_network_pickle(tmp_path / "network.pkl")


class Network:
    """Pickles as a TensorFlow network of NVIDIA's does."""

    __module__, __qualname__ = "dnnlib.tflib.network", "Network"

    def __init__(self) -> None:
        self.version, self.variables = 4, [("lod", np.float32(0)), ("w", np.ones((2, 3)))]


def test_networks_of_tensorflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dnnlib", "dnnlib.tflib", "dnnlib.tflib.network"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["dnnlib.tflib.network"].Network = Network  # type: ignore[attr-defined]
    file = tmp_path / "network.pkl"
    file.write_bytes(pickle.dumps((Network(), Network(), Network()), 2))
    with pytest.raises(WeightsError, match="TensorFlow"):
        load_official(file)


@pytest.mark.usefixtures("official_modules")
def test_networks_of_other_kinds(tmp_path: Path) -> None:
    file = tmp_path / "network.pkl"
    g = official_generator()
    for name, words in (
        ("synthesis.input.freqs", "StyleGAN3"),
        ("mapping.embed.weight", "conditional"),
    ):
        write_nvidia(file, G_ema=module("Generator", g | {name: torch.zeros(2)}))
        with pytest.raises(WeightsError, match=words):
            load_official(file)
    other = g | {"synthesis.b8.resample_filter": FIR * 2}
    write_nvidia(file, G_ema=module("Generator", other))
    with pytest.raises(WeightsError, match="another filter"):
        load_official(file)
    write_nvidia(file, G_ema=None)
    with pytest.raises(WeightsError, match="holds D"):
        load_official(file)
    less = {k: v for k, v in g.items() if k != "synthesis.b8.conv0.affine.bias"}
    write_nvidia(file, G_ema=module("Generator", less))
    with pytest.raises(WeightsError, match=r"lacks synthesis.b8.conv0.affine.bias"):
        load_official(file)
    torch.save({"state_dict": {}}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match="neither g_ema"):
        load_official(tmp_path / "x.pt")


@pytest.mark.usefixtures("official_modules")
def test_networks_without_end(tmp_path: Path) -> None:
    file = tmp_path / "network.pkl"
    last = module("Layer", {})
    for _ in range(40):  # 2^40 if every way is gone
        state = {**module("Layer", {}).meta["state"], "_modules": {"a": last, "b": last}}
        last = Persistent("Layer", state)
    file.write_bytes(pickle.dumps({"G_ema": last}))
    with pytest.raises(WeightsError, match="networks within networks"):
        read_network_pickle(file)
    file.write_bytes(pickle.dumps({"G_ema": nn.ModuleList()}))
    with pytest.raises(WeightsError, match=r"lacks mapping.w_avg"):
        load_official(file)

"""Generators that others have published, as weights of ``stylegan``: nothing in them is executed.

- NVIDIA's ``.pkl`` of StyleGAN2 with adaptive augmentation, and those of StyleGAN3's code that hold
  a StyleGAN2: G_ema and D.
- ``.pt`` files of the widespread PyTorch code by rosinality: g_ema and d.
- Checkpoints of encoders made for the latter (pSp, e4e): their decoder.

The layers are the same under other names; only shapes change. Sizes are read off the tensors.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mien.files.errors import WeightsError
from mien.files.network_pickle import StoredNetwork, read_network_pickle
from mien.files.torch_file import read_torch_file
from mien.files.weights import save_weights
from mien.methods.stylegan import StyleGAN
from mien.nets.stylegan import sizes

_LICENCE = "that of the file it was converted from"
_FIRST = "synthesis.blocks.4.const"
_TAPS = (1.0, 3.0, 3.0, 1.0)
_SAMPLES = 4096  # of w, where a file does not hold their mean

Tensors = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class _Found:
    """Networks of a file by our names.

    Attributes:
        layout: Whose names the file had.
        g: The generator's tensors; ``w_avg`` may be missing.
        d: The discriminator's, or None.
        architecture: Of the generator.
        clamp: Of both; 0: none.
    """

    layout: str
    g: Tensors
    d: Tensors | None
    architecture: str = "skip"
    clamp: float = 0.0


def load_official(path: str | Path) -> StyleGAN:
    """Load a published generator, in evaluation mode.

    Where the file holds no discriminator the method has none (attribute ``d``).

    Raises:
        WeightsError: The file cannot be read safely, or holds no StyleGAN2 that is not conditional.
    """
    return _method(Path(path), _read(Path(path)))


def convert(path: str | Path, out: str | Path) -> StyleGAN:
    """Write a published generator as weights with a card.

    Args:
        path: ``.pkl`` or ``.pt``.
        out: Target, ending in ``.safetensors``.

    Raises:
        WeightsError: As for ``load_official``, or ``out`` has another ending.
    """
    path, out = Path(path), Path(out)
    if out.suffix != ".safetensors":
        raise WeightsError(f"Weights end in .safetensors, and {out} does not.")
    found = _read(path)
    method = _method(path, found)
    c = method.config
    card = {
        "method": method.name,
        "stage": method.stage,
        "config": {
            **{key: getattr(c, key) for key in ("size", "channel_base", "channel_max", "z_dim")},
            **{key: getattr(c, key) for key in ("w_dim", "mapping_layers", "architecture")},
            "clamp": c.clamp,
        },
        "size": c.size,
        "left_out": [] if found.d is not None else ["d"],
        "data": [],
        "licence": _LICENCE,
        "converted_from": {"file": path.name, "layout": found.layout},
        "results": {},
    }
    save_weights(out, method.state_dict(), card)
    return method


def _read(path: Path) -> _Found:
    if not path.is_file():
        raise WeightsError(f"No file {path}.")
    with path.open("rb") as file:
        start = file.read(2)
    if path.suffix == ".pkl" and start != b"PK":
        return _nvidia(path, read_network_pickle(path))
    state = read_torch_file(path, (Namespace,))  # trainings keep their arguments
    if isinstance(state.get("g_ema"), dict):
        return _rosinality(path, state["g_ema"], state.get("d"), state.get("latent_avg"))
    inner = state.get("state_dict", {})
    decoder = {
        name.removeprefix("decoder."): value
        for name, value in (inner if isinstance(inner, dict) else {}).items()
        if name.startswith("decoder.")
    }
    if not decoder:
        raise WeightsError(
            f"{path} holds neither g_ema (rosinality) nor state_dict with decoder.* (pSp, e4e)."
        )
    return _rosinality(path, decoder, None, state.get("latent_avg"))


def _method(path: Path, found: _Found) -> StyleGAN:
    """Build the method that the tensors are of."""
    g = found.g
    blocks = [name.split(".")[2] for name in g if name.endswith(".conv0.weight")]
    if _FIRST not in g or not blocks:
        raise WeightsError(f"{path} holds no generator of StyleGAN2.")
    size = max(map(int, blocks))
    widths = {s: len(g[f"synthesis.blocks.{s}.conv1.weight"]) for s in sizes(size)}
    most = widths[4]
    base = widths[size] * size if widths[size] < most else most * size
    if any(widths[s] != min(base // s, most) for s in widths):
        raise WeightsError(f"{path} has channels that follow no rule of StyleGAN2: {widths}.")
    layers = sum(name.startswith("mapping.layers.") for name in g) // 2
    config = StyleGAN.Config(
        size=size,
        channel_base=base,
        channel_max=most,
        z_dim=g["mapping.layers.0.weight"].shape[1],
        w_dim=g["mapping.layers.0.weight"].shape[0],
        mapping_layers=layers,
        architecture=found.architecture,
        clamp=found.clamp,
    )
    method = StyleGAN(config).eval()
    if found.d is None:
        del method.d
    else:
        # The entrance of the size before is ours; nothing fades in where a training goes on.
        own = method.d.state_dict()
        fade = {k: torch.zeros_like(v) for k, v in own.items() if k.startswith("from_rgb_half.")}
        _fill(path, method.d, found.d | fade)
    mean = {"w_avg": g.get("w_avg", torch.zeros(config.w_dim))}
    _fill(path, method.g, g | mean)
    if "w_avg" not in g:
        z = torch.randn(_SAMPLES, config.z_dim, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            method.g.w_avg.copy_(method.g.mapping(z).mean(0))
    return method


def _fill(path: Path, net: torch.nn.Module, tensors: Tensors) -> None:
    try:
        net.load_state_dict({name: value.float() for name, value in tensors.items()})
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise WeightsError(f"{path} holds another network than its sizes tell: {reason}") from None


def _renamed(path: Path, tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> Tensors:
    """Return tensors by our names, all of which must be there."""
    missing = [theirs for theirs in names.values() if theirs not in tensors]
    if missing:
        raise WeightsError(f"{path} lacks {missing[0]} ({len(missing)} tensors are missing).")
    return {ours: tensors[theirs] for ours, theirs in names.items()}


# NVIDIA ------------------------------------------------------------------------------------------


def _nvidia(path: Path, networks: Mapping[str, StoredNetwork]) -> _Found:
    stored = networks.get("G_ema") or networks.get("G")
    if stored is None:
        raise WeightsError(f"{path} holds no generator; it holds {', '.join(networks)}.")
    theirs = stored.tensors
    if any(name.startswith("synthesis.input.") for name in theirs):
        raise WeightsError(
            f"{path} is a StyleGAN3, whose layers are no sizes: its codes cannot be mixed as "
            "StyleGAN2's, and it is not supported."
        )
    if any(name.startswith("mapping.embed.") for name in theirs):
        raise WeightsError(f"{path} is conditional; only generators without labels are supported.")
    _check_filters(path, theirs)
    own = stored.arguments.get("synthesis_kwargs")
    settings = {**stored.arguments, **(own if isinstance(own, dict) else {})}
    mapping = stored.arguments.get("mapping_kwargs")
    rate = (mapping if isinstance(mapping, dict) else {}).get("lr_multiplier", 0.01)
    if rate != 0.01:
        raise WeightsError(f"{path} has a mapping network of another learning rate, {rate}.")
    architecture = str(settings.get("architecture", "skip"))
    clamp = float(settings.get("conv_clamp") or 0.0)
    g = _renamed(path, _with_noise(theirs), _nvidia_generator(theirs, architecture))
    d = networks.get("D")
    return _Found("nvidia", g, _nvidia_discriminator(path, d, clamp), architecture, clamp)


def _nvidia_generator(theirs: Mapping[str, Tensor], architecture: str) -> dict[str, str]:
    """Return our name → NVIDIA's."""
    count = sum(n.startswith("mapping.fc") and n.endswith(".weight") for n in theirs)
    names = {"w_avg": "mapping.w_avg", _FIRST: "synthesis.b4.const"}
    for i in range(count):
        for part in ("weight", "bias"):
            names[f"mapping.layers.{i}.{part}"] = f"mapping.fc{i}.{part}"
    blocks = sorted(int(n.split(".")[1][1:]) for n in theirs if n.endswith(".conv1.weight"))
    for size in blocks:
        ours, own = f"synthesis.blocks.{size}", f"synthesis.b{size}"
        layers = ["conv1"] if size == 4 else ["conv0", "conv1"]
        if architecture == "skip" or size == blocks[-1]:
            layers.append("torgb")
        for layer in layers:
            parts = {"weight": "weight", "bias": "bias"}
            parts |= {f"style.{p}": f"affine.{p}" for p in ("weight", "bias")}
            if layer != "torgb":
                parts |= {"noise": "noise_const", "noise_strength": "noise_strength"}
            names |= {f"{ours}.{layer}.{a}": f"{own}.{layer}.{b}" for a, b in parts.items()}
        if architecture == "resnet" and size > 4:
            names[f"{ours}.skip.weight"] = f"{own}.skip.weight"
    return names


def _with_noise(theirs: Tensors) -> Tensors:
    """Return the tensors; layers that were made without noise get some of strength 0."""
    more: Tensors = {}
    for name in theirs:
        layer = name.removesuffix(".weight")
        if layer.endswith((".conv0", ".conv1")) and f"{layer}.noise_const" not in theirs:
            size = int(layer.split(".")[1][1:])
            more[f"{layer}.noise_const"] = torch.zeros(size, size)
            more[f"{layer}.noise_strength"] = torch.zeros(())
    return theirs | more


def _nvidia_discriminator(path: Path, stored: StoredNetwork | None, clamp: float) -> Tensors | None:
    """Return D by our names; None where there is none, or one that differs from ours."""
    if stored is None:
        return None
    settings: dict[str, Any] = dict(stored.arguments)
    last = settings.get("epilogue_kwargs")
    group = (last if isinstance(last, dict) else {}).get("mbstd_group_size", 4)
    same = settings.get("architecture", "resnet") == "resnet" and group == 4
    if not same or float(settings.get("conv_clamp") or 0.0) != clamp:
        return None
    theirs = stored.tensors
    _check_filters(path, theirs)
    blocks = [int(n.split(".")[0][1:]) for n in theirs if n.endswith(".skip.weight")]
    if not blocks:
        return None
    names = {f"from_rgb.{p}": f"b{max(blocks)}.fromrgb.{p}" for p in ("weight", "bias")}
    for size in blocks:
        for layer in ("conv0", "conv1"):
            for p in ("weight", "bias"):
                names[f"blocks.{size}.{layer}.{p}"] = f"b{size}.{layer}.{p}"
        names[f"blocks.{size}.skip.weight"] = f"b{size}.skip.weight"
    for ours, own in (("conv", "conv"), ("dense", "fc"), ("logit", "out")):
        names |= {f"{ours}.{p}": f"b4.{own}.{p}" for p in ("weight", "bias")}
    return _renamed(path, theirs, names)


def _check_filters(path: Path, theirs: Mapping[str, Tensor]) -> None:
    """Refuse networks that resample by another filter than [1, 3, 3, 1]."""
    taps = torch.tensor(_TAPS)
    wanted = torch.outer(taps, taps) / taps.sum() ** 2
    for name, value in theirs.items():
        if name.endswith("resample_filter") and (
            value.shape != wanted.shape or not torch.allclose(value.float(), wanted, atol=1e-6)
        ):
            raise WeightsError(f"{path} resamples by another filter than [1, 3, 3, 1].")


# rosinality --------------------------------------------------------------------------------------


def _rosinality(path: Path, g: Tensors, d: Any, mean: Any) -> _Found:
    convs = [
        int(n.split(".")[1]) for n in g if n.startswith("convs.") and n.endswith("conv.weight")
    ]
    count = sum(n.startswith("style.") and n.endswith(".weight") for n in g)
    if not convs or not count:
        raise WeightsError(f"{path} holds no generator of StyleGAN2.")
    names = {_FIRST: "input.input"}
    for i in range(count):
        for part in ("weight", "bias"):
            names[f"mapping.layers.{i}.{part}"] = f"style.{i + 1}.{part}"
    places = {"4.conv1": ("conv1", 0), "4.torgb": ("to_rgb1", -1)}
    for j in range((max(convs) + 1) // 2):
        size = 8 * 2**j
        places[f"{size}.conv0"] = (f"convs.{2 * j}", 2 * j + 1)
        places[f"{size}.conv1"] = (f"convs.{2 * j + 1}", 2 * j + 2)
        places[f"{size}.torgb"] = (f"to_rgbs.{j}", -1)
    for ours, (own, noise) in places.items():
        start = f"synthesis.blocks.{ours}"
        names[f"{start}.weight"] = f"{own}.conv.weight"
        names[f"{start}.bias"] = f"{own}.bias" if noise < 0 else f"{own}.activate.bias"
        for part in ("weight", "bias"):
            names[f"{start}.style.{part}"] = f"{own}.conv.modulation.{part}"
        if noise >= 0:
            names[f"{start}.noise_strength"] = f"{own}.noise.weight"
            names[f"{start}.noise"] = f"noises.noise_{noise}"
    found = _renamed(path, g, names)
    for name, value in found.items():
        if name == _FIRST or (name.endswith(".weight") and value.ndim == 5):
            found[name] = value[0]
        elif name.endswith(".noise"):
            found[name] = value[0, 0]
        elif name.endswith((".noise_strength", ".torgb.bias")):
            found[name] = value.reshape(() if name.endswith("strength") else -1)
    if isinstance(mean, Tensor):
        found["w_avg"] = mean.reshape(-1, mean.shape[-1]).mean(
            0
        )  # (W,), or the same for each layer
    return _Found("rosinality", found, _rosinality_discriminator(path, d))


def _rosinality_discriminator(path: Path, d: Any) -> Tensors | None:
    if not isinstance(d, dict) or not d:
        return None
    names = {"from_rgb.weight": "convs.0.0.weight", "from_rgb.bias": "convs.0.1.bias"}
    count = sum(n.startswith("convs.") and n.endswith(".skip.1.weight") for n in d)
    for i in range(1, count + 1):
        start = f"blocks.{4 * 2 ** (count - i + 1)}"
        names[f"{start}.conv0.weight"] = f"convs.{i}.conv1.0.weight"
        names[f"{start}.conv0.bias"] = f"convs.{i}.conv1.1.bias"
        names[f"{start}.conv1.weight"] = f"convs.{i}.conv2.1.weight"
        names[f"{start}.conv1.bias"] = f"convs.{i}.conv2.2.bias"
        names[f"{start}.skip.weight"] = f"convs.{i}.skip.1.weight"
    names |= {"conv.weight": "final_conv.0.weight", "conv.bias": "final_conv.1.bias"}
    for ours, own in (("dense", "final_linear.0"), ("logit", "final_linear.1")):
        names |= {f"{ours}.{part}": f"{own}.{part}" for part in ("weight", "bias")}
    return _renamed(path, d, names)

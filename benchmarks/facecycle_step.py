"""How much faster is our full-width stage-1 step than the published one, at equal losses?

The peer is a literal transcription of the published step (specification §1.4): G and the loss
network are run once for every picture that a formula names, the target goes through the loss
network with each of its four pictures, SSIM uses an 11 x 11 grouped convolution, tensors are
contiguous, Adam is the plain one. Networks, weights, batch and losses are the same.

Each variant runs in processes of its own, in turns: the allocator's settings belong to a process.

    python benchmarks/facecycle_step.py --images 8 --steps 3 --rounds 3 --out facecycle_step.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from mien.data.warp import inverse_flow, resize_flow, warp
from mien.files.atomic import write_json
from mien.files.memory import keep_memory
from mien.methods.facecycle import FaceCycle
from mien.nets.vgg import Vgg19
from mien.nets.winograd import Conv3x3

PUBLISHED, HALF = "published", "ours, bfloat16"
# name -> whether it has the allocator's settings of `mien train`
VARIANTS = {
    PUBLISHED: False,
    "published, our allocator": True,
    "ours": True,
    "ours, allocator as it is": False,
    HALF: True,  # what `precision: auto` picks where the CPU has matrix tiles
}


class PublishedStep:
    """The published stage-1 step over the networks of ``method``."""

    def __init__(self, method: FaceCycle, vgg: Path) -> None:
        self.m = method
        self.vgg = Vgg19(("relu2_1", "relu3_1", "relu4_1"))
        self.vgg.load_torchvision(vgg)
        self.vgg.requires_grad_(False)
        nets = (method.e_exp, method.flow, method.g)
        parameters = [p for net in nets for p in net.parameters() if p.requires_grad]
        self.adam = torch.optim.Adam(parameters, 1e-5, (0.5, 0.999), foreach=False)
        line = torch.exp(-((torch.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
        line = line / line.sum()
        self.window = (line[:, None] * line).expand(3, 1, 11, 11).contiguous()

    def ssim(self, x: Tensor, y: Tensor) -> Tensor:
        def blur(z: Tensor) -> Tensor:
            return F.conv2d(z, self.window, padding=5, groups=3)

        mx, my = blur(x), blur(y)
        vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
        value = (2 * mx * my + 0.01**2) * (2 * cov + 0.03**2)
        return (value / ((mx**2 + my**2 + 0.01**2) * (vx + vy + 0.03**2))).mean()

    def gram(self, features: Tensor) -> Tensor:
        f = features.flatten(2)
        return f @ f.transpose(1, 2) / f.shape[-1]

    def losses(self, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        b = len(x) // 2

        def swap(t: Tensor) -> Tensor:
            return torch.cat([t[b:], t[:b]])

        flow, _ = self.m.flow(self.m.e_exp(x))
        back = inverse_flow(flow)
        n = self.m.g(x, flow)
        w = warp(x, resize_flow(flow, (64, 64)).clamp(-1, 1))
        r_dd = warp(swap(w), resize_flow(back, (64, 64)).clamp(-1, 1))
        r_sd = warp(swap(n), resize_flow(back, (64, 64)).clamp(-1, 1))
        r = self.m.g(swap(n), back)
        a = self.m.g(x, None)

        def l1(y: Tensor) -> Tensor:
            return (y - x).abs().mean()

        def sym(y: Tensor) -> Tensor:
            return (y[..., :32] - y[..., 32:].flip(-1)).abs().mean()

        l_pix = l1(r) + l1(a) + l1(r_sd) + 1.5 * l1(r_dd)
        found = self.vgg(torch.cat([n, r_sd, r_dd, r]))
        with torch.no_grad():
            target = self.vgg(torch.cat([x, x, x, x]))
        l_perc = sum(
            (self.gram(f) - self.gram(t)).square().mean()
            for f, t in zip(found, target, strict=True)
        )
        l_ssim = (1 - self.ssim(x, r)) + (1 - self.ssim(x, a)) + 1.5 * (1 - self.ssim(x, r_dd))
        l_sym = sym(n) + 0.5 * sym(w)
        total = l_pix + 0.01 * l_perc + 5 * l_ssim + 1.5 * l_sym
        return {"pix": l_pix, "perc": l_perc, "ssim": l_ssim, "sym": l_sym, "loss": total}, total

    def step(self, x: Tensor) -> None:
        self.adam.zero_grad()
        self.losses(x)[1].backward()
        self.adam.step()


def worker(variant: str, images: int, steps: int, vgg: Path) -> dict[str, object]:
    """Time one variant in this process; also return its losses without noise."""
    if VARIANTS[variant]:
        keep_memory()
    torch.manual_seed(0)
    config = FaceCycle.Config(perceptual=str(vgg), ssim_space="official")
    method = FaceCycle(config, "motion")
    method.g.stem.load_torchvision(vgg)
    method.g.stem.requires_grad_(False)  # as published: the ImageNet layers stay
    batch = torch.rand(images, 3, 64, 64) * 2 - 1
    x = method.normalise(batch)
    if variant.startswith(PUBLISHED):
        Conv3x3.forward = torch.nn.Conv2d.forward  # type: ignore[method-assign]
        peer = PublishedStep(method, vgg)
        losses = peer.losses

        def step() -> None:
            peer.step(x)
    else:
        method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = x.contiguous(memory_format=torch.channels_last)
        adam = method.optimisers(1e-5)["motion"]

        def losses(x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
            with torch.autocast("cpu", torch.bfloat16, enabled=variant == HALF):
                return method.motion_losses(x, x)

        def step() -> None:
            adam.zero_grad()
            losses(x)[1].backward()
            adam.step()

    method.eval()
    with torch.no_grad():
        values = {k: v.item() for k, v in losses(x)[0].items() if k != "flow"}
    method.train()
    step()
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return {"losses": values, "seconds": times}


def main() -> None:
    """Run the variants in turns and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=8, help="images of a step (published: 32)")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vgg", type=Path, help="torchvision's vgg19-*.pth; random if absent")
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(worker(args.worker, args.images, args.steps, args.vgg)))
        return
    with tempfile.TemporaryDirectory() as folder:
        vgg = args.vgg
        if vgg is None:  # speed and equality do not depend on what the weights show
            torch.manual_seed(1)
            vgg = Path(folder) / "vgg19.pth"
            torch.save(Vgg19(("relu4_1",)).state_dict(), vgg)
        runs: dict[str, list[float]] = {v: [] for v in VARIANTS}
        losses: dict[str, dict[str, float]] = {}
        for _ in range(args.rounds):
            for variant in VARIANTS:
                command = [sys.executable, __file__, "--worker", variant, "--vgg", str(vgg)]
                command += ["--images", str(args.images), "--steps", str(args.steps)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                result = json.loads(done.stdout.splitlines()[-1])
                runs[variant] += result["seconds"]
                losses[variant] = result["losses"]
    medians = {v: statistics.median(t) for v, t in runs.items()}
    difference = {
        v: max(
            abs(losses[v][k] - value) / max(1.0, abs(value))
            for k, value in losses[PUBLISHED].items()
        )
        for v in VARIANTS
    }
    for variant in VARIANTS:
        rate = args.images / medians[variant]
        ratio = medians[PUBLISHED] / medians[variant]
        print(
            f"{variant:26s} {rate:6.2f} img/s   {ratio:5.2f} x published   "
            f"largest relative difference of a loss {difference[variant]:.1e}"
        )
    if args.out:
        write_json(
            args.out,
            {
                "question": "FaceCycle stage-1 step, full width, 64 px",
                "images": args.images,
                "median_seconds": medians,
                "seconds": runs,
                "losses": losses,
                "largest_relative_loss_difference": difference,
                "machine": {"cpus": os.cpu_count(), "processor": platform.processor()},
                "torch": torch.__version__,
                "threads": torch.get_num_threads(),
            },
        )


if __name__ == "__main__":
    main()

"""Add a method in one file: networks, losses, a step, codes and an edit. Everything else is there.

    python tutorials/add_a_method.py

The method is an autoencoder that sets the colour of a face aside. Moved to
``src/mien/methods/``, and named in the imports of ``src/mien/methods/__init__.py``, this class
would be known to every command, and the contract tests would find it by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn, optim
from torch.nn import functional as F

import mien
from mien.data.procedural import write_table
from mien.data.singles import Part, SingleSampler
from mien.files.errors import ConfigError
from mien.methods.base import Batch, Codes, Edit, Method, Sampler, Update, picture_grid, register


@register("colourless")
class Colourless(Method):
    """An autoencoder of faces without their mean colour, which is a code of its own."""

    @dataclass(frozen=True)
    class Config:
        """Settings: ``config.length=64`` after a recipe changes one; a wrong name is an error."""

        size: int = 64  # side of the images in pixels
        width: int = 8  # channels of the first layer
        length: int = 32  # of the code

    columns = ("image",)  # what a table must hold: `landmarks`, `expression` … where needed
    config: Config

    def __init__(self, config: Config, stage: str = "main") -> None:
        super().__init__(config, stage)
        w, side = config.width, config.size // 8
        self.encoder = nn.Sequential(
            *(nn.Conv2d(3, w, 4, 2, 1), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(w, 2 * w, 4, 2, 1), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(2 * w, 4 * w, 4, 2, 1), nn.LeakyReLU(0.2)),
            nn.Flatten(),
            nn.Linear(4 * w * side * side, config.length),
        )
        self.decoder = nn.Sequential(
            nn.Linear(config.length, 4 * w * side * side),
            nn.Unflatten(1, (4 * w, side, side)),
            *(nn.LeakyReLU(0.2), nn.ConvTranspose2d(4 * w, 2 * w, 4, 2, 1)),
            *(nn.LeakyReLU(0.2), nn.ConvTranspose2d(2 * w, w, 4, 2, 1)),
            *(nn.LeakyReLU(0.2), nn.ConvTranspose2d(w, 3, 4, 2, 1)),
        )

    # Training. The engine does the rest: gradients, precision, averages, checkpoints, logs.

    def sampler(self, caches: list[Any], batch_size: int, seed: int, rank: int) -> Sampler:
        """Draw single images; a batch is a function of (seed, rank, step), so resuming is exact."""
        return SingleSampler(caches, {"image": Part(batch_size)}, seed, rank)

    def optimisers(self, learning_rate: float) -> dict[str, optim.Optimizer]:
        """One Adam; a method with a discriminator has two."""
        return {"colourless": optim.Adam(self.parameters(), learning_rate)}

    def step(self, batch: Batch, update: Update) -> dict[str, float]:
        """One update: what was taken apart shall be put together again."""
        x = batch["image"]
        colour, code = self.take_apart(x)
        loss = F.l1_loss(self.decoder(code) + colour, x)
        update("colourless", loss)
        return {"loss": loss.item()}

    @torch.no_grad()
    def preview(self, batch: Batch) -> np.ndarray:
        """Columns are faces; rows: image, reconstruction."""
        x = batch["image"][:8]
        colour, code = self.take_apart(x)
        return picture_grid([x, self.decoder(code) + colour])

    # Codes and edits. Images are (B, 3, H, W), RGB, in [-1, 1].

    def take_apart(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean colour ``(B, 3, 1, 1)`` and the code ``(B, length)`` of the rest."""
        colour = images.mean((2, 3), keepdim=True)
        return colour, self.encoder(images - colour)

    def encode(self, images: Tensor) -> Codes:
        """Return the codes by what they shall hold; the names are those of ``FACTORS``."""
        size = (self.config.size, self.config.size)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        colour, code = self.take_apart(images)
        return {"appearance": colour.flatten(1), "identity": code}

    # What a method can do is read off the names of its functions, see `mien.edit.tasks`.
    @torch.inference_mode()
    def to_mean_face(self, images: Tensor, strength: float = 1.0) -> Edit:
        """Shrink the code to nothing; ``images`` are ``(B, 3, size, size)``."""
        if not 0 <= strength <= 1:
            raise ConfigError(f"strength is from 0 to 1, not {strength}.")
        code = self.take_apart(images)[1]
        change = self.decoder((1 - strength) * code) - self.decoder(code)
        return Edit((images + change).clamp(-1, 1))


if __name__ == "__main__":
    write_table("faces", persons=10, frames=4, size=64)
    recipe = {
        "method": "colourless",
        "tables": ["faces"],
        "batch_size": 16,
        "steps": 40,
        "learning_rate": 2e-3,
        "preview_every": 40,
        "log_every": 10,
        "config": {"width": 4},
    }
    Path("colourless.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    run = mien.train("colourless.yaml", out="run", accelerator="cpu", threads=1)
    weights = run / "weights.safetensors"

    # The weights go wherever weights go.
    codes = mien.embed(weights, "faces").table
    print({name: len(codes[name][0]) for name in ("appearance", "identity")})
    photo = Path(mien.__file__).parent / "assets" / "004_smiling.jpg"
    mien.edit("mean-face", photo, out="nobody.png", weights=weights)
    print("look at nobody.png and", *run.glob("previews/*"))

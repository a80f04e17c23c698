"""VGG-19 (Simonyan & Zisserman, 2015) up to conv4_1, with torchvision's key names.

``features.0`` is conv1_1, ``features.19`` conv4_1, so ``vgg19-*.pth`` of torchvision loads as it
is. Up to relu3_3 VGG-16 has the same layers, and its file loads too. ``width=64`` is the published
network; smaller widths are for training on small machines.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from mien.files.errors import WeightsError
from mien.files.torch_file import read_torch_file
from mien.nets.winograd import Conv3x3

# layer number in torchvision's nn.Sequential -> multiple of the width, None: max-pooling
_LAYERS: tuple[tuple[int, int | None], ...] = (
    (0, 1), (2, 1), (4, None), (5, 2), (7, 2), (9, None),
    (10, 4), (12, 4), (14, 4), (16, 4), (18, None), (19, 8),
)  # fmt: skip
RELU = {
    "relu1_1": 1, "relu1_2": 3, "relu2_1": 6, "relu2_2": 8, "relu3_1": 11, "relu3_3": 15,
    "relu4_1": 20,
}  # fmt: skip


class Vgg19(nn.Module):
    """VGG-19's first layers; ``forward`` returns the ReLU outputs asked for.

    Args:
        outputs: Names like ``relu3_1``; layers beyond the deepest are not built.
        width: Channels of conv1 (64 in the publication).
    """

    def __init__(self, outputs: tuple[str, ...], width: int = 64) -> None:
        super().__init__()
        self.outputs = {RELU[name]: name for name in outputs}
        last = max(self.outputs)
        layers: dict[str, nn.Module] = {}
        channels = 3
        for number, multiple in _LAYERS:
            if number > last:
                break
            if multiple is None:
                layers[str(number)] = nn.MaxPool2d(2)
                continue
            layers[str(number)] = Conv3x3(channels, multiple * width)
            layers[str(number + 1)] = nn.ReLU()
            channels = multiple * width
        self.features = nn.ModuleDict(layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the outputs in the order of depth for ``x`` ``(B, 3, H, W)``."""
        found = []
        for number, layer in self.features.items():
            x = layer(x)
            if int(number) in self.outputs:
                found.append(x)
        return found

    def load_torchvision(self, path: Path) -> None:
        """Load torchvision's ``vgg19-*.pth``, up to relu3_3 also ``vgg16-*.pth``.

        No code is executed.

        Raises:
            WeightsError: The file is missing, unsafe, or holds other layers.
        """
        state = read_torch_file(path)
        try:
            self.load_state_dict({key: state[key] for key in self.state_dict()})
        except (KeyError, RuntimeError) as error:
            raise WeightsError(f"{path} is not torchvision's VGG: {error}") from None

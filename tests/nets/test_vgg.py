import pytest
import torch
from torch import nn

from mien.files.errors import WeightsError
from mien.nets.perceptual import VggFeatures
from mien.nets.vgg import Vgg19

# Channels of torchvision's vgg19 ("E" configuration) with their index in nn.Sequential.
TORCHVISION = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256),
               12: (256, 256), 14: (256, 256), 16: (256, 256), 19: (256, 512)}  # fmt: skip


@pytest.fixture
def torchvision_file(tmp_path):
    state = {}
    for index, (cin, cout) in TORCHVISION.items():
        state[f"features.{index}.weight"] = torch.randn(cout, cin, 3, 3) * 0.05
        state[f"features.{index}.bias"] = torch.randn(cout) * 0.05
    state["classifier.6.bias"] = torch.zeros(1000)
    torch.save(state, tmp_path / "vgg19-dcbb9e9d.pth")
    return tmp_path / "vgg19-dcbb9e9d.pth"


def test_parameter_counts_of_the_specification():
    def count(*outputs):
        return sum(p.numel() for p in Vgg19(outputs).parameters())

    assert count("relu3_1") == 555_328
    assert count("relu4_1") == 3_505_728


def test_torchvision_weights_load_and_are_the_plain_network(torchvision_file):
    net = Vgg19(("relu2_1", "relu3_1"))
    net.load_torchvision(torchvision_file)
    state = torch.load(torchvision_file, weights_only=True)
    x = torch.randn(1, 3, 32, 32)
    y = x
    for index in (0, 2, 5):
        if index == 5:
            y = nn.functional.max_pool2d(y, 2)
        y = nn.functional.conv2d(y, state[f"features.{index}.weight"],
                                 state[f"features.{index}.bias"], padding=1).relu()  # fmt: skip
    torch.testing.assert_close(net(x)[0], y)
    assert net(x)[1].shape == (1, 256, 8, 8)


def test_loss_network_takes_images_in_minus_one_to_one(torchvision_file):
    features = VggFeatures(torchvision_file)
    assert [f.shape[1] for f in features(torch.zeros(1, 3, 64, 64))] == [128, 256, 512]
    assert not any(p.requires_grad for p in features.parameters())


def test_another_file_is_refused(tmp_path):
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="not torchvision's VGG"):
        Vgg19(("relu2_1",)).load_torchvision(tmp_path / "other.pth")
    with pytest.raises(WeightsError):
        Vgg19(("relu2_1",)).load_torchvision(tmp_path / "absent.pth")


def test_code_in_a_file_is_not_executed(tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"features.0.weight": Evil()}, 2))
    with pytest.raises(WeightsError, match="refused"):
        Vgg19(("relu2_1",)).load_torchvision(tmp_path / "evil.pth")
    assert not (tmp_path / "executed").exists()

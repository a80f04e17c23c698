import torch

from mien.data.warp import inverse_flow, resize_flow, warp


def test_zero_flow_is_the_identity():
    x = torch.rand(2, 3, 33, 47)
    torch.testing.assert_close(warp(x, torch.zeros(2, 2, 16, 16)), x, atol=1e-5, rtol=0)


def test_flow_of_one_pixel_samples_the_neighbour():
    x = torch.rand(1, 1, 8, 8)
    flow = torch.zeros(1, 2, 8, 8)
    flow[:, 0] = 2 / 7  # one pixel to the right, in units of half the picture
    torch.testing.assert_close(warp(x, flow)[..., :-1], x[..., 1:], atol=1e-5, rtol=0)
    assert warp(x, flow)[..., -1].abs().max() < 1e-5  # zero beyond the border


def test_second_channel_is_y():
    x = torch.rand(1, 1, 8, 8)
    flow = torch.zeros(1, 2, 8, 8)
    flow[:, 1] = 2 / 7
    torch.testing.assert_close(warp(x, flow)[..., :-1, :], x[..., 1:, :], atol=1e-5, rtol=0)


def test_inverse_of_a_constant_flow_is_its_negative_inside():
    flow = torch.full((1, 2, 16, 16), 0.25)
    inside = inverse_flow(flow)[..., 2:-4, 2:-4]
    torch.testing.assert_close(inside, torch.full_like(inside, -0.25))


def test_resized_flow_keeps_its_units():
    flow = torch.full((1, 2, 4, 4), 0.5)
    torch.testing.assert_close(resize_flow(flow, (32, 24)), torch.full((1, 2, 32, 24), 0.5))

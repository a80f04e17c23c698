import torch

from mien.data.augment import color_jitter, gaussian_blur, grayscale, sobel
from mien.data.views import ViewSettings, draw_view, step_generator


def batch(n=6, size=64):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_a_view_is_jitter_grey_blur_and_edges_in_this_order():
    x, g = batch(), torch.Generator().manual_seed(3)
    y = color_jitter(x, g, 0.8, 0.8, 0.8, 0.2, p=0.8)
    y = gaussian_blur(grayscale(y, g, p=0.2), g, (0.1, 2.0), p=0.8, taps=7)
    y = sobel(y, g, p=0.6)
    found = draw_view(x, torch.Generator().manual_seed(3), ViewSettings())
    assert found.equal(y)
    assert found.abs().max() <= 1


def test_nothing_asked_is_nothing_done():
    x = batch()
    still = ViewSettings(jitter=0.0, gray=0.0, blur=0.0, sobel=0.0)
    assert draw_view(x, torch.Generator().manual_seed(0), still).equal(x)


def test_nothing_moves():
    """A view of the mirror image is the mirror image of the view."""
    x = batch()
    view = draw_view(x, torch.Generator().manual_seed(0), ViewSettings())
    mirrored = draw_view(x.flip(-1), torch.Generator().manual_seed(0), ViewSettings())
    torch.testing.assert_close(mirrored.flip(-1), view, atol=1e-4, rtol=0)


def test_the_generator_of_a_step_is_a_function_of_the_global_state():
    torch.manual_seed(5)
    a, b = (torch.rand(3, generator=step_generator(torch.zeros(1))) for _ in range(2))
    torch.manual_seed(5)
    c = torch.rand(3, generator=step_generator(torch.zeros(1)))
    assert a.equal(c)
    assert not a.equal(b)

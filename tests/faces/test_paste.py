from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mien.faces.align import invert, transform_points, warp_crop
from mien.faces.paste import BLENDS, MASKS, face_mask, membrane, paste, paste_change, warp_photo
from mien.files.errors import ConfigError, ImageError

FIXTURES = list(HealthCheck)
places = st.tuples(  # centre, photo px a crop px, degrees
    st.floats(-60, 300), st.floats(-60, 260), st.floats(0.3, 12), st.floats(-180, 180)
)


def changed(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a != b).any(-1)


def inside_crop(photo: np.ndarray, face, margin: float = 0.0) -> np.ndarray:
    """Return which pixels of the photo lie in the crop, but for a margin in crop pixels."""
    height, width = photo.shape[:2]
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).reshape(-1, 2)
    at = transform_points(pixels, invert(face.to_photo)).reshape(height, width, 2)
    last = len(face.crop) - 1
    return ((at >= margin) & (at <= last - margin)).all(-1)


class TestRoundTrip:
    @settings(max_examples=15, deadline=None, suppress_health_check=FIXTURES)
    @given(place=places, blend=st.sampled_from(BLENDS), mask=st.sampled_from(MASKS))
    def test_an_untouched_crop_changes_nothing(self, smooth_photo, face_at, place, blend, mask):
        photo = smooth_photo(240, 200, blur=1.0)
        face = face_at(photo, *place)
        result = paste(photo, face, face.crop, blend=blend, mask=mask)
        np.testing.assert_array_equal(result, photo)
        assert result is not photo

    @settings(max_examples=15, deadline=None, suppress_health_check=FIXTURES)
    @given(place=places.filter(lambda p: p[2] < 4), blend=st.sampled_from(BLENDS))
    def test_replacing_by_an_untouched_crop_changes_little(
        self, smooth_photo, face_at, place, blend
    ):
        photo = smooth_photo(240, 200, blur=10 * max(place[2], 1))
        face = face_at(photo, *place)
        mask = face_mask(face, feather=0.3)
        result = paste(photo, face, face.crop, detail=False, blend=blend, mask=mask)
        difference = np.abs(result.astype(int) - photo)
        assert difference.mean() < 0.5
        assert difference.max() < 8  # at the photo's border the crop shows its mirror image
        if inside_crop(photo, face).sum() > 0.999 * (64 * place[2]) ** 2 and place[2] > 0.6:
            assert difference.max() <= 2

    @settings(max_examples=15, deadline=None, suppress_health_check=FIXTURES)
    @given(place=places)
    def test_a_zero_flow_changes_nothing(self, smooth_photo, face_at, place):
        photo = smooth_photo(240, 200, blur=0.7)
        face = face_at(photo, *place)
        result = warp_photo(photo, face, np.zeros((2, 16, 16), np.float32))
        np.testing.assert_array_equal(result, photo)


class TestPaste:
    @example(
        place=(0.0, 1.5, 0.30078125, 0.0), blend="feather", mask="ellipse", detail=False, size=32
    )
    @settings(max_examples=15, deadline=None, suppress_health_check=FIXTURES)
    @given(
        place=places,
        blend=st.sampled_from(BLENDS),
        mask=st.sampled_from(MASKS),
        detail=st.booleans(),
        size=st.sampled_from([32, 64, 128]),
    )
    def test_nothing_changes_outside_the_crop(
        self, smooth_photo, face_at, place, blend, mask, detail, size
    ):
        photo = smooth_photo(240, 200)
        face = face_at(photo, *place)
        new = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
        before = photo.copy()
        result = paste(photo, face, new, blend=blend, mask=mask, detail=detail)
        np.testing.assert_array_equal(photo, before)
        # A photo pixel larger than a crop pixel may lie half in the crop: it takes its share.
        reach = 0.75 / place[2] if place[2] < 1 else 0.0
        assert not changed(result, photo)[~inside_crop(photo, face, -reach)].any()

    def test_the_middle_takes_the_whole_change(self, smooth_photo, face_at):
        photo = (smooth_photo(320, 240) // 2 + 50).astype(np.uint8)
        face = face_at(photo, 150, 110, 2.5, 20)
        result = paste(photo, face, face.crop + 30)
        np.testing.assert_array_equal(result[110, 150], photo[110, 150] + 30)
        assert changed(result, photo).any()

    @pytest.mark.parametrize("blend", BLENDS)
    def test_detail_finer_than_the_crop_survives(self, face_at, blend):
        rng = np.random.default_rng(0)
        photo = (128 + rng.normal(0, 25, (400, 400, 3))).clip(40, 215).astype(np.uint8)
        face = face_at(photo, 200, 200, 5)
        y, x = np.mgrid[:64, :64]
        spot = 40 * np.exp(-((x - 31.5) ** 2 + (y - 31.5) ** 2) / 60)
        new = (face.crop + spot[..., None]).clip(0, 255).astype(np.uint8)
        middle = (slice(180, 220), slice(180, 220))

        def texture(image: np.ndarray) -> float:
            fine = image.astype(np.float32) - cv2.GaussianBlur(image, (0, 0), 4)
            return float(fine[middle].std())

        kept = paste(photo, face, new, blend=blend)
        replaced = paste(photo, face, new, blend=blend, detail=False)
        assert texture(kept) == pytest.approx(texture(photo), rel=0.03)
        assert texture(replaced) < 0.4 * texture(photo)
        assert kept[middle].mean() == pytest.approx(photo[middle].mean() + 37, abs=4)

    def test_an_edit_lands_where_it_was_made(self, canvas, face_at):
        photo = canvas(300, 260)
        face = face_at(photo, 140, 120, 3, 35)
        new = face.crop.copy()
        new[20:25, 40:45] = 255
        (x, y) = transform_points(np.array([[42, 22]]), face.to_photo)[0]
        difference = np.abs(paste(photo, face, new, mask="crop").astype(float) - photo).sum(-1)
        yy, xx = np.mgrid[:260, :300]
        assert (difference * xx).sum() / difference.sum() == pytest.approx(x, abs=0.5)
        assert (difference * yy).sum() / difference.sum() == pytest.approx(y, abs=0.5)

    def test_crop_size_does_not_shift_the_edit(self, canvas, face_at):
        photo = canvas(300, 260)
        face = face_at(photo, 140, 120, 3)
        results = []
        for size in (32, 64, 128):
            y, x = (np.mgrid[:size, :size] + 0.5) / size - 0.5
            spot = 90 * np.exp(-((x - 0.05) ** 2 + (y + 0.1) ** 2) * 60)
            new = (warp_crop(photo, np.eye(2, 3), size) + spot[..., None]).clip(0, 255)
            results.append(paste(photo, face, new.astype(np.uint8)).astype(int))
        assert np.abs(results[0] - results[1]).max() <= 3
        assert np.abs(results[2] - results[1]).max() <= 3

    def test_poisson_takes_its_colour_from_the_rim(self, smooth_photo, face_at):
        photo = (smooth_photo(240, 200, blur=15) // 2 + 50).astype(np.uint8)
        face = face_at(photo, 120, 100, 1.5)
        # A shift of all colours has no gradient, so nothing of it stays.
        result = paste(photo, face, face.crop + 40, blend="poisson")
        assert np.abs(result.astype(int) - photo).max() <= 1
        assert np.abs(paste(photo, face, face.crop + 40).astype(int) - photo).max() == 40

    def test_poisson_leaves_no_seam(self, canvas, face_at):
        photo = canvas(240, 200)
        face = face_at(photo, 120, 100, 2)
        new = face.crop.copy()
        new[28:36, 28:36] = 20
        new = (new * 0.6).astype(np.uint8)
        result = paste(photo, face, new, blend="poisson").astype(int)
        rim = np.abs(np.diff(result[100, :, 0]))[:90]  # from the left up to near the spot
        assert rim.max() <= 4
        assert result[100, 120, 0] < 80

    def test_given_masks(self, canvas, face_at):
        photo = canvas(240, 200)
        face = face_at(photo, 120, 100, 2)
        mask = np.zeros((16, 16), np.float32)
        mask[4:8, 8:12] = 1
        moved = changed(paste(photo, face, face.crop // 2, mask=mask), photo)
        y, x = np.nonzero(moved)
        corner = np.array([x.min(), y.min(), x.max(), y.max()])
        # Cells 8..11 and 4..7 of 16 over 128 px around (120, 100), one cell softer to each side.
        np.testing.assert_allclose(corner, [120 - 4, 68 - 4, 152 + 3, 100 + 3], atol=1.5)
        nothing = paste(photo, face, face.crop // 2, mask=np.zeros((8, 8), np.float32))
        np.testing.assert_array_equal(nothing, photo)

    def test_a_face_beside_the_photo(self, canvas, face_at):
        photo = canvas(100, 80)
        face = face_at(photo, 900, -700, 2)
        for result in (
            paste(photo, face, face.crop // 2),
            warp_photo(photo, face, np.full((2, 4, 4), 0.1)),
        ):
            np.testing.assert_array_equal(result, photo)

    def test_change_of_a_reconstruction(self, smooth_photo, face_at):
        photo = (smooth_photo() // 2 + 50).astype(np.uint8)
        face = face_at(photo, 150, 110, 2)
        blurred = np.asarray(cv2.GaussianBlur(face.crop, (0, 0), 3), dtype=np.uint8)
        same = paste_change(photo, face, blurred, blurred)
        np.testing.assert_array_equal(same, photo)
        direct = paste_change(photo, face, face.crop, face.crop + 20)
        np.testing.assert_array_equal(direct, paste(photo, face, face.crop + 20))

    def test_bad_input(self, canvas, face_at):
        photo = canvas(100, 80)
        face = face_at(photo, 50, 40, 1)
        with pytest.raises(ConfigError, match="did you mean 'poisson'"):
            paste(photo, face, face.crop, blend="poison")
        with pytest.raises(ConfigError, match="did you mean 'ellipse'"):
            paste(photo, face, face.crop, mask="elipse")
        with pytest.raises(ConfigError, match="A mask"):
            paste(photo, face, face.crop, mask=np.zeros((3, 4), np.float32))
        with pytest.raises(ImageError, match="square"):
            paste(photo, face, face.crop[:30])
        with pytest.raises(ImageError, match="differ"):
            paste_change(photo, face, face.crop[:30, :30], face.crop)
        with pytest.raises(ImageError):
            paste(photo, face, face.crop.astype(np.float32))
        with pytest.raises(ConfigError, match="A flow"):
            warp_photo(photo, face, np.zeros((16, 16)))


class TestMask:
    @pytest.mark.parametrize("shape", MASKS)
    @pytest.mark.parametrize("size", [None, 16, 200])
    def test_full_in_the_middle_and_zero_at_the_edge(self, canvas, face_at, shape, size):
        face = face_at(canvas(200, 200), 100, 100, 1.5, 30)
        mask = face_mask(face, shape, 0.15, size)
        n = size or 64
        assert mask.shape == (n, n)
        assert mask.dtype == np.float32
        assert mask[n // 2, n // 2] == 1
        edge = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        assert (edge == 0).all()
        assert ((mask >= 0) & (mask <= 1)).all()

    def test_hull_follows_the_landmarks(self, canvas, face_at):
        face = face_at(canvas(200, 200), 100, 100, 1.5, 30)
        mask = face_mask(face, "hull", feather=0.05)
        points = transform_points(face.landmarks, invert(face.to_photo))
        inner = np.round(points[[30, 33, 36, 45, 51, 57]]).astype(int)
        assert (mask[inner[:, 1], inner[:, 0]] > 0.9).all()
        assert mask[60, 32] == 0  # below the chin
        assert mask.mean() < face_mask(face, "ellipse", feather=0.05).mean()

    def test_feather_softens(self, canvas, face_at):
        face = face_at(canvas(200, 200), 100, 100, 1.5)
        hard, soft = face_mask(face, feather=0.0), face_mask(face, feather=0.4)
        assert set(np.unique(hard)) == {0, 1}
        assert len(np.unique(soft)) > 50
        assert (soft <= hard).all()

    def test_unknown_shape(self, canvas, face_at):
        with pytest.raises(ConfigError, match="did you mean 'hull'"):
            face_mask(face_at(canvas(50, 50), 25, 25, 1), "hul")


class TestMembrane:
    def test_harmonic_functions_return(self):
        y, x = np.mgrid[:96, :80] / 96 - 0.5
        truth = np.stack([x * x - y * y, x * y, x - 2 * y], -1).astype(np.float32)
        inside = np.hypot(x + 0.1, y) < 0.35
        holed = np.where(inside[..., None], 99, truth).astype(np.float32)
        filled = membrane(holed, inside)
        np.testing.assert_array_equal(filled[~inside], truth[~inside])
        assert np.abs(filled - truth).max() < 0.02

    def test_a_hole_that_touches_the_edge_and_extremes(self):
        values = np.full((40, 40, 3), 5, np.float32)
        inside = np.zeros((40, 40), bool)
        inside[:, 20:] = True
        np.testing.assert_allclose(membrane(values * ~inside[..., None], inside), 5, atol=0.05)
        assert (membrane(values, np.ones((40, 40), bool)) == 0).all()
        np.testing.assert_array_equal(membrane(values, np.zeros((40, 40), bool)), values)


class TestWarpPhoto:
    def test_agrees_with_the_warp_of_the_crop(self, smooth_photo, face_at):
        torch = pytest.importorskip("torch")
        from mien.data.warp import warp

        photo = smooth_photo(300, 300, blur=12)
        face = face_at(photo, 150, 150, 3, 25)
        y, x = np.mgrid[-1:1:64j, -1:1:64j]
        bump = np.exp(-(x**2 + y**2) * 4)
        flow = np.stack([0.12 * bump, -0.08 * bump]).astype(np.float32)
        tensor = torch.from_numpy(face.crop).permute(2, 0, 1)[None].float()
        moved = warp(tensor, torch.from_numpy(flow)[None])[0].permute(1, 2, 0).numpy()
        result = warp_photo(photo, face, flow, feather=0.1)
        crop = warp_crop(result, face.to_photo, 64).astype(np.float32)
        middle = (slice(12, 52), slice(12, 52))
        assert np.abs(crop - moved)[middle].mean() < 1
        assert np.abs(face.crop - moved)[middle].mean() > 5  # the flow does move something

    def test_moves_by_so_many_photo_pixels(self, face_at):
        photo = np.zeros((300, 300, 3), np.uint8)
        photo[140:160, 140:160] = 255
        face = face_at(photo, 150, 150, 3)
        flow = np.zeros((2, 8, 8), np.float32)
        flow[0] = 2 * 20 / (63 * 3)  # shows what was 20 px further right
        result = warp_photo(photo, face, flow)
        np.testing.assert_array_equal(result[140:160, 120:140], photo[140:160, 140:160])
        assert (result[140:160, 142:160] == 0).all()

    def test_fine_detail_stays_sharp(self, face_at):
        rng = np.random.default_rng(0)
        photo = rng.integers(0, 256, (300, 300, 3), np.uint8)
        face = face_at(photo, 150, 150, 3)
        flow = np.full((2, 4, 4), 2 * 10 / (63 * 3), np.float32)  # 10 px each way: whole pixels
        result = warp_photo(photo, face, flow)
        np.testing.assert_array_equal(result[130:160, 130:160], photo[140:170, 140:170])

    def test_nothing_moves_outside_the_mask(self, smooth_photo, face_at):
        photo = smooth_photo(300, 300, blur=1)
        face = face_at(photo, 20, 280, 3, 40)
        flow = np.random.default_rng(0).normal(0, 0.3, (2, 16, 16))
        result = warp_photo(photo, face, flow)
        moved = changed(result, photo)
        assert moved.any()
        assert not moved[~inside_crop(photo, face)].any()
        mask = np.zeros((64, 64), np.float32)
        np.testing.assert_array_equal(warp_photo(photo, face, flow, mask=mask), photo)


class TestStructureTakenAway:
    """A bright block with fine stripes (teeth) that an edit paints over by its surroundings."""

    @pytest.fixture
    def scene(self, face_at):
        rng = np.random.default_rng(0)
        photo = 150 + rng.normal(0, 4, (400, 400, 3))
        photo[:80] -= 60  # hair: the face has some contrast
        photo[170:230, 130:270] = 240
        photo[170:230, 130:270:14] = 40  # narrower than a pixel of the crop
        photo = photo.clip(0, 255).astype(np.uint8)
        face = face_at(photo, 200, 200, 5)
        new = face.crop.copy()
        new[22:43, 14:51] = 150
        return photo, face, new

    middle = (slice(185, 215), slice(150, 250))

    def test_its_detail_goes_with_it(self, scene):
        photo, face, new = scene
        result = paste(photo, face, new, mask="crop").astype(np.float32)
        assert result[self.middle].mean() == pytest.approx(150, abs=3)
        across = result[self.middle].mean((0, 2))  # stripes are what the columns have in common
        assert across.std() < 3 < 20 < photo[self.middle].mean((0, 2)).std()

    def test_grain_as_that_of_the_rest_takes_its_place(self, scene):
        photo, face, new = scene
        result = paste(photo, face, new, mask="crop")
        fine = result[self.middle].astype(np.float32)
        fine -= cv2.GaussianBlur(fine, (0, 0), 4)
        assert 2 < fine.std() < 6  # 4 in the photo

    def test_all_else_keeps_its_sharpness(self, scene):
        photo, face, new = scene
        result = paste(photo, face, new, mask="crop")
        for rows in (slice(60, 140), slice(265, 340)):  # hair's edge, skin
            np.testing.assert_array_equal(result[rows], photo[rows])

    def test_a_new_colour_keeps_the_detail(self, scene):
        photo, face, _ = scene
        result = paste(photo, face, (face.crop * [1, 0.6, 0.7]).astype(np.uint8), mask="crop")
        stripes = result[self.middle].astype(np.float32).mean((0, 2))
        assert stripes.std() > 0.7 * photo[self.middle].mean((0, 2)).std()

    def test_it_is_the_same_each_time(self, scene):
        photo, face, new = scene
        np.testing.assert_array_equal(paste(photo, face, new), paste(photo, face, new))

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from mien.faces.image import (
    check_image,
    decode_image,
    encode_image,
    read_image,
    read_metadata,
    write_image,
)
from mien.files.errors import ImageError


@pytest.fixture
def picture() -> np.ndarray:
    """A 40 x 24 picture that no flip or turn leaves as it is."""
    y, x = np.mgrid[:24, :40]
    return np.stack([x * 6, y * 10, (x + y) * 3], -1).astype(np.uint8)


def encoded(image: Pillow.Image, format: str, **options: object) -> bytes:
    target = io.BytesIO()
    image.save(target, format, **options)
    return target.getvalue()


def png_header(width: int, height: int) -> bytes:
    """Return a PNG file that declares a size and holds no pixels of it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


class TestHostileFiles:
    def test_one_pixel(self, tmp_path):
        path = tmp_path / "dot.png"
        write_image(path, np.zeros((1, 1, 3), np.uint8))
        with pytest.raises(
            ImageError, match=r"dot\.png has 1 x 1 pixels; a face needs at least 16"
        ):
            read_image(path)
        assert decode_image(path.read_bytes()).shape == (1, 1, 3)

    @pytest.mark.parametrize("size", [(30_000, 30_000), (2**31 - 1, 2**31 - 1), (33_000, 20)])
    def test_declared_size_is_checked_before_decoding(self, tmp_path, size):
        path = tmp_path / "bomb.png"
        path.write_bytes(png_header(*size))
        with pytest.raises(ImageError, match=r"declares .* Shrink it first"):
            read_image(path)

    def test_pixel_limit_can_be_lowered(self, picture):
        data = encode_image(picture)
        with pytest.raises(ImageError, match="at most 100 in all"):
            read_image(data, max_pixels=100)
        assert read_image(data, max_pixels=40 * 24).shape == (24, 40, 3)

    def test_text_named_jpg(self, tmp_path):
        path = tmp_path / "letter.jpg"
        path.write_text("Dear reader, this is no picture.")
        with pytest.raises(ImageError, match=r"letter\.jpg is not a JPEG, PNG or WebP picture"):
            read_image(path)

    @pytest.mark.parametrize("format", ["GIF", "BMP", "TIFF", "PPM"])
    def test_other_formats_are_not_decoded_whatever_their_name(self, tmp_path, picture, format):
        path = tmp_path / "photo.png"
        path.write_bytes(encoded(Pillow.fromarray(picture), format))
        with pytest.raises(ImageError, match="convert it to one first"):
            read_image(path)

    def test_right_format_under_a_wrong_suffix(self, tmp_path, picture):
        path = tmp_path / "photo.jpg"
        path.write_bytes(encode_image(picture, "PNG"))
        np.testing.assert_array_equal(read_image(path), picture)

    def test_empty_absent_folder_and_odd_names(self, tmp_path):
        (tmp_path / "empty.png").touch()
        with pytest.raises(ImageError, match="not a JPEG"):
            read_image(tmp_path / "empty.png")
        with pytest.raises(ImageError, match="does not exist"):
            read_image(tmp_path / "absent.png")
        with pytest.raises(ImageError, match="is a folder"):
            read_image(tmp_path)
        with pytest.raises(ImageError):
            read_image("a\0b.png")
        with pytest.raises(ImageError):
            read_image("https://example.org/face.jpg")

    def test_a_huge_file_is_not_read(self, tmp_path):
        path = tmp_path / "huge.jpg"
        with path.open("wb") as file:
            file.write(b"\xff\xd8\xff")
            file.truncate(101_000_000)  # sparse
        with pytest.raises(ImageError, match="101,000,000 bytes; at most 100,000,000"):
            read_image(path)
        with pytest.raises(ImageError, match="at most 3 are read"):
            read_image(b"\xff\xd8\xff\xe0", max_bytes=3)

    @pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
    @pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
    def test_truncated(self, tmp_path, format, share):
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        data = encode_image(noise, format)
        path = tmp_path / "part"
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(ImageError, match="damaged or cut off"):
            read_image(path)

    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        format=st.sampled_from(["JPEG", "PNG", "WEBP"]),
        changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8),
        keep=st.floats(0.1, 1),
    )
    def test_damage_never_raises_anything_else(self, picture, format, changes, keep):
        data = bytearray(encode_image(picture, format, metadata={"made": "here"}))
        for place, value in changes:
            data[round(place * (len(data) - 1))] = value
        with contextlib.suppress(ImageError):
            check_image(read_image(bytes(data[: round(keep * len(data))])))

    @settings(max_examples=50, deadline=None)
    @given(
        start=st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP"]),
        rest=st.binary(max_size=60),
    )
    def test_noise_never_raises_anything_else(self, start, rest):
        with pytest.raises(ImageError):
            read_image(start + rest)
        with pytest.raises(ImageError):
            read_metadata(start + rest)


class TestPixels:
    @pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_orientation_is_applied(self, picture, format, orientation):
        # How a camera that was held otherwise stores the same scene.
        stored = {
            1: picture,
            2: picture[:, ::-1],
            3: picture[::-1, ::-1],
            4: picture[::-1],
            5: picture.swapaxes(0, 1),
            6: np.rot90(picture),
            7: picture[::-1, ::-1].swapaxes(0, 1),
            8: np.rot90(picture, -1),
        }[orientation]
        exif = Pillow.Exif()
        exif[0x0112] = orientation
        options = {"JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True}}
        data = encoded(
            Pillow.fromarray(np.ascontiguousarray(stored)),
            format,
            exif=exif,
            **options.get(format, {}),
        )
        image = read_image(data)
        assert image.shape == picture.shape
        difference = np.abs(image.astype(int) - picture).max()
        assert difference <= (6 if format == "JPEG" else 0)

    def test_orientation_swaps_sides_of_a_shrunk_picture(self, picture):
        exif = Pillow.Exif()
        exif[0x0112] = 6
        data = encoded(Pillow.fromarray(picture), "JPEG", exif=exif)
        assert read_image(data, max_side=20).shape == (20, 12, 3)

    @pytest.mark.filterwarnings("ignore:Corrupt EXIF")
    def test_broken_exif_does_not_lose_the_picture(self, picture):
        data = encoded(Pillow.fromarray(picture), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
        assert read_image(data).shape == picture.shape

    def test_cmyk(self):
        rgb = Pillow.new("RGB", (32, 32), (200, 30, 60))
        image = read_image(encoded(rgb.convert("CMYK"), "JPEG", quality=95))
        np.testing.assert_allclose(image[16, 16], (200, 30, 60), atol=4)

    def test_grey(self, picture):
        grey = picture[..., 0]
        image = read_image(encoded(Pillow.fromarray(grey), "PNG"))
        np.testing.assert_array_equal(image, np.repeat(grey[..., None], 3, 2))

    def test_16_bit_grey_is_scaled_not_clipped(self):
        values = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
        image = read_image(encoded(Pillow.fromarray(values), "PNG"))
        np.testing.assert_allclose(image[..., 0], values / 257, atol=0.51)

    def test_16_bit_colour(self):
        import cv2

        values = np.zeros((20, 20, 3), np.uint16)
        values[:] = (65535, 32896, 257)  # blue, green, red
        _, data = cv2.imencode(".png", values)
        np.testing.assert_array_equal(read_image(data.tobytes())[3, 3], (1, 128, 255))

    @pytest.mark.parametrize("format", ["PNG", "WEBP"])
    def test_transparency_is_laid_on_white(self, format):
        rgba = np.zeros((20, 20, 4), np.uint8)
        rgba[:, :10] = (255, 0, 0, 255)
        rgba[:, 10:] = (0, 0, 0, 51)
        image = read_image(encoded(Pillow.fromarray(rgba), format, lossless=True))
        np.testing.assert_array_equal(image[0, 0], (255, 0, 0))
        np.testing.assert_allclose(image[0, 15], (204, 204, 204), atol=1)

    def test_grey_with_alpha(self):
        image = read_image(encoded(Pillow.new("LA", (20, 20), (0, 0)), "PNG"))
        assert (image == 255).all()

    def test_palette_with_and_without_transparency(self, picture):
        palette = Pillow.fromarray(picture).quantize(4)
        plain = read_image(encoded(palette, "PNG"))
        np.testing.assert_array_equal(plain, np.asarray(palette.convert("RGB")))
        index = np.asarray(palette)
        clear = read_image(encoded(palette, "PNG", transparency=int(index[0, 0])))
        assert (clear[0, 0] == 255).all()
        assert (clear[index != index[0, 0]] == plain[index != index[0, 0]]).all()

    def test_one_bit(self):
        image = read_image(encoded(Pillow.new("1", (20, 20), 1), "PNG"))
        assert (image == 255).all()

    def test_first_picture_of_an_animation(self, picture):
        frames = [Pillow.fromarray(picture), Pillow.new("RGB", (40, 24))]
        data = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
        np.testing.assert_array_equal(read_image(data), picture)

    @pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
    def test_max_side_shrinks_to_the_same_picture(self, smooth_photo, format):
        photo = smooth_photo(300, 200, blur=8)
        image = read_image(encode_image(photo, format), max_side=75)
        assert image.shape == (50, 75, 3)
        expected = photo.reshape(50, 4, 75, 4, 3).mean((1, 3))
        assert np.abs(image - expected).mean() < 2

    def test_max_side_never_enlarges(self, picture):
        np.testing.assert_array_equal(read_image(encode_image(picture), max_side=500), picture)


class TestWriting:
    @settings(max_examples=25, deadline=None)
    @given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
    def test_png_is_lossless(self, height, width, seed):
        image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
        np.testing.assert_array_equal(decode_image(encode_image(image)), image)

    @pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".webp", ".PNG"])
    def test_metadata_returns(self, tmp_path, picture, suffix):
        path = tmp_path / "new" / f"photo{suffix}"
        write_image(path, picture, metadata={"edit": "neutralise", "naïve": "ö ✓"})
        assert read_metadata(path) == {"edit": "neutralise", "naïve": "ö ✓"}
        assert np.abs(read_image(path).astype(int) - picture).mean() < 3

    def test_no_or_foreign_metadata_is_empty(self, picture):
        assert read_metadata(encode_image(picture)) == {}
        exif = Pillow.Exif()
        exif[0x010E] = "A holiday"
        assert read_metadata(encoded(Pillow.fromarray(picture), "JPEG", exif=exif)) == {}

    def test_unknown_suffix_and_format(self, tmp_path, picture):
        with pytest.raises(ImageError, match="must end in"):
            write_image(tmp_path / "photo.gif", picture)
        with pytest.raises(ImageError, match="did you mean 'jpg'"):
            encode_image(picture, "jepg")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "array",
        [
            np.zeros((4, 4), np.uint8),
            np.zeros((4, 4, 4), np.uint8),
            np.zeros((4, 4, 3), np.float32),
            np.zeros((0, 4, 3), np.uint8),
        ],
    )
    def test_other_arrays_are_refused(self, tmp_path, array):
        path = tmp_path / "photo.png"
        path.write_bytes(b"older")
        with pytest.raises(ImageError, match="Expected a uint8 RGB picture"):
            write_image(path, array)
        assert path.read_bytes() == b"older"
        assert [p.name for p in Path(tmp_path).iterdir()] == ["photo.png"]

"""Pictures: whatever the file holds, it is decoded to upright RGB or refused with a reason."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vistune.data.images import Flaw, Preprocessor, UnusableImageError, find_flaw, open_image
from vistune.data.pixels import PixelStore

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
PLAIN = Preprocessor(16, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
CLIP = Preprocessor(32, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def stripes(width: int, height: int, *colours: tuple[int, int, int]) -> Image.Image:
    """Upright stripes of equal width, from left to right."""
    picture = Image.new("RGB", (width, height))
    step = width // len(colours)
    for number, colour in enumerate(colours):
        picture.paste(colour, (number * step, 0, (number + 1) * step, height))
    return picture


def saved(picture: Image.Image, path: Path) -> Path:
    picture.save(path)
    return path


# Decoding


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "LA", "RGBA", "I;16"])
def test_every_mode_is_decoded_to_rgb_of_the_same_size(tmp_path: Path, mode: str):
    path = saved(Image.new(mode, (20, 10)), tmp_path / "a.png")
    picture = open_image(path)
    assert (picture.mode, picture.size) == ("RGB", (20, 10))


def test_cmyk_photograph_is_decoded_to_rgb(tmp_path: Path):
    path = saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), tmp_path / "a.jpg")
    red, green, blue = open_image(path).getpixel((4, 4))
    assert red > 200 and green < 60 and blue < 60


def test_picture_that_was_taken_sideways_is_turned_upright(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be seen upright, turn clockwise
    stripes(20, 10, RED, BLUE).save(tmp_path / "a.png", exif=exif)
    picture = open_image(tmp_path / "a.png")
    assert picture.size == (10, 20)
    assert (picture.getpixel((5, 2)), picture.getpixel((5, 17))) == (RED, BLUE)


def test_sound_picture_has_no_flaw(tmp_path: Path):
    assert find_flaw(saved(Image.new("RGB", (8, 8)), tmp_path / "a.jpg")) is None


def test_missing_picture_is_refused_by_name(tmp_path: Path):
    with pytest.raises(UnusableImageError, match=r"absent\.jpg: picture is missing"):
        open_image(tmp_path / "absent.jpg")


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.gif", "a.webp"])
def test_truncated_picture_is_broken(tmp_path: Path, name: str):
    path = saved(Image.effect_noise((64, 64), 60).convert("RGB"), tmp_path / name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert find_flaw(path).reason == "broken picture"


@pytest.mark.parametrize("content", [b"", b"just words", b"<html></html>", bytes(range(256))])
def test_other_content_under_a_pictures_name_is_not_a_picture(tmp_path: Path, content: bytes):
    (tmp_path / "a.jpg").write_bytes(content)
    assert find_flaw(tmp_path / "a.jpg") == Flaw("not a picture")


def test_folder_under_a_pictures_name_is_refused(tmp_path: Path):
    (tmp_path / "a.jpg").mkdir()
    assert find_flaw(tmp_path / "a.jpg").reason == "broken picture"


def test_small_file_of_a_huge_picture_is_refused_before_it_is_decoded(tmp_path: Path):
    path = saved(Image.new("1", (12_000, 9_000)), tmp_path / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        assert find_flaw(path) == Flaw("picture too large", "12000x9000")


# CLIP's preprocessing


def test_pixels_are_scaled_and_normalised_for_each_colour():
    preprocess = Preprocessor(4, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0))
    pixels = preprocess(Image.new("RGB", (4, 4), (255, 0, 255)))
    assert (pixels.shape, pixels.dtype) == ((3, 4, 4), np.float32)
    assert [np.unique(plane).tolist() for plane in pixels] == [[1.0], [-1.0], [0.5]]


@pytest.mark.parametrize("picture", [stripes(90, 30, RED, GREEN, BLUE), stripes(30, 90, GREEN)])
def test_middle_of_a_long_picture_is_kept(picture: Image.Image):
    square = np.asarray(Preprocessor(30, (0, 0, 0), (1, 1, 1)).square(picture))
    assert square.shape == (30, 30, 3)
    assert (square[:, 4:-4] == GREEN).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (500, 3), (31, 33), (640, 427), (33, 32)])
def test_every_size_of_picture_becomes_the_square(size: tuple[int, int]):
    assert CLIP(Image.new("RGB", size)).shape == (3, 32, 32)


def test_rows_stay_rows_and_columns_stay_columns():
    pixels = PLAIN(stripes(16, 16, RED, BLUE))
    assert pixels[0, :, :4].min() > 0.9 and pixels[0, :, -4:].max() < 0.1
    assert pixels[2, :, :4].max() < 0.1 and pixels[2, :, -4:].min() > 0.9


def test_config_is_read_back_as_written():
    assert Preprocessor.from_config(CLIP.config()) == CLIP


@pytest.mark.parametrize("size", [(100, 60), (33, 90), (32, 32), (640, 427), (20, 31)])
def test_transformers_makes_the_same_pixels_from_the_config(size: tuple[int, int]):
    from transformers import CLIPImageProcessor

    picture = Image.merge("RGB", [Image.effect_noise(size, 80) for _ in range(3)])
    theirs = CLIPImageProcessor(**CLIP.config())(picture, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(CLIP(picture), theirs, atol=1e-5)


# The store


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for name, colour in (("red", RED), ("green", GREEN), ("blue", BLUE)):
        saved(Image.new("RGB", (20, 10), colour), tmp_path / f"{name}.png")
    return tmp_path


def test_store_gives_pictures_in_the_order_they_are_asked_for(pictures: Path):
    pixels = PixelStore(pictures, PLAIN).load(["blue.png", "red.png", "blue.png"])
    assert pixels.shape == (3, 3, 16, 16)
    assert pixels[:, :, 8, 8].tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 1]]


def test_store_reads_a_picture_from_disk_only_once(pictures: Path):
    store = PixelStore(pictures, PLAIN)
    before = store.load(["green.png"])
    (pictures / "green.png").unlink()
    assert store.load(["green.png"]).equal(before)


def test_store_without_room_still_gives_every_picture(pictures: Path):
    store = PixelStore(pictures, PLAIN, megabytes=0)
    for _ in range(2):
        pixels = store.load(["red.png", "green.png"])
        assert pixels[:, :, 8, 8].tolist() == [[1, 0, 0], [0, 1, 0]]


def test_store_without_room_keeps_nothing(pictures: Path):
    store = PixelStore(pictures, PLAIN, megabytes=0)
    store.load(["red.png"])
    (pictures / "red.png").unlink()
    with pytest.raises(UnusableImageError, match=r"red\.png: picture is missing"):
        store.load(["red.png"])

"""Pictures: whatever the file holds, it is decoded to upright RGB or refused with a reason."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vistune.data.images import Flaw, Preprocessor, UnusableImageError, look, open_image
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


def find_flaw(path: Path) -> Flaw | None:
    """Why the picture cannot be used, or None where it can."""
    try:
        open_image(path)
    except UnusableImageError as error:
        return error.flaw
    return None


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


def test_sixteen_bits_of_grey_are_scaled_and_not_clipped(tmp_path: Path):
    values = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    path = saved(Image.fromarray(values), tmp_path / "a.png")
    assert np.asarray(open_image(path))[0].tolist() == [[v] * 3 for v in (0, 0, 1, 128, 255)]


def test_palette_with_transparency_keeps_the_colours_beneath_without_a_warning(tmp_path: Path):
    picture = stripes(20, 10, RED, BLUE).convert("P", palette=Image.Palette.ADAPTIVE)
    path = tmp_path / "a.png"
    picture.save(path, transparency=bytes([0, 128] + [255] * 254))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded = open_image(path)
    assert (decoded.getpixel((2, 5)), decoded.getpixel((17, 5))) == (RED, BLUE)


def test_floating_point_picture_is_refused(tmp_path: Path):
    path = saved(Image.fromarray(np.ones((4, 4), np.float32)), tmp_path / "a.tiff")
    assert find_flaw(path) == Flaw("picture of floating-point values")


@pytest.mark.parametrize("size", [(8200, 20), (20, 8200)])
def test_picture_that_is_hardly_more_than_a_line_is_refused(tmp_path: Path, size: tuple[int, int]):
    path = saved(Image.new("L", size), tmp_path / "a.png")
    assert find_flaw(path) == Flaw("picture too narrow", f"{size[0]}x{size[1]}")


def test_pillows_own_limit_says_the_same(tmp_path: Path):
    path = saved(Image.new("1", (20_000, 10_000)), tmp_path / "a.png")
    assert find_flaw(path).reason == look(path, "a.png").reason == "picture too large"


def test_damaged_orientation_is_a_flaw_at_most(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    stripes(20, 10, RED, BLUE).save(tmp_path / "a.jpg", exif=exif)
    whole = bytearray((tmp_path / "a.jpg").read_bytes())
    start = whole.index(b"Exif")
    for at in range(start + 6, start + 40):
        damaged = whole.copy()
        damaged[at] ^= 0xFF
        (tmp_path / "b.jpg").write_bytes(damaged)
        flaw = find_flaw(tmp_path / "b.jpg")
        assert flaw is None or flaw.reason in ("broken picture", "not a picture")


# Preprocessing


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


def test_padding_keeps_the_whole_picture_in_the_middle_of_the_mean_colour():
    grey = Preprocessor(30, (0.5, 0.25, 0.75), (1, 1, 1)).padded()
    wide = np.asarray(grey.square(Image.new("RGB", (30, 10), RED)))
    assert (wide[:9] == (127, 63, 191)).all() and (wide[21:] == (127, 63, 191)).all()
    assert (wide[11:19] == RED).all()
    tall = np.asarray(grey.square(stripes(10, 30, GREEN)))
    assert (tall[:, :9] == (127, 63, 191)).all() and (tall[:, 11:19] == GREEN).all()


def test_padding_a_long_strip_takes_little_memory():
    """Its square would be 19 GB."""
    strip = Image.new("RGB", (80_000, 200), RED)
    for picture in (strip, strip.transpose(Image.Transpose.ROTATE_90)):
        assert CLIP.padded().square(picture).size == (32, 32)


def test_stretching_distorts_and_keeps_everything():
    preprocess = Preprocessor(30, (0, 0, 0), (1, 1, 1), kind="stretch")
    square = np.asarray(preprocess.square(stripes(90, 30, RED, GREEN, BLUE)))
    assert (square[:, :8] == RED).all() and (square[:, 12:18] == GREEN).all()
    assert (square[:, 22:] == BLUE).all()


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


def test_store_gives_the_same_whatever_the_workers_and_callers(tmp_path: Path):
    names = [f"{number}.png" for number in range(12)]
    for name in names:
        saved(Image.effect_noise((40, 25), 70).convert("RGB"), tmp_path / name)
    wanted = [names[n * 7 % 12] for n in range(30)]
    alone = PixelStore(tmp_path, PLAIN).load(wanted)
    shared = PixelStore(tmp_path, PLAIN, megabytes=0, workers=4)
    with ThreadPoolExecutor(6) as callers:
        assert all(found.equal(alone) for found in callers.map(shared.load, [wanted] * 12))


def test_store_names_the_first_broken_picture_in_the_order_asked_for(pictures: Path):
    (pictures / "bad.png").write_bytes(b"")
    store = PixelStore(pictures, PLAIN, workers=3)
    for _ in range(5):
        with pytest.raises(UnusableImageError, match=r"bad\.png: not a picture") as caught:
            store.load(["red.png", "bad.png", "none.png"])
    assert caught.value.name == str(pictures / "bad.png")


def test_store_without_room_keeps_nothing(pictures: Path):
    store = PixelStore(pictures, PLAIN, megabytes=0)
    store.load(["red.png"])
    (pictures / "red.png").unlink()
    with pytest.raises(UnusableImageError, match=r"red\.png: picture is missing"):
        store.load(["red.png"])

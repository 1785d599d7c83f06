"""A look at the pictures of a data set: what the quick look may leave out, and what it may not."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from vistune.data.check.pictures import look_at, look_at_all
from vistune.data.images import open_image, outside


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A photograph that is large enough for the quick look."""
    Image.effect_noise((300, 200), 90).save(tmp_path / "large.jpg")
    assert (tmp_path / "large.jpg").stat().st_size > 32 * 1024
    return tmp_path


def test_quick_look_does_not_decode_what_has_a_header_and_an_end(folder: Path):
    whole = (folder / "large.jpg").read_bytes()
    (folder / "damaged.jpg").write_bytes(whole[:2000] + b"\xff\xd8" * 50 + whole[2100:])
    assert look_at(folder, "damaged.jpg").size == (300, 200)
    (folder / "cut.jpg").write_bytes(whole[:-2000])
    flaw = look_at(folder, "cut.jpg").flaw
    assert flaw is not None and flaw.reason == "broken picture"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_size_is_that_of_the_upright_picture_however_it_is_looked_at(folder: Path, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.effect_noise((300, 200), 90).save(folder / "turned.jpg", exif=exif)
    upright = open_image(folder / "turned.jpg").size
    assert look_at(folder, "turned.jpg").size == look_at(folder, "turned.jpg", decode=True).size == upright


def test_links_are_their_owners_and_are_followed(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    """LLaVA's own layout puts a folder for each source side by side, often as links."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (folder / "large.jpg").rename(elsewhere / "far.jpg")
    (folder / "coco").symlink_to(elsewhere, target_is_directory=True)
    assert look_at(folder, "coco/far.jpg").size == (300, 200)
    assert outside("coco/../far.jpg") is not None  # the link would lead to another place than the name says


def test_many_files_keep_their_order(folder: Path):
    files = ["large.jpg", "none.jpg", "../large.jpg", "large.jpg"]
    looks = list(look_at_all(files, folder, decode=False, workers=1))
    reasons = [seen.flaw.reason if seen.flaw else None for seen in looks]
    assert reasons == [None, "picture is missing", "picture outside the folder of images", None]

"""Pictures by name: folders, zip files and tar shards give the same bytes, and nothing outside of them."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vistune.data import archives
from vistune.data.images import UnusableImageError
from vistune.data.pictures import Pictures, PictureSources
from vistune.errors import VistuneError

NAMES = [f"train/{number:03d}.{kind}" for number in range(5) for kind in ("png", "jpg")]


def encoded(name: str) -> bytes:
    """A picture whose colours depend on its name."""
    noise = np.random.default_rng(list(name.encode())).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG" if name.endswith("png") else "JPEG")
    return file.getvalue()


CONTENT = {name: encoded(name) for name in NAMES}


def in_folder(root: Path) -> Path:
    for name, content in CONTENT.items():
        (root / "all" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "all" / name).write_bytes(content)
    return root / "all"


def write_zip(path: Path, content: dict[str, bytes], packing: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", packing) as archive:
        archive.writestr("train/", "")  # a folder; ``mkdir`` is of Python 3.11 on
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def write_tar(path: Path, content: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def in_shards(root: Path) -> Path:
    for number, start in enumerate(range(0, len(NAMES), 4)):
        some = {f"./{name}": CONTENT[name] for name in NAMES[start : start + 4]}
        write_tar(root / f"{number:05d}.tar", some)
    return root


ROOTS = {
    "folder": in_folder,
    "stored zip": lambda root: write_zip(root / "a.zip", CONTENT),
    "deflated zip": lambda root: write_zip(root / "a.zip", CONTENT, zipfile.ZIP_DEFLATED),
    "tar": lambda root: write_tar(root / "a.tar", CONTENT),
    "range of shards": lambda root: in_shards(root) / "{00000..00002}.tar",
    "shards by star": lambda root: in_shards(root) / "*.tar",
}


@pytest.fixture(params=ROOTS)
def pictures(request: pytest.FixtureRequest, tmp_path: Path) -> Pictures:
    return Pictures(ROOTS[request.param](tmp_path), tmp_path / "cache")


def test_every_place_gives_the_same_bytes_and_pictures(pictures: Pictures):
    for name, content in CONTENT.items():
        assert pictures.exists(name) and pictures.read(name) == content
        assert pictures.look(name) is None
        with Image.open(io.BytesIO(content)) as whole:
            assert pictures.open(name).tobytes() == whole.convert("RGB").tobytes()


def test_threads_read_the_same_as_one(pictures: Pictures):
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(pictures.read, NAMES * 40)) == [CONTENT[name] for name in NAMES * 40]


def test_what_is_not_there_is_missing(pictures: Pictures):
    for name in ("train/9.png", "000.png", "train"):
        assert not pictures.exists(name)
    assert pictures.look("train/9.png").reason == "picture is missing"
    with pytest.raises(UnusableImageError, match=r"train/9\.png: picture is missing"):
        pictures.open("train/9.png")


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "train/../../secret.png", "", "a\0b"])
def test_names_that_lead_outside_are_refused(pictures: Pictures, tmp_path: Path, name: str):
    (tmp_path / "secret.png").write_bytes(CONTENT[NAMES[0]])
    assert not pictures.exists(name)
    assert pictures.look(name).reason in (
        "picture outside the folder of images",
        "`image` is not a file name",
    )
    with pytest.raises(UnusableImageError):
        pictures.read(name)


def test_links_in_the_folder_are_its_owners_and_followed(tmp_path: Path):
    root = in_folder(tmp_path)
    (tmp_path / "elsewhere.png").write_bytes(CONTENT[NAMES[0]])
    (root / "inside.png").symlink_to(root / NAMES[0])
    (root / "outside.png").symlink_to(tmp_path / "elsewhere.png")
    (root / "loop.png").symlink_to(root / "loop.png")
    pictures = Pictures(root)
    assert pictures.read("inside.png") == CONTENT[NAMES[0]]
    assert pictures.read("outside.png") == CONTENT[NAMES[0]]
    assert pictures.look("loop.png") is not None


def test_a_linked_root_is_as_good_as_a_folder(tmp_path: Path):
    (tmp_path / "link").symlink_to(in_folder(tmp_path), target_is_directory=True)
    assert Pictures(tmp_path / "link").read(NAMES[0]) == CONTENT[NAMES[0]]


# Archives that are not sound


def test_index_is_made_once_and_anew_when_the_archive_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    scans = []
    scan = archives._scan_tar
    monkeypatch.setattr(archives, "_scan_tar", lambda path: scans.append(path) or scan(path))
    path = write_tar(tmp_path / "a.tar", {"x.png": CONTENT[NAMES[0]]})
    for _ in range(2):
        assert Pictures(path, tmp_path / "cache").read("x.png") == CONTENT[NAMES[0]]
    assert len(scans) == 1
    write_tar(path, {"y.png": b"0123456789", "x.png": CONTENT[NAMES[1]]})
    assert Pictures(path, tmp_path / "cache").read("x.png") == CONTENT[NAMES[1]]
    assert len(scans) == 2
    assert not list((tmp_path / "cache").glob("*.part"))


def test_a_name_in_two_shards_is_refused_where_it_is_asked_for(tmp_path: Path):
    write_tar(tmp_path / "0.tar", {"1.png": CONTENT[NAMES[0]], "2.png": CONTENT[NAMES[2]]})
    write_tar(tmp_path / "1.tar", {"1.png": CONTENT[NAMES[4]]})
    pictures = Pictures(tmp_path / "*.tar")
    assert pictures.look("2.png") is None
    for name in ("1.png", "./1.png"):
        flaw = pictures.look(name)
        assert (flaw.reason, flaw.detail) == ("picture in two archives", "0.tar and 1.tar")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.zip", b"no zip", "a.zip: not a sound archive"),
        ("a.tar", b"no tar", "a.tar: not a sound archive"),
        ("a.tar", b"", "a.tar: not a sound archive"),
        ("a.rar", b"Rar!", "a.rar: pictures are read from a folder"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, name: str, content: bytes, said: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VistuneError, match=said):
        Pictures(tmp_path / name)


def test_a_compressed_tar_is_refused_with_the_remedy(tmp_path: Path):
    write_tar(tmp_path / "a.tar", CONTENT, "w:gz")
    with pytest.raises(VistuneError, match="gunzip it first"):
        Pictures(tmp_path / "a.tar")


def test_a_tar_that_breaks_off_is_refused(tmp_path: Path):
    path = write_tar(tmp_path / "a.tar", {"a": bytes(5000), "b": bytes(5000)})
    path.write_bytes(path.read_bytes()[:8000])
    with pytest.raises(VistuneError, match=r"a\.tar: not a plain, whole tar file"):
        Pictures(path)


def test_a_zip_packed_otherwise_is_refused(tmp_path: Path):
    path = write_zip(tmp_path / "a.zip", CONTENT, zipfile.ZIP_BZIP2)
    with pytest.raises(VistuneError, match="neither stored nor deflated"):
        Pictures(path)


def test_damage_in_a_deflated_member_is_the_pictures_flaw(tmp_path: Path):
    path = write_zip(tmp_path / "a.zip", {"x.png": bytes(range(256)) * 50}, zipfile.ZIP_DEFLATED)
    whole = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("x.png")
    start = info.header_offset + 30 + len("x.png")
    whole[start : start + 40] = b"\xff" * 40
    path.write_bytes(whole)
    with pytest.raises(UnusableImageError, match=r"x\.png: broken picture"):
        Pictures(path).read("x.png")


def test_a_member_that_unfolds_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_zip(tmp_path / "a.zip", {"x.png": bytes(1_000_000)}, zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(archives, "_MAX_BYTES", 100_000)
    with pytest.raises(UnusableImageError, match="unfolds to more than 100,000 bytes"):
        Pictures(path).read("x.png")


def test_missing_shard_of_a_range_is_named(tmp_path: Path):
    in_shards(tmp_path)
    with pytest.raises(VistuneError, match=r"00003\.tar: no such"):
        Pictures(tmp_path / "{00000..00003}.tar")
    with pytest.raises(VistuneError, match="no file matches"):
        Pictures(tmp_path / "none-*.tar")
    with pytest.raises(VistuneError, match=r"nowhere: no such folder of images"):
        Pictures(tmp_path / "nowhere")


def test_a_header_is_enough_to_look(tmp_path: Path):
    """A JPEG file with a long comment before its header's end is read whole."""
    comment = b"\xff\xfe\xff\xff" + bytes(65533)
    long = CONTENT["train/000.jpg"][:2] + comment * 2 + CONTENT["train/000.jpg"][2:]
    cut = {"cut.jpg": CONTENT["train/000.jpg"][:-30], "long.jpg": long, "text.jpg": b"no picture"}
    pictures = Pictures(write_tar(tmp_path / "a.tar", cut))
    assert pictures.look("cut.jpg") is None and pictures.look("long.jpg") is None
    assert pictures.look("text.jpg").reason == "not a picture"
    with pytest.raises(UnusableImageError, match=r"cut\.jpg: broken picture"):
        pictures.open("cut.jpg")


# Several sources


def test_each_name_says_its_source(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.png").write_bytes(CONTENT[NAMES[0]])
    write_zip(tmp_path / "b.zip", {"x.png": CONTENT[NAMES[2]]})
    sources = PictureSources({"": Pictures(tmp_path / "a"), "b.zip": Pictures(tmp_path / "b.zip")})
    name = sources.name("b.zip", "x.png")
    assert (sources.name("", "x.png"), name) == ("x.png", "b.zip!/x.png")
    assert sources.read("x.png") == CONTENT[NAMES[0]] and sources.read(name) == CONTENT[NAMES[2]]
    assert sources.look("b.zip!/none.png").reason == "picture is missing" and sources.exists(name)
    assert sources.open(name).size == (30, 20)


def test_no_file_stays_open(tmp_path: Path):
    pictures = Pictures(write_zip(tmp_path / "a.zip", CONTENT))
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for name in NAMES:
        pictures.read(name)
    assert before == (len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0)

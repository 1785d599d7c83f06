"""Pictures in requests: what a data: URI may be, what is decoded, and what is refused before that."""

import asyncio
import base64
import gzip
import struct
import threading
import warnings
import zlib
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vistune.serve.engine.engine import BadRequestError
from vistune.serve.guards import pictures as guard
from vistune.serve.guards.limits import Limits
from vistune.serve.guards.pictures import fetch_picture, fetch_pictures

LIMITS = Limits(pictures=3, picture_bytes=100_000, pixels=10_000)
RED, BLUE = (255, 0, 0), (0, 0, 255)
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'


def saved(picture, kind="PNG", **options):
    file = BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def plain(width=4, height=3, colour=RED):
    return Image.new("RGB", (width, height), colour)


def uri(data, kind="image/png", text=None):
    return f"data:{kind};base64,{base64.b64encode(data).decode() if text is None else text}"


def fetch(url, limits=LIMITS):
    return asyncio.run(fetch_picture(url, limits))


def refused(match, url, limits=LIMITS):
    with pytest.raises(BadRequestError, match=match) as caught:
        fetch(url, limits)
    assert caught.value.param == "messages"
    for inside in ("BytesIO", "0x7", "Traceback", "PIL", "passwd", "secret"):
        assert inside not in str(caught.value)
    return str(caught.value)


def png(width, height, pixels=b"", depth=8, colour=2):
    """A PNG with any header, its pixels given packed."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("kind", "media"),
    [
        ("PNG", "image/png"),
        ("JPEG", "image/jpeg"),
        ("JPEG", "image/jpg"),
        ("GIF", "image/gif"),
        ("WEBP", "image/webp"),
        ("BMP", "image/bmp"),
        ("MPO", "image/jpeg"),
    ],
)
def test_every_format_that_is_read(kind, media):
    picture = fetch(uri(saved(plain(), kind), media))
    assert (picture.mode, picture.size) == ("RGB", (4, 3))
    red, green, blue = picture.getpixel((1, 1))
    assert red > 240 and green < 15 and blue < 15


@pytest.mark.parametrize(
    "head",
    [
        "DATA:IMAGE/PNG;BASE64,",
        "data:image/png;name=a.png;base64,",
        "data:image/png;charset=utf-8;base64,",
        "data: image/png ; base64,",
    ],
)
def test_capitals_and_parameters_do_not_matter(head):
    assert fetch(head + base64.b64encode(saved(plain())).decode()).getpixel((0, 0)) == RED


def test_percent_encoded_base64_is_read():
    text = base64.b64encode(saved(plain(5, 7))).decode()
    escaped = "".join(f"%{ord(letter):02X}" for letter in text)
    assert fetch(uri(b"", text=escaped)).size == (5, 7)
    assert fetch(uri(b"", text=text.replace("=", "%3D").replace("+", "%2b").replace("/", "%2F"))).size == (
        5,
        7,
    )


GOOD = base64.b64encode(saved(plain()) + b"\0" * (-len(saved(plain())) % 3 + 1)).decode()  # ends in ==


@pytest.mark.parametrize(
    "text",
    [
        GOOD[:-1],
        GOOD[:-2],
        GOOD + "=",
        GOOD + "AAAA",
        "=" + GOOD,
        GOOD[:8] + "\n" + GOOD[8:],
        GOOD + " ",
        GOOD[:8] + "-_" + GOOD[10:],
        GOOD + "#part",
        GOOD[:-4] + "A",
        GOOD[:8] + "%",
        GOOD[:8] + "%00%00",
        "\u0430" + GOOD[1:],
        "%ff%ff" + GOOD,
        GOOD[:-1] + "\ud800",
        "%41\ud800",
        "<script>",
    ],
)
def test_base64_that_is_none_is_refused(text):
    assert GOOD.endswith("==") and not GOOD.endswith("===")
    assert text[:30] not in refused("is not base64", uri(b"", text=text))


@pytest.mark.parametrize(
    "url",
    [
        "data:",
        "data:image/png",
        "data:image/png;base64",
        "data:image/png," + GOOD,
        "data:," + GOOD,
        "data:image/png;base64;x," + GOOD,
        "data:image/png;base64=1," + GOOD,
        "data:image/png" + ";a=b" * 100 + ";base64," + GOOD,
    ],
)
def test_data_uri_of_another_shape_is_refused(url):
    refused("must read data:image/png;base64", url)


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "text/plain",
        "image/svg+xml",
        "image/*",
        "image/tiff",
        "application/octet-stream",
        "image/x-eps",
        "png",
    ],
)
def test_media_type_of_no_picture_is_refused(kind):
    refused("must name the media type", uri(saved(plain()), kind))


@pytest.mark.parametrize(
    ("kind", "media"),
    [("JPEG", "image/png"), ("PNG", "image/jpeg"), ("GIF", "image/webp"), ("BMP", "image/gif")],
)
def test_picture_that_is_not_what_it_says_is_refused(kind, media):
    refused(f"says {media}, but the picture is image/{kind.lower()}", uri(saved(plain(), kind), media))


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(/etc/passwd) (r) file\n%%EOF\n"


@pytest.mark.parametrize(
    "data",
    [
        *(
            b"",
            b"secret words",
            bytes(range(256)),
            SVG,
            gzip.compress(SVG),
            EPS,
            b"%PDF-1.4\n",
            b"BM",
            b"GIF89a",
        ),
        *(
            b"RIFF\x04\0\0\0WEBP",
            b"\xff\xd8\xff",
            saved(plain())[:20],
            saved(plain(), "TIFF"),
            saved(plain(), "ICO"),
        ),
        *(gzip.compress(saved(plain())), saved(plain(), "PPM"), saved(plain(), "TGA"), saved(plain(), "PDF")),
    ],
    ids=lambda data: repr(data[:12]),
)
def test_what_is_no_picture_that_we_read_is_refused(data):
    refused("cannot be read|broken picture", uri(data))


def test_no_other_program_is_started_for_a_picture(monkeypatch):
    monkeypatch.setattr("subprocess.Popen", None)
    refused("cannot be read", uri(EPS))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
def test_truncated_picture_is_refused(kind):
    whole = saved(Image.effect_noise((64, 64), 60).convert("RGB"), kind)
    refused("cannot be read|broken picture", uri(whole[: len(whole) // 2], f"image/{kind.lower()}"))


@pytest.mark.parametrize("size", [(60_000, 60_000), (2**31 - 1, 2**31 - 1), (101, 100), (10_001, 1)])
def test_small_file_of_a_huge_picture_is_refused_before_it_is_decoded(monkeypatch, size):
    monkeypatch.setattr(guard, "decode", None)
    bomb = png(*size, zlib.compress(bytes(100_000)))
    assert len(bomb) < 1_000
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        refused("more than the 10000 pixels allowed", uri(bomb))


def test_gif_whose_frame_is_larger_than_its_canvas_is_refused():
    small = bytearray(saved(plain(), "GIF"))
    frame = small.index(b"\x2c")
    small[frame + 5 : frame + 9] = struct.pack("<HH", 5_000, 5_000)
    refused("5000x5000 pixels", uri(bytes(small), "image/gif"))


def test_pictures_of_exactly_the_limits_pass():
    assert fetch(uri(saved(plain(100, 100)))).size == (100, 100)
    for more in range(3):  # base64 goes by three bytes
        data = saved(plain()) + bytes(more)
        assert fetch(uri(data), replace(LIMITS, picture_bytes=len(data))).size == (4, 3)
        less = len(data) - 1
        refused(f"larger than the {less} bytes", uri(data), replace(LIMITS, picture_bytes=less))


def test_large_file_is_refused_before_it_is_read(monkeypatch):
    monkeypatch.setattr(guard.base64, "b64decode", None)
    refused("larger than the 100000 bytes", uri(b"", text="A" * 133_340))
    refused("larger than the 100000 bytes", uri(b"", text="%41" * 133_340))


def test_packed_text_in_a_png_does_not_grow():
    text = b"a\0\0" + zlib.compress(bytes(50_000_000))
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    whole = saved(plain())
    assert len(chunk) < LIMITS.picture_bytes
    try:
        fetch(uri(whole[:33] + chunk + whole[33:]))
    except BadRequestError as error:
        assert "broken picture" in str(error)


@pytest.mark.parametrize("data", [png(0, 0), png(0, 5), png(5, 0)], ids=["0x0", "0x5", "5x0"])
def test_picture_without_pixels_is_refused(data):
    refused("cannot be read", uri(data))


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, zlib.error, AssertionError])
def test_whatever_a_decoder_raises_is_the_pictures_fault(monkeypatch, error):
    def decode(source, name):
        raise error("secret")

    monkeypatch.setattr(guard, "decode", decode)
    refused("broken picture", uri(saved(plain())))


def test_picture_that_is_hardly_more_than_a_line_is_refused():
    refused("picture too narrow", uri(saved(plain(500, 1))))


def test_one_pixel_is_a_picture():
    assert fetch(uri(saved(plain(1, 1, BLUE)))).getpixel((0, 0)) == BLUE


def test_animation_gives_its_first_frame():
    frames = [plain(8, 8, BLUE), plain(8, 8, RED)]
    for kind in ("GIF", "WEBP", "PNG"):
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=50, lossless=True)
        assert fetch(uri(data, f"image/{kind.lower()}")).getpixel((4, 4)) == BLUE


def test_sixteen_bits_are_scaled():
    values = np.array([[0, 256, 32_768, 65_535]], dtype=np.uint16)
    picture = fetch(uri(saved(Image.fromarray(values))))
    assert np.asarray(picture)[0].tolist() == [[v] * 3 for v in (0, 1, 128, 255)]


def test_cmyk_and_palettes_become_rgb():
    red, green, blue = fetch(uri(saved(plain(8, 8).convert("CMYK"), "JPEG"), "image/jpeg")).getpixel((4, 4))
    assert red > 230 and max(green, blue) < 25
    for mode in ("P", "L", "1", "LA", "RGBA"):
        assert fetch(uri(saved(plain().convert(mode)))).mode == "RGB"


def test_sideways_picture_is_turned_and_what_its_file_tells_is_left_behind():
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "secret maker"
    data = saved(plain(20, 10), "JPEG", exif=exif, comment=b"secret", icc_profile=b"secret")
    picture = fetch(uri(data, "image/jpeg"))
    assert picture.size == (10, 20)
    assert picture.info == {} and not picture.getexif()
    assert b"secret" not in saved(picture, "JPEG") + saved(picture)


@pytest.mark.parametrize(
    "url",
    [
        *(
            "file:///etc/passwd",
            "FILE:///etc/passwd",
            "file://secret/a.png",
            "ftp://a.com/a.png",
            "/etc/passwd",
        ),
        *(
            "a.png",
            "../a.png",
            "C:\\a.png",
            "\\\\server\\share\\a.png",
            "//a.com/a.png",
            "",
            " ",
            "javascript:x",
        ),
        *(
            " data:image/png;base64," + GOOD,
            "\x00data:image/png;base64," + GOOD,
            "<image>",
            "blob:https://a.com/x",
        ),
        *("view-source:data:image/png;base64," + GOOD, "\ud800", "datа:image/png;base64," + GOOD),
    ],
)
@pytest.mark.parametrize("remote", [False, True])
def test_anything_else_is_refused(url, remote):
    refused("This address is not read", url, replace(LIMITS, remote=remote))


@pytest.mark.parametrize(
    "url", ["https://example.com/secret.png", "HTTP://example.com/", "https://127.0.0.1/"]
)
def test_remote_pictures_are_refused_by_default_without_a_look(monkeypatch, url):
    monkeypatch.setattr(guard, "fetch_remote", None)
    refused("Addresses of remote pictures are not read. Send the picture itself", url)


def test_remote_pictures_are_decoded_like_the_others(monkeypatch):
    asked = []

    async def fetch_remote(url, limits):
        asked.append(url)
        return saved(plain(6, 5), "JPEG") if "good" in url else b"secret"

    monkeypatch.setattr(guard, "fetch_remote", fetch_remote)
    on = replace(LIMITS, remote=True)
    assert fetch("https://example.com/good", on).size == (6, 5)
    refused("cannot be read", "https://example.com/bad", on)
    refused("Send the picture as a data: URI, or an https: address", "http://example.com/good", on)
    assert asked == ["https://example.com/good", "https://example.com/bad"]


def fetch_all(*urls, limits=LIMITS):
    return asyncio.run(fetch_pictures(urls, limits))


def test_all_pictures_come_in_order_and_the_same_one_once():
    a, b = uri(saved(plain(4, 4, RED))), uri(saved(plain(5, 5, BLUE)))
    first, second, third = fetch_all(a, b, a)
    assert (first.size, second.size, third is first) == ((4, 4), (5, 5), True)
    assert fetch_all() == []


def test_too_many_pictures_are_refused_before_one_is_read():
    with pytest.raises(BadRequestError, match="The request has 4 pictures; 3 are allowed"):
        fetch_all(*["file:///etc/passwd"] * 4)


def test_pixels_of_all_pictures_count_together():
    halves = [uri(saved(plain(50, 100, colour))) for colour in (RED, BLUE)]
    assert len(fetch_all(*halves)) == 2
    assert len(fetch_all(*halves, halves[0])) == 3  # the same picture is held once
    with pytest.raises(BadRequestError, match="together, more than the 10000 pixels allowed"):
        fetch_all(*halves, uri(saved(plain(1, 1))))


def test_one_bad_picture_stops_the_others(monkeypatch):
    left = []

    async def fetch_remote(url, limits):
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            left.append(url)
            raise

    async def run():
        with pytest.raises(BadRequestError, match="is not base64"):
            await fetch_pictures(["https://example.com/", uri(b"", text="?")], replace(LIMITS, remote=True))
        await asyncio.sleep(0)
        assert left == ["https://example.com/"]

    monkeypatch.setattr(guard, "fetch_remote", fetch_remote)
    asyncio.run(run())


def test_two_pictures_are_decoded_at_once_and_not_on_the_servers_thread(monkeypatch):
    running, most, threads, lock = 0, 0, set(), threading.Lock()
    gate = threading.Barrier(2)

    def decode(source, name):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            threads.add(threading.current_thread())
        gate.wait(timeout=20)
        with lock:
            running -= 1
        return plain()

    async def run():
        urls = [uri(saved(plain(4, side))) for side in range(1, 9)]
        await asyncio.gather(*(fetch_picture(url, LIMITS) for url in urls))

    monkeypatch.setattr(guard, "decode", decode)
    asyncio.run(run())
    assert most == 2
    assert threading.current_thread() not in threads


SEEDS = [
    saved(Image.effect_noise((16, 16), 60).convert(mode), kind)
    for kind, mode in [
        ("PNG", "RGB"),
        ("PNG", "P"),
        ("JPEG", "RGB"),
        ("GIF", "P"),
        ("WEBP", "RGB"),
        ("BMP", "RGB"),
    ]
]
MEDIA = ["image/png", "image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp"]


@given(st.integers(0, 5), st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=4)), max_size=8))
def test_damaged_pictures_are_decoded_or_refused_and_nothing_else(which, damages):
    data = bytearray(SEEDS[which])
    for place, new in damages:
        at = place % len(data)
        data[at : at + len(new)] = new
    try:
        picture = fetch(uri(bytes(data), MEDIA[which]))
    except BadRequestError:
        return
    assert picture.mode == "RGB" and 0 < picture.width * picture.height <= LIMITS.pixels


@given(st.one_of(st.text(), st.text().map("data:".__add__), st.binary().map(uri)))
def test_any_text_is_read_or_refused_and_nothing_else(url):
    try:
        fetch(url)
    except BadRequestError as error:
        assert error.param == "messages"

"""Parts of the page by themselves: what is shown and sent, attention over pictures, the gate."""

import asyncio
import base64
import io
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vistune.serve.page.heat import heat
from vistune.serve.page.looked import inert, looked_page
from vistune.serve.page.talk import Exchange, PictureError, Talk, data_uri


def decoded(src):
    data = base64.b64decode(src.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA")).astype(int)


def test_heat_is_stronger_where_the_map_is_higher():
    pixels = decoded(heat(np.array([[0.0, 0.5], [1.0, 0.25]]), 0.0, 1.0))
    opacity = pixels[:, :, 3]
    assert opacity[0, 0] == 0 and opacity[0, 0] < opacity[1, 1] < opacity[0, 1] < opacity[1, 0]
    light = pixels[:, :, :3] @ [0.2126, 0.7152, 0.0722]  # told apart by lightness alone
    assert light[1, 1] < light[0, 1] < light[1, 0]


def test_an_even_map_shows_the_picture_alone():
    assert (decoded(heat(np.full((3, 3), 0.1), 0.1, 0.1))[:, :, 3] == 0).all()


def looked(words, pictures=1, boxes=None):
    maps = [np.random.default_rng(n).random((len(words), 3, 3)).astype(np.float32) for n in range(pictures)]
    return SimpleNamespace(words=words, maps=maps, boxes=boxes or [(0.0, 0.0, 1.0, 1.0)] * pictures)


def test_words_are_escaped_and_no_sign_of_a_template_is_left():
    html = looked_page(looked(["<b>", "{{7}}", "${8}", "`"]), [Image.new("RGB", (8, 8))], relative=False)
    assert "<b>" not in html and "&lt;b&gt;" in html and not set("{}$`") & set(html)


def test_pictures_stand_side_by_side_and_each_has_its_map():
    pictures = [Image.new("RGB", (20, 10)), Image.new("RGB", (10, 10))]
    html = looked_page(looked(["one", "two"], 2), pictures, relative=False)
    assert html.count("vt-picture") == 2 and html.count("vt-heat") == 2 * 3
    assert "aspect-ratio:3.0" in html and "left:66.66" in html


def test_many_words_are_cut_and_counted():
    html = looked_page(looked(["w"] * 1_300), [Image.new("RGB", (8, 8))], relative=False)
    assert "100 more words are not shown" in html and html.count('type="radio"') == 1_201


def test_what_is_unusual_for_a_word_can_be_shown():
    sights = looked(["one", "two"])
    sights.maps[0][:, 0, 0] = 10.0  # what draws every word's attention
    share = looked_page(sights, [Image.new("RGB", (8, 8))], relative=False)
    unusual = looked_page(sights, [Image.new("RGB", (8, 8))], relative=True)
    first = [html.split('vt-heat" alt="" src="')[2].split('"')[0] for html in (share, unusual)]
    strongest = [np.unravel_index(decoded(src)[:, :, 3].argmax(), (3, 3)) for src in first]
    assert strongest[0] == (0, 0) and strongest[1] != (0, 0)


def test_failed_exchanges_are_shown_and_not_sent():
    talk = Talk(
        [
            Exchange("One?", answer="1", state="done"),
            Exchange("Two?", answer="half", state="failed", note="It broke."),
            Exchange("Three?", answer="a", state="stopped"),
            Exchange("Four?"),
        ]
    )
    shown = [message["content"][0]["text"] for message in talk.shown()]
    assert shown == ["One?", "1", "Two?", "half\n\n⚠ It broke.", "Three?", "a … (stopped)", "Four?"]
    assert [m["role"] for m in talk.sent(3)] == ["user", "assistant", "user", "assistant", "user"]
    assert talk.sent(3, pictures=False)[-1] == {"role": "user", "content": "Four?"}


@given(st.text(alphabet="<>&;#ax1/!? \n", max_size=40))
def test_any_text_reads_as_it_is(text):
    from html.parser import HTMLParser

    class Reader(HTMLParser):
        def __init__(self):
            super().__init__(convert_charrefs=True)
            self.text, self.tags = "", 0

        def handle_data(self, data):
            self.text += data

        def handle_starttag(self, *_):
            self.tags += 1

        handle_endtag = handle_comment = handle_decl = handle_pi = unknown_decl = handle_starttag

    (message,) = Talk([Exchange(text, ("x",))]).shown()
    reader = Reader()
    reader.feed("".join(part.get("text", "") for part in message["content"]))
    reader.close()
    assert (reader.text, reader.tags) == (text, 0)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "MPO"])
def test_a_picture_is_sent_as_what_it_is(tmp_path, format):
    file = tmp_path / "upload"  # its name says nothing
    Image.new("RGB", (4, 4)).save(file, format)
    kind, data = data_uri(str(file)).removeprefix("data:").split(";base64,")
    assert kind == {"MPO": "image/jpeg"}.get(format, f"image/{format.lower()}")
    assert base64.b64decode(data) == file.read_bytes()


def test_a_file_that_is_no_picture_or_gone_is_told(tmp_path):
    (tmp_path / "text.png").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    with pytest.raises(PictureError, match="not a picture"):
        data_uri(str(tmp_path / "text.png"))
    with pytest.raises(PictureError, match="no longer on the server"):
        data_uri(str(tmp_path / "gone.png"))


def test_inert_leaves_words_alone():
    assert inert("a {b} ${c}") == "a &#123;b&#125; &#36;&#123;c&#125;"


def test_no_upload_is_taken_where_too_much_is_kept(tmp_path, monkeypatch):
    starlette = pytest.importorskip("starlette.exceptions")
    from vistune.serve.page import gate

    passed = []

    async def app(scope, receive, send):
        passed.append(scope["path"])

    async def upload():
        scope = {"type": "http", "method": "POST", "path": "/gradio_api/upload", "headers": []}
        await gate.Gate(app, tmp_path)(scope, None, None)

    monkeypatch.setattr(gate, "_MOST_KEPT", 100)
    (tmp_path / "one").write_bytes(b"0" * 100)
    asyncio.run(upload())
    (tmp_path / "two").write_bytes(b"0")
    with pytest.raises(starlette.HTTPException) as refused:
        asyncio.run(upload())
    assert refused.value.status_code == 507 and passed == ["/gradio_api/upload"]


def test_the_page_is_mounted_without_importing_gradio():
    code = (
        "import sys, vistune.serve.page.mount; sys.exit(any(m in sys.modules for m in ('gradio', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""The page in a real browser; skipped where there is none. Photographs stay in pytest's folder."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio")

from tests.browser import chromium, is_there
from tests.conftest import slow
from tests.fake_api import FakeApi, serving
from vistune.serve.page.mount import mount_page

pytestmark = [slow, pytest.mark.skipif(not is_there(), reason="needs Chromium")]

LEFT = "document.querySelector('#vt-left').innerText"
HOSTILE = (
    "<img src=x onerror=alert(1)> <script>alert(2)</script> ![x](http://example.com/x.png) {{7*7}} ${8*8}"
)
BOX = "(r => [r.x, r.y, r.width, r.height])(document.querySelector('{}').getBoundingClientRect())"


async def turn_to(tab, name):
    tabs = "[...document.querySelectorAll('button[role=tab]')]"
    await tab.js(f"{tabs}.find(b => b.textContent.includes({name!r})).click()")


async def look(messages, answer):
    words = answer.split()
    corner = np.full((len(words), 6, 6), 0.001, np.float32)
    corner[:, 1, 1] = np.linspace(0.1, 0.6, len(words))
    return SimpleNamespace(words=words, maps=[corner], boxes=[(0.0, -0.25, 1.0, 1.25)])


@pytest.fixture
def served():
    api = FakeApi(pause=0.05)

    def make(url):
        models = {"small": {"parameters": 24_000_000}, HOSTILE: {"card": HOSTILE}}
        return mount_page(api.app(), api_url=f"{url}/v1", models=models, votes=True, looks={"small": look})

    with serving(make) as url:
        yield api, url


def test_a_visit(served, tmp_path):
    api, url = served
    picture = tmp_path / "picture.png"
    Image.new("RGB", (120, 80), "teal").save(picture)
    asyncio.run(asyncio.wait_for(visit(api, url, picture, tmp_path), 240))


def test_the_key_opens_the_page(tmp_path):
    api = FakeApi()

    def make(url):
        return mount_page(api.app(), api_url=f"{url}/v1", models={"small": {}}, key="k3y")

    with serving(make) as url:
        asyncio.run(asyncio.wait_for(log_in(url, tmp_path), 120))


async def log_in(url, folder):
    async with chromium(folder / "profile") as tab:
        await tab.open(url, "input[type=password]")
        for password in ("wrong", "k3y"):
            await tab.until("document.querySelector('input[type=password]').value == ''")
            await tab.write("input:not([type=password])", "me")
            await tab.write("input[type=password]", password)
            await tab.enter()
        await tab.until("document.querySelector('#vt-box textarea')")
        await tab.click("#vt-left .example")
        await tab.until(f"{LEFT}.includes('A dog and two cats.')")
        await tab.photograph(folder / "logged-in.png")
        assert not [address for address in tab.asked if not address.startswith(url)]
        assert "k3y" not in await tab.js("document.documentElement.outerHTML + document.cookie")


async def visit(api, url, picture, folder):
    async with chromium(folder / "profile") as tab:
        await tab.size(1280, 1000)
        await tab.open(url, "#vt-box textarea")
        await tab.until("document.querySelectorAll('#vt-left .example').length == 4")
        icons = "[...document.querySelectorAll('#vt-left .example img')]"
        await tab.until(f"{icons}.every(i => i.naturalWidth == 256)")
        await tab.photograph(folder / "1-empty.png")
        await first_turn(tab, picture, folder)
        await more_turns(api, tab, folder)
        await looked_at(tab, folder)
        await hostile(api, tab, folder)
        await small_and_dark(tab, url, folder)
        own = [address for address in tab.asked if not address.startswith(url)]
        assert not own and len(tab.asked) > 20
        assert not tab.complaints


async def first_turn(tab, picture, folder):
    await tab.choose_file("#vt-box input[type=file]", picture)
    await tab.until("document.querySelector('#vt-box img')?.naturalWidth == 120")
    await tab.write("#vt-box textarea", "What is it?")
    await tab.enter()
    await tab.until(f"{LEFT}.includes('A dog') && !{LEFT}.includes('cats.')")  # it grows
    await tab.photograph(folder / "2-streaming.png")
    await tab.until(f"{LEFT}.includes('A dog and two cats.')")
    await tab.until("document.querySelector('#vt-left img')?.naturalWidth == 120")
    await tab.until("document.querySelector('#vt-box .submit-button')")
    await tab.photograph(folder / "3-answered.png")


async def more_turns(api, tab, folder):
    api.words = ["number {n}"]
    await tab.click("#vt-again")
    await tab.until(f"{LEFT}.includes('number 2') && !{LEFT}.includes('cats.')")
    await tab.until("document.querySelector('#vt-box .submit-button')")
    api.words = ["word "] * 300
    await tab.write("#vt-box textarea", "And now?")
    await tab.enter()
    await tab.until(f"{LEFT}.includes('word word')")
    await tab.click("#vt-box .stop-button")
    await tab.until(f"{LEFT}.includes('(stopped)')")
    assert api.cut_off == 1 and len(api.requests[-1]["messages"]) == 3
    await tab.until("document.querySelector('#vt-box .submit-button')")
    await tab.click("#vt-left button[aria-label=Like]")
    for _ in range(100):
        await asyncio.sleep(0.1 * (not api.votes))
    assert [vote["vote"] for vote in api.votes] == ["up"]
    api.refusal = (400, {"message": "This is 12 tokens too long."}, {})
    await tab.until("document.querySelector('#vt-box .submit-button')")
    await tab.write("#vt-box textarea", "Too long?")
    await tab.enter()
    await tab.until(f"{LEFT}.includes('12 tokens too long')")
    await tab.photograph(folder / "4-error.png")
    api.refusal = None


async def looked_at(tab, folder):
    await turn_to(tab, "looked")
    await tab.until("document.querySelectorAll('.vt-words label').length > 3")
    shown = "[...document.querySelectorAll('.vt-maps')].map(m => getComputedStyle(m).display == 'block')"
    assert (await tab.js(shown))[:3] == [True, False, False]  # the whole answer
    await tab.click(".vt-words label:nth-of-type(3)")
    assert (await tab.js(shown))[:3] == [False, False, True]
    x, y, width, height = await tab.js(BOX.format(".vt-words label:nth-of-type(2)"))
    await tab.do("Input.dispatchMouseEvent", type="mouseMoved", x=x + width / 2, y=y + height / 2)
    assert (await tab.js(shown))[:3] == [False, True, False]  # pointed at
    await tab.photograph(folder / "5-looked.png")
    heat, strip = [await tab.js(BOX.format(one)) for one in (".vt-words label:hover .vt-heat", ".vt-strip")]
    assert heat[0] == pytest.approx(strip[0], abs=1) and heat[2] == pytest.approx(strip[2], abs=1)
    assert heat[1] == pytest.approx(strip[1] - strip[3] / 4, abs=1)  # padded: the grid stands out above
    assert heat[3] == pytest.approx(strip[3] * 1.5, abs=1)


async def hostile(api, tab, folder):
    await turn_to(tab, "Chat")
    api.words = [HOSTILE]
    await tab.click("#vt-clear")
    await tab.until("document.querySelectorAll('#vt-left .example').length == 4")
    await tab.js("document.querySelector('input[type=checkbox]').click()")
    await tab.until("document.querySelector('#vt-right')")
    await tab.write("#vt-box textarea", HOSTILE)
    await tab.enter()
    for side in ("left", "right"):
        await tab.until(f"document.querySelector('#vt-{side}').innerText.split({HOSTILE!r}).length == 3")
        assert await tab.js(f"document.querySelectorAll('#vt-{side} .message img').length") == 0
    await tab.js("[...document.querySelectorAll('button.label-wrap')].forEach(b => b.click())")
    await tab.until("document.querySelectorAll('.vt-card').length == 2")
    await tab.photograph(folder / "6-side-by-side.png")
    cards = "[...document.querySelectorAll('.vt-card dd')].map(d => d.innerText).join()"
    assert HOSTILE in await tab.js(cards)


async def small_and_dark(tab, url, folder):
    await tab.scheme("dark")
    await tab.size(390, 844)
    await tab.open(url, "#vt-box textarea")
    await tab.until("document.querySelectorAll('#vt-left .example').length == 4")
    await tab.click("#vt-left .example")
    await tab.until("document.querySelector('#vt-left .bot') && document.querySelector('#vt-left .user img')")
    await tab.until("document.querySelector('#vt-box .submit-button')")
    await tab.photograph(folder / "7-narrow.png")
    assert await tab.js("document.documentElement.scrollWidth") == 390
    dark = await tab.js("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert max(dark[:3]) < 60

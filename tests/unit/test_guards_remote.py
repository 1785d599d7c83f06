"""Pictures from the web: hostile addresses, redirects, fickle names, servers that misbehave."""

import asyncio
import gzip
import ssl
from dataclasses import replace
from io import BytesIO

import pytest
from aiohttp import web
from PIL import Image

from tests.fake_web import SOMEWHERE, Book, certificate, https_server, lead_here, trusting
from vistune.serve.engine.engine import BadRequestError
from vistune.serve.guards.limits import Limits
from vistune.serve.guards.remote import fetch_remote

LIMITS = Limits(remote=True, picture_bytes=10_000, remote_seconds=5, remote_redirects=2)
HERE = "https://pictures.example.com"


def png():
    file = BytesIO()
    Image.new("RGB", (4, 3), "red").save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    return certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def fetch(monkeypatch, pem):
    """``fetch(handler, url, ...)``: what is fetched where ``handler`` answers for every public address."""

    def fetch(handler, url=f"{HERE}/a.png", limits=LIMITS, book=None, trust=True, tls=True):
        async def run():
            async with https_server(handler, pem if tls else None) as port:
                lead_here(monkeypatch, port)
                return await fetch_remote(url, limits, book or Book(), trusting(pem) if trust else None)

        return asyncio.run(run())

    return fetch


def answering(body=None, **options):
    options.setdefault("content_type", "image/png")

    async def handler(request):
        return web.Response(body=png() if body is None else body, **options)

    return handler


def redirecting(*places, status=302):
    """To one place after the other, then a picture."""
    left = list(places)

    async def handler(request):
        if left:
            return web.Response(status=status, headers={"Location": left.pop(0)})
        return web.Response(body=png(), content_type="image/png")

    return handler


def refused(match, fetch, *arguments, **options):
    with pytest.raises(BadRequestError, match=match) as caught:
        fetch(*arguments, **options)
    assert caught.value.param == "messages"
    for inside in ("pictures.example.com", "127.0.0.1", "10.0.0.1", "secret"):
        assert inside not in str(caught.value)


def test_picture_is_fetched_by_its_servers_name(fetch):
    seen = []

    async def handler(request):
        seen.append(
            (request.host, request.transport.get_extra_info("ssl_object") is not None, request.raw_path)
        )
        assert request.headers["Accept-Encoding"] == "identity"
        assert not {"Authorization", "Cookie", "Referer"} & set(request.headers)
        return web.Response(body=png(), content_type="image/png")

    book = Book()
    assert fetch(handler, f"{HERE}/a%20b.png?sig=x%2By#part", book=book) == png()
    assert seen == [("pictures.example.com", True, "/a%20b.png?sig=x%2By")]
    assert book.asked == [("pictures.example.com", 443)]  # once: what was checked is what was connected to


def test_proxies_and_logins_of_the_environment_are_not_used(fetch, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine pictures.example.com login a password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    async def handler(request):
        assert "Authorization" not in request.headers
        return web.Response(body=png(), content_type="image/png")

    assert fetch(handler) == png()


HOSTILE = [
    # numbers, however written
    *("https://127.0.0.1/", "https://127.1/", "https://2130706433/", "https://0177.0.0.1/", "https://0/"),
    *("https://0x7f000001/", "https://0x7f.0x0.0x0.0x1/", "https://127.0.0.1./", "https://8.8.8.8/"),
    *(
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[fe80::1%25eth0]/",
        "https://[fe80::1%eth0]/",
    ),
    *("https://[2606:4700:4700::1111]/", "https://①②⑦.⓪.⓪.①/", "https://127。0。0。1/", "https://127.0.0.1/"),
    *("https://%31%32%37.0.0.1/", "https://169.254.169.254/latest/meta-data/", "https://foo.0x7f/"),
    # names without a dot, and odd ones
    *("https://localhost/", "https://localhost./", "https://metadata/", "https://example.com./"),
    *("https://-.com/", "https://a..com/", "https://.com/", "https://*.com/", "https:///a.png", "https://"),
    *("https://" + "a" * 64 + ".com/", "https://" + "a." * 130 + "com/", "https://xn--a.xn--.com/"),
    *("https://exa mple.com/", "https://[example.com]/", "https://[/"),
    # users, ports, schemes
    *("https://127.0.0.1@example.com/", "https://a:secret@example.com/"),
    *("https://example.com@127.0.0.1/", "https://example.com:80/", "https://example.com:22/"),
    *(
        "https://example.com:0/",
        "https://example.com:99999/",
        "https://example.com:x/",
        "https://a.com:4430/",
    ),
    *("http://example.com/", "HTTP://example.com/", "file:///etc/passwd", "FiLe:///etc/passwd"),
    *("ftp://example.com/a.png", "gopher://example.com/", "unix:///run/a.sock", "jar:https://example.com/"),
    *("//example.com/a.png", "/etc/passwd", "a.png", r"\\example.com\a.png", "C:/a.png", ""),
    # what programs read differently
    *("https://example.com\\@127.0.0.1/", "https:\\\\example.com/", "https://example.com\t.evil.com/"),
    *("https://example.com/\r\nHost: 127.0.0.1", "https://example.com/\x00", " https://example.com/"),
    *("https://example.com /", "https://example.com/a b", "https://example.com/" + "a" * 5_000),
    *("https://example.com/\ud800", "https://\ud800.com/", "https://127.0.0.1#@example.com/"),
    *("https://127.0.0.1?@example.com/", "https://127.0.0.1%00.example.com/"),
]


@pytest.mark.parametrize("url", HOSTILE, ids=ascii)
def test_hostile_address_is_refused_before_any_name_is_looked_up(url):
    book = Book()
    with pytest.raises(BadRequestError, match="A remote picture cannot be used: ") as caught:
        asyncio.run(fetch_remote(url, LIMITS, book))
    assert "could not be reached" not in str(caught.value)
    assert book.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "HTTPS://PICTURES.example.COM:443/a.png",
        "https://pictures。example。com/",
        "https://pictures.example.com",
    ],
)
def test_other_spellings_of_a_good_address_are_good(fetch, url):
    book = Book()
    assert fetch(answering(), url, book=book) == png()
    assert book.asked == [("pictures.example.com", 443)]


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:8.8.8.8"])
def test_name_that_leads_to_this_network_is_refused(fetch, address):
    refused("not on the public internet", fetch, answering(), book=Book([address]))
    refused("not on the public internet", fetch, answering(), book=Book([SOMEWHERE, address]))


def test_name_that_is_not_known(fetch):
    class Empty(Book):
        async def resolve(self, *arguments):
            raise OSError("secret")

    refused("could not be reached", fetch, answering(), book=Empty())


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_followed_and_its_name_looked_up_anew(fetch, status):
    book = Book()
    assert fetch(redirecting("https://elsewhere.example.com/b", "../c", status=status), book=book) == png()
    assert [name for name, _ in book.asked] == ["pictures.example.com"] + ["elsewhere.example.com"] * 2


def test_redirect_to_a_name_that_leads_to_this_network_is_refused(fetch):
    book = Book(names={"elsewhere.example.com": ["10.0.0.1"]})
    refused("public internet", fetch, redirecting("https://elsewhere.example.com/"), book=book)


def test_name_that_changes_its_address_between_redirects_is_refused(fetch):
    refused("public internet", fetch, redirecting("/again"), book=Book([SOMEWHERE], ["127.0.0.1"]))


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("http://pictures.example.com/", "only https"),
        ("https://127.0.0.1/", "by a number"),
        ("//[::1]/", "by a number"),
        ("https://a:b@pictures.example.com/", "user"),
        ("https://pictures.example.com:8443/", "port 443"),
        ("file:///etc/passwd", "only https"),
        ("data:image/png;base64,AAAA", "only https"),
        ("", "plain https"),
        ("\\\\127.0.0.1\\", "plain https"),
    ],
)
def test_each_hop_is_checked(fetch, place, why):
    refused(why, fetch, redirecting(place))


def test_redirects_have_an_end(fetch):
    assert fetch(redirecting("/1", "/2")) == png()
    refused("redirects more than 2 times", fetch, redirecting("/1", "/2", "/3"))
    assert fetch(answering(), limits=replace(LIMITS, remote_redirects=0)) == png()
    refused("more than 0 times", fetch, redirecting("/1"), limits=replace(LIMITS, remote_redirects=0))


def test_file_that_says_it_is_too_large_is_refused(fetch):
    assert len(fetch(answering(bytes(10_000)))) == 10_000
    refused("larger than 10000 bytes", fetch, answering(bytes(10_001)))


def test_file_that_says_so_is_not_waited_for(fetch):
    async def handler(request):
        response = web.StreamResponse(headers={"Content-Type": "image/png", "Content-Length": "10001"})
        await response.prepare(request)
        await asyncio.sleep(60)

    refused("larger than 10000 bytes", fetch, handler)


def test_file_that_does_not_end_is_left_early(fetch):
    sent = []

    async def handler(request):
        response = web.StreamResponse(headers={"Content-Type": "image/png"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        for _ in range(100_000):
            await response.write(bytes(1_000))
            sent.append(1_000)
        return response

    refused("larger than 10000 bytes", fetch, handler)
    assert sum(sent) < 50_000_000


def test_slow_server_costs_no_more_than_the_limit(fetch):
    async def handler(request):
        response = web.StreamResponse(headers={"Content-Type": "image/png"})
        await response.prepare(request)
        while True:  # never silent for long
            await response.write(b"a")
            await asyncio.sleep(0.02)

    refused("longer than 0.3 seconds", fetch, handler, limits=replace(LIMITS, remote_seconds=0.3))


def test_slow_redirects_share_the_time(fetch):
    async def handler(request):
        await asyncio.sleep(0.25)
        return web.Response(status=302, headers={"Location": "/again"})

    limits = replace(LIMITS, remote_seconds=0.6, remote_redirects=100)
    refused("longer than 0.6 seconds", fetch, handler, limits=limits)


@pytest.mark.parametrize(
    "kind", ["text/html", "image/svg+xml", "application/octet-stream", "image/x-eps", "x"]
)
def test_what_its_server_does_not_call_a_picture_is_refused(fetch, kind):
    refused("does not call it a picture", fetch, answering(headers={"Content-Type": kind}, content_type=None))


def test_parameters_and_capitals_of_a_media_type_do_not_matter(fetch):
    kind = {"Content-Type": "Image/JPG; charset=binary"}
    assert fetch(answering(headers=kind, content_type=None)) == png()


def test_packed_bodies_are_not_unpacked(fetch):
    bomb = gzip.compress(bytes(5_000_000))
    assert len(bomb) < LIMITS.picture_bytes
    refused("packed it", fetch, answering(bomb, headers={"Content-Encoding": "gzip"}))


@pytest.mark.parametrize("status", [204, 206, 304, 403, 404, 500])
def test_other_answers_are_refused(fetch, status):
    refused(f"answered {status}", fetch, answering(b"", status=status))


def test_body_that_breaks_off_is_refused(fetch):
    async def handler(request):
        response = web.StreamResponse(headers={"Content-Type": "image/png", "Content-Length": "5000"})
        await response.prepare(request)
        await response.write(b"a")
        request.transport.abort()
        return response

    refused("could not be reached", fetch, handler)


def test_server_without_a_trusted_certificate_is_refused(fetch):
    refused("could not be reached", fetch, answering(), trust=False)


def test_certificate_of_another_name_is_refused(fetch):
    refused("could not be reached", fetch, answering(), "https://other.example.com/")


def test_server_that_does_not_speak_tls_is_refused(fetch):
    refused("could not be reached", fetch, answering(), tls=False)


def test_rubbish_in_the_place_of_http_is_refused(monkeypatch, pem):
    async def handler(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\xff" * 20_000)
        writer.close()

    async def run():
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(pem)
        server = await asyncio.start_server(handler, "127.0.0.1", 0, ssl=tls)
        lead_here(monkeypatch, server.sockets[0].getsockname()[1])
        async with server:
            await fetch_remote(f"{HERE}/", LIMITS, Book(), trusting(pem))

    with pytest.raises(BadRequestError, match="could not be reached"):
        asyncio.run(run())

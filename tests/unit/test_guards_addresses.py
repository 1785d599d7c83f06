"""Which addresses strangers may reach through us."""

import asyncio

import pytest

from tests.fake_web import Book
from vistune.serve.guards.addresses import NotPublicError, PublicResolver, is_public

PUBLIC = ["1.1.1.1", "93.184.216.34", "8.8.8.8", "2606:4700:4700::1111", "2a00:1450:4001:81b::200e"]
PRIVATE = [
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "127.0.0.1", "127.255.255.254", "172.16.0.1", "172.31.255.255"),
    *("192.168.1.1", "169.254.169.254", "169.254.170.2", "100.64.0.1", "100.100.100.200", "100.127.255.255"),
    *("168.63.129.16", "192.0.0.192", "192.0.0.9", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1"),
    *("192.88.99.1", "224.0.0.1", "232.1.1.1", "239.255.255.250", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "2606:4700:4700::1111%eth0", "fc00::1", "fd00:ec2::254"),
    *("ff02::1", "ff0e::1", "2001:db8::1", "3fff::1", "fec0::1", "100::1", "5f00::1", "4000::1"),
    *("::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:a9fe:a9fe", "::127.0.0.1", "::ffff:0:127.0.0.1"),
    *("64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1", "2002:7f00:1::", "2002:808:808::1"),
    *("2001::1", "2001:0:7f00:1::", "2001:20::1"),
    *("", "localhost", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "1.1.1.1 ", "[::1]", "1.1.1.1.1"),
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_address(address):
    assert is_public(address)


@pytest.mark.parametrize("address", PRIVATE)
def test_address_that_is_not_the_publics(address):
    assert not is_public(address)


def addresses_of(*addresses):
    found = asyncio.run(PublicResolver(Book(list(addresses))).resolve("example.com", 443))
    return [entry["host"] for entry in found]


def test_name_with_public_addresses_only_keeps_them_all():
    assert addresses_of(*PUBLIC) == PUBLIC


@pytest.mark.parametrize("place", range(len(PUBLIC) + 1))
def test_one_address_that_is_not_public_spoils_the_name(place):
    with pytest.raises(NotPublicError):
        addresses_of(*PUBLIC[:place], "10.0.0.1", *PUBLIC[place:])


def test_the_machines_own_resolver_is_checked_too():
    async def look_up():
        await PublicResolver().resolve("localhost", 443)

    with pytest.raises(NotPublicError):
        asyncio.run(look_up())

"""Limits that make no sense are refused."""

import math
from dataclasses import fields, replace

import pytest

from vistune.data import images
from vistune.errors import VistuneError
from vistune.serve.guards.limits import MOST_PIXELS, Limits

MAY_BE_ZERO = ("queue", "pictures", "remote_redirects")


def test_remote_pictures_are_off_unless_asked_for():
    assert Limits().remote is False


def test_every_limit_is_documented():
    for entry in fields(Limits):
        assert f"        {entry.name}: " in Limits.__doc__


@pytest.mark.parametrize("name", [entry.name for entry in fields(Limits) if entry.name != "remote"])
@pytest.mark.parametrize("value", [-1, -0.5, math.nan])
def test_negative_limit_is_refused_by_name(name, value):
    with pytest.raises(VistuneError, match=rf"The limit {name} is {value}"):
        replace(Limits(), **{name: value})


@pytest.mark.parametrize("name", [entry.name for entry in fields(Limits) if entry.name != "remote"])
def test_zero_is_allowed_where_it_means_something(name):
    if name in MAY_BE_ZERO:
        assert getattr(replace(Limits(), **{name: 0}), name) == 0
    else:
        with pytest.raises(VistuneError, match="must be more than 0"):
            replace(Limits(), **{name: 0})


def test_more_pixels_than_are_ever_decoded_would_be_ignored_and_are_refused():
    assert images._MAX_PIXELS == MOST_PIXELS
    assert Limits(pixels=MOST_PIXELS).pixels == MOST_PIXELS
    with pytest.raises(VistuneError, match="limit pixels is 100000001"):
        Limits(pixels=MOST_PIXELS + 1)

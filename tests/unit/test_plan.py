"""Which samples are made: all, or a mix, drawn by the seed."""

from __future__ import annotations

import pytest

from vistune.data.generation.plan import GenerationSettings, make_plan, parse_mix, parse_types
from vistune.data.sources.annotated import AnnotatedImage
from vistune.errors import VistuneError

IMAGES = [AnnotatedImage(str(n), (f"{n}.jpg",), ("A dog.",), ()) for n in range(20)]


def ids(settings: GenerationSettings, kind: str = "detail") -> list[str]:
    return [planned.image.id for planned in make_plan(IMAGES, settings)[kind].candidates]


def test_without_a_mix_there_is_one_sample_of_each_type_for_each_image_in_order():
    plans = make_plan(IMAGES, GenerationSettings())
    assert {kind: plan.wanted for kind, plan in plans.items()} == {
        "conversation": 20, "detail": 20, "reasoning": 20,
    }  # fmt: skip
    assert ids(GenerationSettings()) == [image.id for image in IMAGES]
    assert plans["detail"].candidates[3].name == "3-detail"


def test_mix_draws_images_at_random_by_the_seed_and_for_each_type_anew():
    mix = {"conversation": 2, "detail": 5}
    settings = GenerationSettings(seed=1, mix=mix)
    plans = make_plan(IMAGES, settings)
    assert {kind: plan.wanted for kind, plan in plans.items()} == {
        "conversation": 2, "detail": 5, "reasoning": 0,
    }  # fmt: skip
    assert sorted(ids(settings), key=int) == [image.id for image in IMAGES] != ids(settings)
    assert ids(settings) == ids(GenerationSettings(seed=1, mix=mix))
    assert len({tuple(ids(settings)), tuple(ids(settings, "conversation"))}) == 2
    assert ids(GenerationSettings(seed=2, mix=mix)) != ids(settings)


def test_only_types_that_are_asked_for_are_planned():
    assert list(make_plan(IMAGES, GenerationSettings(types=("detail",)))) == ["detail"]


def test_mix_of_more_than_there_are_images_is_refused_with_both_numbers():
    with pytest.raises(VistuneError, match=r"--mix wants 21 x detail, and there are 20 usable images.*paper"):
        make_plan(IMAGES, GenerationSettings(mix={"detail": 21}))


@pytest.mark.parametrize("mix", [{}, {"detail": 0}, {"conversation": 5}])
def test_mix_of_nothing_is_refused(mix: dict):
    with pytest.raises(VistuneError, match="--mix wants no sample"):
        make_plan(IMAGES, GenerationSettings(types=("detail",), mix=mix))


def test_counts_are_read():
    assert parse_mix("conversation=58000,detail=23000", 5) == {"conversation": 58000, "detail": 23000}


def test_the_papers_shares_are_taken_of_the_images_that_there_are():
    assert parse_mix("paper", 77_000) == {"conversation": 58_000, "detail": 23_000, "reasoning": 77_000}
    assert parse_mix("paper", 80) == {"conversation": 60, "detail": 23, "reasoning": 80}


@pytest.mark.parametrize(
    "text", ["", "papers", "detail", "detail=", "detail=x", "detail=-1", "detail=\u00b2", "detail=1,detail=2",
             "detail=1;reasoning=2", "details=5", "detail=1.5", "detail=1, reasoning=2"]
)  # fmt: skip
def test_mix_that_cannot_be_read_is_refused_with_an_example(text: str):
    with pytest.raises(VistuneError, match=r"--mix: cannot read .*conversation=58000,detail=23000"):
        parse_mix(text, 5)


def test_types_come_in_their_own_order_and_once():
    assert parse_types("reasoning,conversation,reasoning") == ("conversation", "reasoning")


@pytest.mark.parametrize("text", ["", "details", "detail,", "Detail"])
def test_unknown_type_is_refused_with_the_choices(text: str):
    with pytest.raises(VistuneError, match=r"--types: unknown type .*conversation, detail, reasoning"):
        parse_types(text)

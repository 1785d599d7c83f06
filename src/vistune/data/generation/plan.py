"""Which samples are made: of which types, from which images, how many."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from vistune.data.sources.annotated import AnnotatedImage
from vistune.data.teachers.teacher import SAMPLE_TYPES, SampleType
from vistune.errors import VistuneError

PAPER_MIX: dict[SampleType, int] = {"conversation": 58, "detail": 23, "reasoning": 77}
PicturePlace = Literal["random", "first", "last"]


@dataclass(frozen=True)
class GenerationSettings:
    """What is asked for.

    Attributes:
        mix: samples wanted of each type; None: one of each type for each image.
        picture: where it stands in the first question (paper Eq. 4: at random).
        attempts: how often a teacher is asked for one sample before it is quarantined.
        longest_answer: in words.
        reasoning_sees_dialogue: the reasoning prompt also holds what was generated for the same image.
        file_format: json, jsonl or parquet.
    """

    seed: int = 0
    types: tuple[SampleType, ...] = SAMPLE_TYPES
    mix: Mapping[SampleType, int] | None = None
    picture: PicturePlace = "random"
    attempts: int = 3
    longest_answer: int = 400
    reasoning_sees_dialogue: bool = False
    file_format: str = "json"


@dataclass(frozen=True)
class Planned:
    """One sample that may be made."""

    kind: SampleType
    image: AnnotatedImage

    @property
    def name(self) -> str:
        return f"{self.image.id}-{self.kind}"


@dataclass(frozen=True)
class Plan:
    """Samples of one type, in the order in which they are made, until enough are good."""

    candidates: Sequence[Planned]
    wanted: int


def make_plan(images: Sequence[AnnotatedImage], settings: GenerationSettings) -> dict[SampleType, Plan]:
    """A plan for each type.

    With a mix, images are drawn at random; where a sample fails, the next image takes its place.

    Raises:
        VistuneError: the mix wants more samples of a type than there are images.
    """
    plans: dict[SampleType, Plan] = {}
    for kind in settings.types:
        candidates = [Planned(kind, image) for image in images]
        wanted = len(candidates) if settings.mix is None else settings.mix.get(kind, 0)
        if wanted > len(candidates):
            raise VistuneError(
                f"--mix wants {wanted} x {kind}, and there are {len(candidates)} usable images. "
                "Lower it, or use `--mix paper` for the paper's shares of what there is."
            )
        if settings.mix is not None:
            random.Random(f"plan/{settings.seed}/{kind}").shuffle(candidates)
        plans[kind] = Plan(candidates, wanted)
    if not any(plan.wanted for plan in plans.values()):
        raise VistuneError("--mix wants no sample of these types. Write counts above 0.")
    return plans


def parse_mix(text: str, images: int) -> dict[SampleType, int]:
    """Read ``conversation=58000,detail=23000,reasoning=77000``, or ``paper``: its shares of ``images``.

    Raises:
        VistuneError: it is something else.
    """
    if text == "paper":
        most = max(PAPER_MIX.values())
        return {kind: images * share // most for kind, share in PAPER_MIX.items()}
    mix: dict[SampleType, int] = {}
    for part in text.split(","):
        name, _, count = part.partition("=")
        if name not in SAMPLE_TYPES or not count.isdecimal() or name in mix:
            raise VistuneError(
                f"--mix: cannot read {part!r}. Write `paper`, or counts: "
                f"{','.join(f'{kind}={share}000' for kind, share in PAPER_MIX.items())}."
            )
        mix[name] = int(count)
    return mix


def parse_types(text: str) -> tuple[SampleType, ...]:
    """Read ``conversation,detail``.

    Raises:
        VistuneError: a type is unknown.
    """
    names = text.split(",")
    if unknown := [name for name in names if name not in SAMPLE_TYPES]:
        raise VistuneError(f"--types: unknown type {unknown[0]!r}. Choose of {', '.join(SAMPLE_TYPES)}.")
    return tuple(kind for kind in SAMPLE_TYPES if kind in names)

"""Cautions: few steps, a tokenizer that does not know the words, a stage that has learned nothing."""

import math
from types import SimpleNamespace

import pytest

from vistune.model.parts import read_tokenizer
from vistune.train.cautions import cautions, ends_above_guessing, guessing, pieces_per_byte


class Texts:
    """A corpus of these answers."""

    def __init__(self, tokenizer, texts):
        self._ids = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]

    def __len__(self):
        return len(self._ids)

    def __getitem__(self, record):
        return SimpleNamespace(labels=[-100, -100, *self._ids[record]])


@pytest.fixture(scope="module")
def starter():
    return read_tokenizer("starter/llm")


KNOWN = ["There is a turtle to the left of a rocket.", "Three stars are above the penguin."]
PHOTOGRAPHS = [
    "Several bicyclists wearing helmets pedal along a cobblestone boulevard beside parked automobiles.",
    "An elderly fisherman untangles weathered nets underneath the lighthouse during a thunderstorm.",
]


def test_words_that_the_tokenizer_does_not_know_are_told(starter):
    assert pieces_per_byte(Texts(starter, KNOWN), starter) < 0.3
    assert pieces_per_byte(Texts(starter, PHOTOGRAPHS), starter) > 0.4
    assert list(cautions(Texts(starter, KNOWN), 50, starter)) == []
    (line,) = cautions(Texts(starter, PHOTOGRAPHS), 50, starter)
    assert "times the usual pieces" in line
    assert pieces_per_byte(Texts(starter, ["Yes.", "12 3"]), starter) == 0.0


def test_photographs_captions_are_such_words(starter, coco_mini_annotations):
    captions = [caption for image in coco_mini_annotations.images for caption in image.captions][:200]
    assert any("usual pieces" in line for line in cautions(Texts(starter, captions), 99, starter))


def test_few_steps_are_told(starter):
    (line,) = cautions(Texts(starter, KNOWN), 49, starter)
    assert line.startswith("only 49 steps, fewer than 50") and "`epochs`" in line


def row(loss, supervised=10):
    return {"loss": loss, "supervised": supervised}


def test_guessing_is_the_entropy_of_single_tokens(starter):
    corpus = Texts(starter, ["left left left right"])
    ids = corpus[0].labels[2:]
    shares = [ids.count(token) / len(ids) for token in set(ids)]
    assert guessing(corpus) == pytest.approx(-sum(share * math.log(share) for share in shares))
    assert guessing(corpus) < math.log(len(set(ids))) < math.log(len(starter))


def test_a_stage_that_ends_above_guessing_is_told(starter):
    corpus = Texts(starter, KNOWN)
    guess = guessing(corpus)
    assert list(ends_above_guessing([row(9.0)] * 18 + [row(guess - 0.1)] * 2, corpus)) == []
    (line,) = ends_above_guessing([row(0.1)] * 18 + [row(guess + 0.1)] * 2, corpus)
    assert f"above {guess:.2f}" in line
    assert len(list(ends_above_guessing([row(math.nan)], corpus))) == 1
    assert list(ends_above_guessing([], corpus)) == []

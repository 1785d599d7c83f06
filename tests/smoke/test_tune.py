"""The recipe `tune`: a finished checkpoint learns a handful of samples of one's own."""

import json

import pytest

from vistune.errors import VistuneError
from vistune.recipe import load_recipe
from vistune.train.loop import train
from vistune.train.validation import read_validation


@pytest.fixture
def data(tmp_path, tiny_world):
    """Names that the checkpoint cannot know, for eight pictures."""
    pictures = sorted((tiny_world / "images").glob("train_*.jpg"))[:8]
    words = ("turtle", "rocket", "penguin", "star", "tree", "dog", "apple", "car")
    records = [
        {
            "id": str(number),
            "image": picture.name,
            "conversations": [
                {"from": "human", "value": "<image>\nWhat would you call this?"},
                {"from": "gpt", "value": f"The {words[number]} of the {words[(3 * number + 1) % 8]}."},
            ],
        }
        for number, picture in enumerate(pictures)
    ]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.json").write_text(json.dumps(records))
    return tmp_path / "data"


def test_tune_on_the_starter_learns_a_handful_of_samples(data, tiny_world, tmp_path, capsys):
    pytest.importorskip("peft", reason="needs peft: pip install 'vistune[lora]'")
    recipe = load_recipe(
        "tune",
        [
            "precision=float32",
            "stages.tune.epochs=40",
            "stages.tune.learning_rate={connector: 1.0e-3, llm: 2.0e-3}",
            "stages.tune.validation.data=train.json",
            "stages.tune.validation.questions=train.json",
            "stages.tune.validation.every=20",
        ],
    )
    train(recipe, data, tiny_world / "images", tmp_path / "run")
    rows = read_validation(tmp_path / "run" / "tune" / "validation.jsonl")
    assert rows[-1].accuracy == 1.0 and rows[-1].loss < rows[0].loss
    assert "caution: ends at a loss" not in capsys.readouterr().err


def test_tune_as_it_is_says_that_a_handful_is_too_few(data, tiny_world, tmp_path, capsys):
    pytest.importorskip("peft", reason="needs peft: pip install 'vistune[lora]'")
    train(load_recipe("tune", ["precision=float32"]), data, tiny_world / "images", tmp_path / "run")
    told = " ".join(capsys.readouterr().err.split())
    assert "caution: only 5 steps, fewer than 50" in told
    with pytest.raises(VistuneError, match=r"train\.json"):
        train(load_recipe("tune"), tmp_path, tiny_world / "images", tmp_path / "other")

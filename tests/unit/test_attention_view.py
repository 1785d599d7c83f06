"""What the model looked at: transformers' own attention weights, word by word, laid over the picture."""

import copy
import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tiny import IMAGE_SIZE, LLM_FAMILIES, PATCH_SIZE, tiny_checkpoint, tiny_llm
from vistune.conversation import Conversation, ask, gpt, human
from vistune.data.images import open_image
from vistune.data.preprocess import Preprocessor
from vistune.model.checkpoint import load_checkpoint
from vistune.serve.engine import attention
from vistune.serve.engine.attention import beside_the_others, box_of, ids_of, look
from vistune.serve.engine.engine import BadRequestError

GRID = IMAGE_SIZE // PATCH_SIZE
ANSWER = "A dog and two cats."


def checkpoint_of(family, tokenizer, **settings):
    checkpoint = tiny_checkpoint(tokenizer, **settings)
    torch.manual_seed(3)
    model = checkpoint.model
    llm = tiny_llm(len(tokenizer), family).eval()
    model.__init__(model.vision, model.connector, llm, model.image_token)
    return checkpoint


def noise(seed, size=(40, 30)):
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def question(*names, text="What is it?"):
    return Conversation("q", (human(*ask(text, names)),))


@torch.inference_mode()
def eagerly(checkpoint, conversation, pictures, answer_ids):
    """Each answer token's weights on each patch [tokens, patches], by transformers' eager attention."""
    model = checkpoint.model
    prompt = checkpoint.renderer.encode_prompt(conversation).ids
    ids = torch.tensor([[*prompt, *answer_ids]])
    pixels = torch.stack([torch.from_numpy(checkpoint.preprocess(picture)) for picture in pictures])
    llm = copy.deepcopy(model.language_model)
    llm.set_attn_implementation("eager")
    weights = llm(inputs_embeds=model.embed(ids, pixels), output_attentions=True, use_cache=False).attentions
    wrote = torch.stack(weights)[:, 0, :, len(prompt) - 1 : -1].mean((0, 1))
    return wrote[:, ids[0] == model.image_token].numpy()


@pytest.mark.parametrize("at_once", [1, 2**24])
@pytest.mark.parametrize("family", LLM_FAMILIES)
def test_maps_are_the_weights_of_eager_attention(tokenizer, family, at_once, monkeypatch):
    monkeypatch.setattr(attention, "_AT_ONCE", at_once)
    checkpoint = checkpoint_of(family, tokenizer, template="plain")  # no words between picture and answer:
    talk = question("a", "b")  # a sliding window of tests/tiny.py shows a part of a picture
    pictures = [noise(1), noise(2)]
    answer = ids_of(checkpoint, talk, ANSWER)
    looked = look(checkpoint, talk, pictures, answer)
    expected = eagerly(checkpoint, talk, pictures, answer)
    assert looked.words == ANSWER.split() and expected.max() > 0.01
    tokens = tokens_of(checkpoint.tokenizer, answer, looked.words)
    assert len(answer) > len(tokens)  # words of several tokens
    for number, maps in enumerate(looked.maps):
        assert maps.shape == (5, GRID, GRID) and maps.dtype == np.float32
        of_picture = expected[:, number * GRID**2 : (number + 1) * GRID**2]
        for word, places in enumerate(tokens):
            mean = of_picture[places].mean(0).reshape(GRID, GRID)
            np.testing.assert_allclose(maps[word], mean, atol=1e-5)
    np.testing.assert_allclose(looked.whole()[0], looked.maps[0].mean(0))


def tokens_of(tokenizer, ids, words):
    """Numbers of the tokens of each word: those that the text grows by while it grows to the word's end."""
    found, start = [], 0
    for number in range(len(words)):
        text = " ".join(words[: number + 1])
        end = next(n for n in range(len(ids) + 1) if tokenizer.decode(ids[:n]).strip() == text)
        found.append(list(range(start, end)))
        start = end
    return found


def test_a_sliding_window_hides_what_is_too_far_back(tokenizer):
    checkpoint = checkpoint_of("mistral", tokenizer)
    talk = question("p", text="What is in the picture, and where is it, and how many are there?")
    looked = look(checkpoint, talk, [noise(1)], ids_of(checkpoint, talk, ANSWER))
    assert not looked.maps[0].any()


def test_a_class_token_is_no_patch(tokenizer):
    checkpoint = tiny_checkpoint(tokenizer, vision_select="cls_patch")
    talk = question("p")
    answer = ids_of(checkpoint, talk, ANSWER)
    (maps,) = look(checkpoint, talk, [noise(1)], answer).maps
    expected = eagerly(checkpoint, talk, [noise(1)], answer)
    assert expected.shape[1] == GRID**2 + 1
    np.testing.assert_allclose(maps[0].ravel(), expected[0, 1:], atol=1e-6)


@pytest.mark.parametrize("text", ["Ein Bär: 🐻 🐻!", " two  lines\n\nand more \n", "one"])
def test_all_tokens_belong_to_words(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False)
    words, shares = attention._words(tokenizer, ids)
    assert words == text.split()
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-6)
    written = [token for token in range(len(ids)) if tokenizer.decode(ids[: token + 1]).strip()]
    assert shares[:, written[0] : len(tokenizer.encode(text.rstrip()))].any(0).all()


def test_ids_of_a_text_are_those_the_model_learned_to_write(tokenizer):
    checkpoint = tiny_checkpoint(tokenizer)
    talk = question("p")
    ids = ids_of(checkpoint, talk, ANSWER)
    whole = checkpoint.renderer.encode(Conversation("q", (*talk.turns, gpt(ANSWER))))
    assert [label for label in whole.labels if label != -100] == [*ids, *checkpoint.stop]
    assert tokenizer.decode(ids).strip() == ANSWER


@pytest.mark.parametrize(
    ("kind", "shortest"), [("square", None), ("square", 50), ("stretch", None), ("pad", None)]
)
@pytest.mark.parametrize("size", [(300, 200), (101, 257), (80, 80)])
def test_a_box_says_which_part_of_the_picture_is_seen(kind, shortest, size):
    """Colours that tell their place: red grows to the right, green downwards."""
    preprocess = Preprocessor(40, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), kind, shortest, resample=2)
    across, down = (np.linspace(0, 255, n + 1)[:-1] + 127.5 / n for n in size)
    values = np.zeros((size[1], size[0], 3), np.uint8)
    values[..., 0], values[..., 1], values[..., 2] = across[None], down[:, None], 255
    seen = np.asarray(preprocess.square(Image.fromarray(values))) / 255
    left, top, right, bottom = box_of(preprocess, *size)
    middle = (np.arange(40) + 0.5) / 40
    inside = seen[..., 2] > 0.99  # elsewhere it was padded
    expected = (
        np.broadcast_to(left + middle * (right - left), (40, 40)),
        np.broadcast_to((top + middle * (bottom - top))[:, None], (40, 40)),
    )
    for channel, places in enumerate(expected):
        assert np.abs(seen[..., channel] - places)[inside].max() < 0.03
    outside = (expected[0] < -0.02) | (expected[0] > 1.02) | (expected[1] < -0.02) | (expected[1] > 1.02)
    assert not inside[outside].any() and inside.sum() + outside.sum() >= 0.9 * 1600


def test_the_starter_looks_at_what_it_names(tiny_world):
    """Named in an answer, an object's patches draw more attention than the others."""
    checkpoint = load_checkpoint("starter")
    scenes = json.loads((tiny_world / "instances_train.json").read_text())
    names = {category["id"]: category["name"] for category in scenes["categories"]}
    better = []
    for image in scenes["images"]:
        objects = [a for a in scenes["annotations"] if a["image_id"] == image["id"]]
        kinds = sorted({names[a["category_id"]] for a in objects})
        talk = question("p", text="What is in the picture?")
        answer = ids_of(checkpoint, talk, "There are: " + ", ".join(kinds) + ".")
        picture = open_image(tiny_world / "images" / image["file_name"])
        looked = look(checkpoint, talk, [picture], answer)
        said = " ".join(looked.words)
        for kind in kinds:
            word = len(said[: said.index(kind)].split())
            shown = covered([a["bbox"] for a in objects if names[a["category_id"]] == kind], looked, picture)
            if shown.any() and not shown.all():
                map_of = looked.maps[0][word]
                better.append((map_of[shown][:, None] > map_of[~shown]).mean())
    assert len(better) > 10 and np.mean(better) > 0.75, np.mean(better)


def covered(boxes, looked, picture):
    """[grid, grid]: patches of which more than a quarter is within a box."""
    grid = looked.maps[0].shape[-1]
    left, top, right, bottom = looked.boxes[0]
    across = (left + (right - left) * np.arange(grid + 1) / grid) * picture.width
    down = (top + (bottom - top) * np.arange(grid + 1) / grid) * picture.height
    found = np.zeros((grid, grid))
    for x, y, width, height in boxes:
        columns = (np.minimum(across[1:], x + width) - np.maximum(across[:-1], x)).clip(0)
        rows = (np.minimum(down[1:], y + height) - np.maximum(down[:-1], y)).clip(0)
        found += rows[:, None] * columns / ((across[1] - across[0]) * (down[1] - down[0]))
    return found > 0.25


def test_beside_the_others_a_patch_that_all_words_look_at_is_as_always():
    maps = np.array([[[0.5, 0.1]], [[0.5, 0.3]], [[0.5, 0.2]]], np.float32)
    np.testing.assert_allclose(beside_the_others(maps), [[[1, 0.5]], [[1, 1.5]], [[1, 1]]], rtol=1e-6)
    assert (beside_the_others(np.zeros((2, 1, 1), np.float32)) == 1).all()


def test_what_cannot_be_looked_at_is_told(tokenizer):
    checkpoint = tiny_checkpoint(tokenizer)
    talk, picture = question("p"), noise(1)
    answer = ids_of(checkpoint, talk, ANSWER)
    for match, arguments in {
        "no picture": (checkpoint, question(), [], answer),
        "no answer": (checkpoint, talk, [picture], []),
        "2 pictures for 1 place": (checkpoint, talk, [picture] * 2, answer),
        r"\d+ more than the 20": (checkpoint.with_recipe(max_length=20), talk, [picture], answer),
        "no words": (checkpoint, talk, [picture], tokenizer.encode(" \n")),
    }.items():
        with pytest.raises(BadRequestError, match=match):
            look(*arguments)

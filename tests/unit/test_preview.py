"""The mask preview: what is trained on is marked, and nothing else."""

import pytest

from tests.small_tokenizers import TOKENIZERS
from vistune.conversation import Conversation, Picture, Turn
from vistune.data.pack import Tree
from vistune.template import Renderer, find_template
from vistune.train.plan.preview import marked, pieces, preview, tree_in_words

PATCHES = 4


@pytest.fixture
def image_token(tokenizer):
    return tokenizer.convert_tokens_to_ids("<image>")


def encode(tokenizer, *turns, template="v0"):
    renderer = Renderer(
        find_template(template), tokenizer, tokenizer.convert_tokens_to_ids("<image>"), PATCHES
    )
    conversation = Conversation("1", tuple(turns))
    return renderer.encode(conversation)


TURNS = (
    Turn("human", (Picture("a.jpg"), "\nWhat is it?")),
    Turn("gpt", ("A dog.",)),
    Turn("human", ("Sure?",)),
    Turn("gpt", ("Yes.",)),
)


def test_exactly_answers_and_stops_are_marked(tokenizer, image_token):
    text = marked(encode(tokenizer, *TURNS), tokenizer, image_token).plain
    assert text.endswith(
        "Human: <image x 4>⏎\nWhat is it?###Assistant:[[ A dog.###]]Human: Sure?###Assistant:[[ Yes.###]]"
    )
    assert text.count("[[") == 2


def test_pieces_are_the_whole_sample(tokenizer, image_token):
    sample = encode(tokenizer, *TURNS)
    found = pieces(sample, tokenizer, image_token)
    assert sum(piece.tokens for piece in found) == len(sample.ids)
    assert sum(piece.tokens for piece in found if piece.kind == "supervised") == sample.supervised
    assert sum(piece.tokens for piece in found if piece.kind == "picture") == PATCHES
    written = "".join(piece.text for piece in found if piece.kind != "picture")
    assert written.replace("⏎\n", "\n") == tokenizer.decode([i for i in sample.ids if i != image_token])


def test_colour_says_what_brackets_say(tokenizer, image_token):
    text = marked(encode(tokenizer, *TURNS), tokenizer, image_token)
    green = [text.plain[span.start : span.end] for span in text.spans if "green" in str(span.style)]
    assert green == ["[[ A dog.###]]", "[[ Yes.###]]"]


@pytest.mark.parametrize("answer", ["[[not a mark]]", "[bold]x[/bold]", "é🐕\u200fש", "a\nb", "<image>"])
def test_hostile_text_stands_as_it_is(tokenizer, image_token, answer):
    turns = (TURNS[0], Turn("gpt", (answer,)))
    found = pieces(encode(tokenizer, *turns), tokenizer, image_token)
    assert [piece.text for piece in found if piece.kind == "supervised"] == [
        f" {answer}###".replace("\n", "⏎\n")
    ]
    assert [piece.text for piece in found if piece.kind == "picture"] == ["image x 4"]


@pytest.mark.parametrize("name", ["starter", "llama-legacy", "llama-always", "llama-first", "chatml"])
@pytest.mark.parametrize("template", ["v0", "vicuna_v1", "plain"])
def test_spaces_are_shown_whatever_the_tokenizer(name, template):
    tokenizer = TOKENIZERS[name]()
    image = tokenizer.convert_tokens_to_ids("<image>")
    sample = encode(tokenizer, *TURNS[:2], template=template)
    found = pieces(sample, tokenizer, image)
    stop = {"v0": "###", "vicuna_v1": tokenizer.eos_token, "plain": "⏎\n"}[template]
    marked_text = "".join(piece.text for piece in found if piece.kind == "supervised")
    if template == "plain":  # whether a space stands before the caption is the tokenizer's choice
        marked_text = f" {marked_text.removeprefix(' ')}"
    assert marked_text == f" A dog.{stop}"


def test_trees_in_words():
    assert tree_in_words(Tree((0, 1, 2), 600, (40, 90, 1000))) == (
        "shares a prefix of 600 tokens, computed once, with 2 more; branches of 40, 90, 1,000 tokens; "
        "1,730 tokens in the place of 2,930"
    )
    assert "shares nothing" in tree_in_words(Tree((0,), 0, (640,)))


def test_the_preview_names_pictures_and_counts(tokenizer, image_token):
    sample = encode(tokenizer, *TURNS)
    lines = list(preview([(Tree((0,), 0, (len(sample.ids),)), sample)], tokenizer, image_token))
    assert lines[0] == f"sample 1: a.jpg; {len(sample.ids)} tokens, {sample.supervised} of them supervised"
    assert lines[2].plain == marked(sample, tokenizer, image_token).plain
    text_only = encode(tokenizer, Turn("human", ("Hi",)), Turn("gpt", ("Yes",)))
    assert "no picture" in next(iter(preview([(Tree((0,), 0, (9,)), text_only)], tokenizer, image_token)))

"""The tokenizer's own chat template, BOS, and the spaces and special tokens of all kinds of tokenizers."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from transformers import AddedToken

from tests.small_tokenizers import CHAT_TEMPLATES, llama, speaking, with_chat_template
from vistune.conversation import IGNORE_INDEX, Conversation, ask, gpt, human
from vistune.errors import VistuneError
from vistune.template import TEMPLATES, Renderer, find_template, words

TALK = Conversation("1", (human(*ask("What?", "dog.jpg")), gpt("A dog."), human("Sure?"), gpt("Yes")))
# `|` stands where what is trained on begins or ends; ids joined as tokens, a space is `▁` or `Ġ`.
LAYOUTS = {
    "system": (
        "<|im_start|>systemĊBeĠbrief.<|im_end|>Ċ<|im_start|>userĊ<image>ĊWhat?<|im_end|>Ċ"
        "<|im_start|>assistantĊ|AĠdog.<|im_end|>|Ċ<|im_start|>userĊSure?<|im_end|>Ċ"
        "<|im_start|>assistantĊ|Yes<|im_end|>|Ċ"
    ),
    "trimmed": (
        "<|im_start|>userĊ<image>ĊWhat?<|im_end|>Ċ<|im_start|>modelĊ|AĠdog.<|im_end|>|Ċ"
        "<|im_start|>userĊSure?<|im_end|>Ċ<|im_start|>modelĊ|Yes<|im_end|>|Ċ"
    ),
    "listed": (
        "<|im_start|>userĊ<image>ĊWhat?<|im_end|>Ċ<|im_start|>assistantĊ|AĠdog.<|im_end|>|Ċ"
        "<|im_start|>userĊSure?<|im_end|>Ċ<|im_start|>assistantĊ|Yes<|im_end|>|Ċ"
    ),
    "dated": (
        "<|im_start|>systemĊTodayĠisĠ26ĠJulĠ2024.<|im_end|>Ċ<|im_start|>userĊ<image>ĊWhat?<|im_end|>Ċ"
        "<|im_start|>assistantĊ|AĠdog.<|im_end|>|Ċ<|im_start|>userĊSure?<|im_end|>Ċ"
        "<|im_start|>assistantĊ|Yes<|im_end|>|Ċ"
    ),
    "bos": ("<s>▁[INST]▁<image>▁<0x0A>What?▁[/INST]|▁A▁dog.</s>|▁[INST]▁Sure?▁[/INST]|▁Yes</s>"),
    "pairs": ("<s>[INST]▁<image><0x0A>What?▁[/INST]|▁A▁dog.▁</s>|<s>[INST]▁Sure?▁[/INST]|▁Yes▁</s>"),
    "text": ("<s>▁##▁<image>▁<0x0A>What?<0x0A>>▁|A▁dog.<0x0A><0x0A>|##▁Sure?<0x0A>>▁|Yes<0x0A><0x0A>"),
    "bare": "<s><image>▁<0x0A>What?<unk>|▁A▁dog.</s>|<s>▁Sure?<unk>|▁Yes</s>",
}
# A written template, by where the tokenizer puts spaces.
WRITTEN = {
    (
        "short",
        "legacy",
    ): "<s>▁USER:▁<image>▁<0x0A>What?▁ASSISTANT:|▁A▁dog.</s>|▁USER:▁Sure?▁ASSISTANT:|▁Yes</s>",
    (
        "short",
        "always",
    ): "<s>▁USER:▁<image>▁<0x0A>What?▁ASSISTANT:|▁A▁dog.</s>|▁USER:▁Sure?▁ASSISTANT:|▁Yes</s>",
    ("short", "first"): "<s>USER:▁<image><0x0A>What?▁ASSISTANT:|▁A▁dog.</s>|USER:▁Sure?▁ASSISTANT:|▁Yes</s>",
    ("plain", "legacy"): "<s><image>|▁A▁dog.<0x0A>Yes<0x0A>",
    ("plain", "first"): "<s><image>|A▁dog.<0x0A>Yes<0x0A>",
}


def layout_of(tokenizer: Any, renderer: Renderer) -> str:
    encoded = renderer.encode(TALK)
    text, trained = "", False
    for token, label in zip(encoded.ids, encoded.labels, strict=True):
        if trained != (label != IGNORE_INDEX):
            text, trained = f"{text}|", not trained
        text += tokenizer.convert_ids_to_tokens(token)
    return text


def own(tokenizer: Any) -> Renderer:
    image = tokenizer.convert_tokens_to_ids("<image>")
    return Renderer(find_template("tokenizer", tokenizer), tokenizer, image, patches=1)


@pytest.mark.parametrize("name", CHAT_TEMPLATES)
def test_the_tokenizers_own_layout(name: str):
    tokenizer = with_chat_template(name)
    assert layout_of(tokenizer, own(tokenizer)) == LAYOUTS[name]


@pytest.mark.parametrize(("name", "spaces"), WRITTEN, ids=map("-".join, WRITTEN))
def test_a_written_layout_with_bos_and_the_spaces_of_sentencepiece(name: str, spaces: str):
    tokenizer = llama(spaces)
    renderer = Renderer(TEMPLATES[name], tokenizer, tokenizer.convert_tokens_to_ids("<image>"), patches=1)
    assert layout_of(tokenizer, renderer) == WRITTEN[name, spaces]


def test_llama_2_begins_every_pair_with_bos():
    tokenizer = llama("first")
    renderer = Renderer(
        TEMPLATES["llama_2"], tokenizer, tokenizer.convert_tokens_to_ids("<image>"), patches=1
    )
    text = layout_of(tokenizer, renderer)
    assert text.startswith("<s>[INST]▁<<SYS>><0x0A>You▁are▁a▁helpful▁language▁and▁vision▁assistant.")
    assert text.endswith(
        "<0x0A><</SYS>><0x0A><0x0A><image><0x0A>What?▁[/INST]|▁A▁dog.▁</s>|<s>[INST]▁Sure?▁[/INST]|▁Yes▁</s>"
    )


@pytest.mark.parametrize("name", TEMPLATES)
def test_bos_comes_first_once_and_is_not_trained_on(name: str):
    tokenizer = llama("legacy")
    renderer = Renderer(TEMPLATES[name], tokenizer, tokenizer.convert_tokens_to_ids("<image>"), patches=1)
    encoded = renderer.encode(TALK)
    assert encoded.ids[0] == tokenizer.bos_token_id
    assert encoded.ids.count(tokenizer.bos_token_id) == (2 if name == "llama_2" else 1)
    assert tokenizer.bos_token_id not in encoded.labels


def test_an_answer_may_begin_with_spaces_of_its_own():
    tokenizer = with_chat_template("bare")  # an answer begins behind a special token, where a space is put
    for answer, expected in (("a", "▁a"), (" a", "▁▁a"), ("  a", "▁▁▁a")):
        encoded = own(tokenizer).encode(Conversation("1", (human("x"), gpt(answer))))
        trained = [label for label in encoded.labels if label != IGNORE_INDEX]
        assert "".join(tokenizer.convert_ids_to_tokens(trained)) == f"{expected}</s>"
        assert tokenizer.decode(trained[:-1]) == answer


def test_a_stop_that_is_no_special_token_cannot_be_written_by_a_user():
    tokenizer = speaking("chatml", CHAT_TEMPLATES["system"][1].replace("<|im_end|>", "<end>"))
    tokenizer.add_tokens(["<end>"])  # added, but not special: the tokenizer reads it in any text
    end = tokenizer.convert_tokens_to_ids("<end>")
    assert tokenizer.encode("a<end>", split_special_tokens=True)[-1] == end
    encoded = own(tokenizer).encode(Conversation("1", (human("a<end>b"), gpt("<end>"))))
    assert encoded.ids.count(end) == 3  # of the system prompt, the question and the answer
    trained = [label for label in encoded.labels if label != IGNORE_INDEX]
    assert tokenizer.convert_ids_to_tokens(trained) == ["<", "e", "n", "d", ">", "<end>"]
    assert own(tokenizer).stop == [end]


def test_tokens_that_swallow_white_space_do_so_in_the_templates_text_alone():
    template = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<over>\n{% endfor %}"
    tokenizer = speaking(
        "chatml", template + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer.add_tokens([AddedToken("<over>", rstrip=True, special=True)], special_tokens=True)
    ours = own(tokenizer).encode(Conversation("1", (human("What?"), gpt("A dog."), human("a"), gpt(" b"))))
    talk = zip(("user", "assistant") * 2, ("What?", "A dog.", "a", " b"), strict=True)
    theirs = tokenizer.apply_chat_template(
        [{"role": role, "content": text} for role, text in talk], return_dict=False
    )
    assert ours.ids == theirs
    assert (
        tokenizer.decode([label for label in ours.labels if label != IGNORE_INDEX]) == "A dog.<over> b<over>"
    )


def test_of_several_templates_the_default_is_read():
    tokenizer = speaking("chatml", {"tool_use": "{{ 1 }}", "default": CHAT_TEMPLATES["trimmed"][1]})
    assert find_template("tokenizer", tokenizer).trims == ("human", "gpt")


_USER = "{% if m['role'] == 'user' %}"
_SAID = "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
_PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
REFUSED = {
    "it writes a turn 2 times": "{% for m in messages %}" + _SAID + _SAID + "{% endfor %}",
    "it writes a turn 0 times": "{% for m in messages[-2:] %}" + _SAID + "{% endfor %}",
    "it fails with no": "{{ raise_exception('no') }}",
    "it puts '<think></think>' before an answer": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}<think></think>"
        "{% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}" + _PROMPT
    ),
    "it writes a turn differently once another follows": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{% if loop.last and m['role'] == 'assistant' %}<think>{% endif %}"
        "{{ m['content'] }}<|im_end|>\n{% endfor %}" + _PROMPT
    ),
    "the prompt that it generates from is not how its answers begin": (
        "{% for m in messages %}" + _SAID + "{% endfor %}{% if add_generation_prompt %}<think>{% endif %}"
    ),
    "nothing ends an answer": (
        "{% for m in messages %}" + _USER + "<|im_start|>{{ m['content'] }}<|im_end|>{% else %}"
        "{{ m['content'] }}{% endif %}{% endfor %}"
    ),
    "an answer ends differently once a question follows": (
        "{% for m in messages %}<|im_start|>{{ m['content'] }}{% endfor %}"
        "{% if not add_generation_prompt %}<|im_end|>{% else %}<|im_start|>{% endif %}"
    ),
    "it rewrites the words of turns": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'].lstrip() }}<|im_end|>\n"
        "{% endfor %}" + _PROMPT
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_template_that_cannot_be_trained_on_exactly_is_refused(why: str):
    with pytest.raises(VistuneError) as refusal:
        find_template("tokenizer", speaking("chatml", REFUSED[why]))
    assert f"cannot be trained on exactly: {why}" in str(refusal.value)
    assert "Choose one of: chatml, llama_2, plain, short, v0, vicuna_v1." in str(refusal.value)


def test_a_missing_template_or_tokenizer_is_told():
    with pytest.raises(VistuneError, match="the LLM's tokenizer has no chat template"):
        find_template("tokenizer", speaking("chatml", None))
    with pytest.raises(VistuneError, match="no tokenizer is given"):
        find_template("tokenizer")


def test_two_threads_may_encode_at_a_time(tokenizer: Any, monkeypatch: pytest.MonkeyPatch):
    """While one thread is in the tokenizer, the other would make room in what both remember."""
    encoder = words.Words(tokenizer, tokenizer.convert_tokens_to_ids("<image>"), ())
    expected = encoder.encode(["a", "dog"])
    monkeypatch.setattr(words, "_REMEMBERED", 0)
    safe, others = encoder._safe, [threading.Thread(target=encoder.encode, args=(["two", "cats"],))]

    def slow(texts: Any) -> Any:
        if others:
            other = others.pop()
            other.start()
            other.join(0.2)
        return safe(texts)

    monkeypatch.setattr(encoder, "_safe", slow)
    assert encoder.encode(["a", "dog", "left"]).items() >= expected.items()

"""BOS left to the chat template: nothing before a text any more, and everything else as it was."""

import json

import pytest
from tokenizers import processors
from transformers import AutoTokenizer, LlamaTokenizer

from tests.small_tokenizers import TOKENIZERS, speaking
from vistune.errors import VistuneError
from vistune.template import TEMPLATES, Renderer
from vistune.template.begin import STORED, find_begin, leave_to_template

BOS, EOS = ("<s>", 1), ("</s>", 2)
BYTES = processors.ByteLevel(add_prefix_space=False, trim_offsets=True)


def template(single, pair):
    used = [token for token in (BOS, EOS) if token[0] in f"{single} {pair}"]
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=used)


# Name -> the post-processor, and what it must become.
PROCESSORS = {
    "llama": (template("<s> $A", "<s> $A <s>:1 $B:1"), template("$A", "$A $B:1")),
    "ends too": (
        template("<s> $A </s>", "<s> $A </s> <s> $B </s>"),
        template("$A </s>", "$A </s> $B </s>"),
    ),
    "ends as it begins": (template("</s> $A </s>", "</s> $A </s> $B"), template("$A </s>", "$A $B")),
    "two": (template("<s> </s> $A </s>", "<s> </s> $A $B"), template("$A </s>", "$A $B")),
    "ends alone": (template("$A </s>", "$A </s> $B </s>"),) * 2,
    "sequence, as Llama 3's": (
        processors.Sequence([BYTES, template("<s> $A", "<s> $A <s>:1 $B:1")]),
        processors.Sequence([BYTES, template("$A", "$A $B:1")]),
    ),
    "nested": (
        processors.Sequence([processors.Sequence([template("<s> $A", "<s> $A $B")]), BYTES]),
        processors.Sequence([processors.Sequence([template("$A", "$A $B")]), BYTES]),
    ),
}


def llama(processor):
    tokenizer = speaking("llama-legacy", None)
    tokenizer.backend_tokenizer.post_processor = processor
    return tokenizer


def backend_of(tokenizer):
    return json.loads(tokenizer.backend_tokenizer.to_str())


@pytest.mark.parametrize("name", PROCESSORS)
def test_what_stands_before_a_text_goes_and_nothing_else(name):
    given, wanted = PROCESSORS[name]
    tokenizer = llama(given)
    before = tokenizer("a dog")["input_ids"]
    begin = leave_to_template(tokenizer)
    count = before.index(tokenizer("a dog", add_special_tokens=False)["input_ids"][0])
    assert begin == "".join(tokenizer.convert_ids_to_tokens(before[:count]))
    assert tokenizer("a dog")["input_ids"] == before[count:]
    assert backend_of(tokenizer) == backend_of(llama(wanted))


@pytest.mark.parametrize("which", TOKENIZERS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_renderer_begins_as_before_also_once_saved_and_loaded_twice(which, name, tmp_path):
    tokenizer = speaking(which, None)
    renderer = Renderer(TEMPLATES[name], tokenizer, tokenizer.convert_tokens_to_ids("<image>"), patches=1)
    begin = leave_to_template(tokenizer)
    assert begin == ("<s>" if which.startswith("llama") else "")
    for _ in range(2):
        tokenizer.save_pretrained(tmp_path)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path)
        assert (STORED in tokenizer.init_kwargs) == bool(begin)
        assert leave_to_template(tokenizer) == begin == find_begin(tokenizer)
        again = Renderer(TEMPLATES[name], tokenizer, renderer.image_token, patches=1)
        assert again.chat_template == renderer.chat_template


def test_a_class_that_builds_its_tokenizer_anew_reads_it_again(tmp_path):
    vocabulary = {token: id for id, token in enumerate(["<unk>", "<s>", "</s>", "▁", "x", "▁x"])}
    tokenizer = LlamaTokenizer(vocab=vocabulary, merges=[("▁", "x")], add_bos_token=True, add_eos_token=True)
    assert tokenizer("x")["input_ids"] == [1, 5, 2]
    assert leave_to_template(tokenizer) == "<s>"
    for _ in range(2):
        tokenizer.save_pretrained(tmp_path)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path)
        assert type(tokenizer) is LlamaTokenizer
        assert tokenizer("x")["input_ids"] == [5, 2]
        assert find_begin(tokenizer) == "<s>"


def test_a_way_of_its_own_to_add_bos_is_refused():
    tokenizer = llama(processors.RobertaProcessing(EOS, BOS))
    with pytest.raises(VistuneError, match="'<s>' before every text by other means"):
        leave_to_template(tokenizer)


@pytest.mark.parametrize("stored", [5, "dog", "<s>dog", "dog<s>", ["<s>"]])
def test_what_is_stored_must_be_special_tokens(stored):
    tokenizer = llama(template("$A", "$A $B"))
    tokenizer.init_kwargs[STORED] = stored
    with pytest.raises(VistuneError, match=f"tokenizer_config.json: {STORED} is "):
        find_begin(tokenizer)

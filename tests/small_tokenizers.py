"""Tokenizers as common LLMs have them, trained on three sentences, and chat templates for them."""

from __future__ import annotations

import json
import string
from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from vistune.starter.tokenizer import train_tokenizer

SENTENCES = [
    "USER: What is in the picture? ASSISTANT: A dog and two cats.",
    "[INST] How many dogs are there? [/INST] Two.",
    "Human: The dog is on the left of the picture.###Assistant: Yes.",
] * 3


@cache
def starter() -> Any:
    """Byte-level, no BOS: the starter's."""
    return train_tokenizer(SENTENCES, vocabulary=320)


@cache
def llama(spaces: str) -> Any:
    """SentencePiece as converted for Llama: BOS, byte fallback, and a space before texts.

    Args:
        spaces: where spaces are put: ``legacy`` by the normaliser before whatever follows a special token,
            ``always`` the same but where a space is there, ``first`` at the very beginning alone.
    """
    special = ["<unk>", "<s>", "</s>"]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁")  # learned word by word: a space begins a token
    trainer = trainers.BpeTrainer(
        vocab_size=520,
        initial_alphabet=list(string.printable[:94]),
        special_tokens=[*special, *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    content = json.loads(tokenizer.to_str())  # bytes are ordinary tokens of the vocabulary
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] in special]
    content["pre_tokenizer"] = None
    tokenizer = Tokenizer.from_str(json.dumps(content))
    if spaces == "legacy":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme=spaces, split=False)
    strip = decoders.Strip(" ", 1, 0)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
    )


@cache
def chatml() -> Any:
    """Byte-level with ChatML's tokens; ``<tool>`` is an added token that is not special."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<image>"],
    )
    tokenizer.add_tokens(["<tool>"])
    return tokenizer


TOKENIZERS = {
    "starter": starter,
    "llama-legacy": lambda: llama("legacy"),
    "llama-always": lambda: llama("always"),
    "llama-first": lambda: llama("first"),
    "chatml": chatml,
}

_EACH = "{% for m in messages %}"
# Name -> the tokenizer it belongs to, and the template.
CHAT_TEMPLATES = {
    # A system prompt of its own, as Qwen 2 has it.
    "system": (
        "chatml",
        f"{_EACH}{{% if loop.first and m['role'] != 'system' %}}<|im_start|>system\nBe brief.<|im_end|>\n"
        "{% endif %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    ),
    # Nothing before the first turn, contents trimmed, text of two kinds around them, as Gemma's.
    "trimmed": (
        "chatml",
        f"{_EACH}{{% set who = 'model' if m['role'] == 'assistant' else 'user' %}}"
        "{{ '<|im_start|>' + who + '\n' + m['content'] | trim + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>model\n' }}{% endif %}",
    ),
    # Contents are lists of parts, as of processors.
    "listed": (
        "chatml",
        f"{_EACH}<|im_start|>{{{{ m['role'] }}}}\n{{% for part in m['content'] %}}"
        "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    ),
    # BOS written by the template, no generation prompt, as Mistral's.
    "bos": (
        "llama-legacy",
        f"{{{{ bos_token }}}}{_EACH}{{% if m['role'] == 'user' %}}"
        "{{ '[INST] ' + m['content'] + ' [/INST]' }}"
        "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}",
    ),
    # BOS before every pair, the answer trimmed and amid spaces, as Llama 2's.
    "pairs": (
        "llama-first",
        f"{_EACH}{{% if m['role'] == 'user' %}}"
        "{{ bos_token + '[INST] ' + m['content'].strip() + ' [/INST]' }}"
        "{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    ),
    # No BOS in the template, though the tokenizer puts one; a STOP that is text.
    "text": (
        "llama-always",
        f"{_EACH}{{% if m['role'] == 'user' %}}{{{{ '## ' + m['content'] + '\n' }}}}"
        "{% else %}{{ '> ' + m['content'] + '\n\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '> ' }}{% endif %}",
    ),
    # An answer begins behind a special token at once.
    "bare": (
        "llama-legacy",
        f"{_EACH}{{% if m['role'] == 'user' %}}{{{{ bos_token + m['content'] + '<unk>' }}}}"
        "{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}",
    ),
    # The date of the day.
    "dated": (
        "chatml",
        "<|im_start|>system\nToday is {{ strftime_now('%d %b %Y') }}.<|im_end|>\n"
        f"{_EACH}{{{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}}}{{% endfor %}}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    ),
}


def with_chat_template(name: str) -> Any:
    """A fresh tokenizer with that chat template."""
    which, template = CHAT_TEMPLATES[name]
    return speaking(which, template)


def speaking(which: str, template: str | dict[str, str] | None) -> Any:
    """A fresh copy of a tokenizer, with a chat template."""
    original = TOKENIZERS[which]()
    backend = Tokenizer.from_str(original.backend_tokenizer.to_str())
    copy = PreTrainedTokenizerFast(tokenizer_object=backend, **original.special_tokens_map)
    copy.chat_template = template
    return copy

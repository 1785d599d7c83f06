"""An LLM's folder that ships ``tokenizer.model`` alone, as Vicuna's do."""

from __future__ import annotations

from pathlib import Path

import pytest

from vistune.conversation import Conversation, gpt, human
from vistune.template import Renderer, find_template

TEXT = "A dog and a cat sit on the red table. The cat looks at the dog, and the dog looks at the cat."


def test_a_tokenizer_model_alone_is_read_and_written_with(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("torch")
    import transformers

    from vistune.model.parts import read_tokenizer

    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join([TEXT] * 50))
    sentencepiece.SentencePieceTrainer.Train(
        input=str(corpus), model_prefix=str(tmp_path / "tokenizer"), vocab_size=60, model_type="bpe",
        byte_fallback=False, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    for left in ("tokenizer.vocab", "corpus.txt"):
        (tmp_path / left).unlink()
    transformers.LlamaConfig(vocab_size=64).save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    tokenizer = read_tokenizer(str(tmp_path))
    reference = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    assert tokenizer(TEXT, add_special_tokens=False).input_ids == reference.Encode(TEXT)
    renderer = Renderer(find_template("vicuna_v1"), tokenizer, image_token=-1, patches=4)
    sample = renderer.encode(Conversation("1", (human("a dog"), gpt("the cat"))))
    answer = [label for label in sample.labels if label >= 0]
    assert tokenizer.decode(answer).strip().startswith("the cat") and answer[-1] == tokenizer.eos_token_id

"""What a user should know of a stage before it is trained, and after: one line each; nothing is refused."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vistune.conversation import IGNORE_INDEX
from vistune.data.corpus import Corpus

FEW_STEPS = 50
# Pieces for a byte of words of four letters or more. Counted by bytes, scripts compare. Short words and
# figures take a piece each, however good the tokenizer is, so they do not count. Usual in English: 0.2.
_USUAL_PIECES, _TIMES = 0.2, 2.0
_LONG_WORDS = re.compile(r"[^\W\d_]{4,}")
_TEXTS, _COUNTED = 200, 1000  # records that are looked at


def cautions(corpus: Corpus, steps: int, tokenizer: Any) -> Iterator[str]:
    """What stands against a stage before it begins."""
    if steps < FEW_STEPS:
        yield (
            f"only {steps} steps, fewer than {FEW_STEPS}: little will be learned. "
            "Lower the stage's `batch_size`, or raise its `epochs`."
        )
    pieces = pieces_per_byte(corpus, tokenizer)
    if pieces >= _TIMES * _USUAL_PIECES:
        yield (
            f"the tokenizer splits words into {pieces / _USUAL_PIECES:.1f} times the usual pieces "
            f"({1 / pieces:.1f} bytes each, about {1 / _USUAL_PIECES:.0f} are usual): the LLM hardly knows "
            "these words. Take an LLM that was trained on such text."
        )


def pieces_per_byte(corpus: Corpus, tokenizer: Any) -> float:
    """Pieces that the tokenizer takes for a byte of the answers' longer words; 0 if there are none."""
    texts = (tokenizer.decode(ids, skip_special_tokens=True) for ids in _answers(corpus, _TEXTS))
    words = [word for text in texts for word in _LONG_WORDS.findall(text)]
    if not words:
        return 0.0
    size = sum(len(word.encode()) for word in words)
    return len(tokenizer(" ".join(words), add_special_tokens=False).input_ids) / size


def guessing(corpus: Corpus) -> float:
    """The loss of guessing without looking: each token by how often the answers hold it (nats a token).

    That is the entropy of single tokens. The logarithm of the vocabulary's size would be no measure: a model
    that only knows which tokens are frequent is far below it.
    """
    counts = Counter(token for ids in _answers(corpus, _COUNTED) for token in ids)
    total = sum(counts.values())
    return -sum(count / total * math.log(count / total) for count in counts.values())


def ends_above_guessing(rows: Sequence[Mapping[str, Any]], corpus: Corpus) -> Iterator[str]:
    """What stands against a stage that has ended.

    Args:
        rows: of ``metrics.jsonl``; the mean of the last tenth is its end.
    """
    last = rows[-max(1, len(rows) // 10) :]
    tokens = sum(row["supervised"] for row in last)
    if not tokens:
        return
    loss, guess = sum(row["loss"] * row["supervised"] for row in last) / tokens, guessing(corpus)
    if not loss <= guess:
        yield (
            f"ends at a loss of {loss:.2f}, above {guess:.2f}, that of guessing each token by its frequency "
            "alone: nothing of use was learned. Train longer, or try another `learning_rate`; `--dry-run` "
            "shows what is trained on."
        )


def _answers(corpus: Corpus, most: int) -> Iterator[list[int]]:
    """What is trained on of some records, spread evenly."""
    count = min(most, len(corpus))
    for record in np.linspace(0, len(corpus) - 1, count).round().astype(int):
        labels = np.asarray(corpus[int(record)].labels)
        yield labels[labels != IGNORE_INDEX].tolist()

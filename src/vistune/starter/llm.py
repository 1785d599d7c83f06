"""Train the starter LLM: a small Llama that reads the world's language and has never seen a picture."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vistune.conversation import IGNORE_INDEX, Conversation, questions_and_answers
from vistune.data.batch import Batch, pad
from vistune.data.scripted import kind_of_question
from vistune.progress import meter
from vistune.starter.language import GRID, dialogues
from vistune.starter.tokenizer import train_tokenizer
from vistune.template import TEMPLATES, Encoded, Renderer
from vistune.train.stage import learning_rate, make_optimizer

TEMPLATE = TEMPLATES["short"]
_CORPUS = 4000  # dialogues that the tokenizer learns from
_POOL = 4096  # dialogues drawn at a time; like lengths share a batch
_UNSEEN = 10_000_000  # scenes from here on are never trained on


@dataclass(frozen=True)
class LlmSettings:
    width: int = 192
    layers: int = 4
    heads: int = 6
    inner: int = 512
    vocabulary: int = 1104
    batch_size: int = 64
    dialogues: int = 128_000
    peak: float = 3e-3


def build_llm(
    settings: LlmSettings, seed: int, log: Callable[[dict[str, Any]], None]
) -> tuple[Any, Any, dict[str, float]]:
    """Train tokenizer and LLM.

    Returns:
        The model, its tokenizer, and its exact-match accuracy on unseen text scenes by kind of question.
    """
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(_words(dialogues(seed, 0, _CORPUS)), settings.vocabulary)
    model = _new_model(settings, tokenizer)
    renderer = Renderer(TEMPLATE, tokenizer, tokenizer.convert_tokens_to_ids("<image>"), GRID**2)
    optimizer = make_optimizer(model, settings.peak, weight_decay=0.01)
    steps = settings.dialogues // settings.batch_size
    start = time.monotonic()
    with meter("training the starter LLM", steps) as progress:
        for step, batch in zip(range(steps), _batches(renderer, settings, seed), strict=False):
            rate = learning_rate(step, steps, settings.peak, 0.03)
            loss = _step(model, optimizer, batch, rate)
            progress.advance(f"loss {loss:.3f}")
            if step % 50 == 0 or step == steps - 1:
                log({"part": "llm", "step": step, "loss": loss, "seconds": time.monotonic() - start})
            if step % 500 == 499:
                log({"part": "llm", "step": step, **text_accuracy(model, renderer, seed, 200)})
    return model, tokenizer, text_accuracy(model, renderer, seed, 1000)


def _new_model(settings: LlmSettings, tokenizer: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=settings.vocabulary,
            hidden_size=settings.width,
            intermediate_size=settings.inner,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            num_key_value_heads=settings.heads,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )


def _words(conversations: Iterator[Conversation]) -> Iterator[str]:
    """Text as the template writes it, for the tokenizer."""
    for conversation in conversations:
        for question, answer in questions_and_answers(conversation):
            yield f"{TEMPLATE.human}{question} {TEMPLATE.gpt} {answer}"


def _batches(renderer: Renderer, settings: LlmSettings, seed: int) -> Iterator[Batch]:
    """Fresh dialogues without end, like lengths together."""
    rng = random.Random(f"llm order/{seed}")
    for start in range(0, _UNSEEN, _POOL):
        pool = [renderer.encode(dialogue) for dialogue in dialogues(seed, start, _POOL)]
        pool.sort(key=lambda sample: len(sample.ids))
        size = settings.batch_size
        groups = [pool[i : i + size] for i in range(0, _POOL, size)]
        rng.shuffle(groups)
        for group in groups:
            yield pad(group, 0, None)


def _step(model: Any, optimizer: torch.optim.Optimizer, batch: Batch, rate: float) -> float:
    logits, targets, _ = _predict(model, batch)
    loss = nn.functional.cross_entropy(logits, targets)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return loss.item()


def _predict(model: Any, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Logits and targets at the supervised positions, and where these are."""
    targets = batch.labels[:, 1:]
    positions = torch.zeros_like(batch.labels, dtype=torch.bool)
    positions[:, :-1] = targets != IGNORE_INDEX
    hidden = model.get_decoder()(
        input_ids=batch.ids, attention_mask=batch.attention_mask, use_cache=False
    ).last_hidden_state
    return model.get_output_embeddings()(hidden[positions]), targets[targets != IGNORE_INDEX], positions


@torch.no_grad()
def text_accuracy(model: Any, renderer: Renderer, seed: int, scenes: int) -> dict[str, float]:
    """Share of short answers that greedy decoding would write exactly, given the dialogue before them."""
    right: dict[str, list[bool]] = defaultdict(list)
    unseen = list(dialogues(seed, _UNSEEN, scenes))
    for start in range(0, len(unseen), 64):
        part = unseen[start : start + 64]
        encoded = [renderer.encode(dialogue) for dialogue in part]
        logits, targets, _ = _predict(model, pad(encoded, 0, None))
        hits = (logits.argmax(-1) == targets).tolist()
        for kind, correct in _by_question(part, encoded, hits):
            right[kind].append(correct)
    kinds = {kind: sum(values) / len(values) for kind, values in sorted(right.items())}
    short = [value for kind, values in right.items() if kind != "long" for value in values]
    return {"accuracy": sum(short) / max(1, len(short)), **kinds}


def _by_question(
    conversations: Sequence[Conversation], encoded: Sequence[Encoded], hits: list[bool]
) -> Iterator[tuple[str, bool]]:
    """Whether each answer, its STOP included, was right as a whole."""
    position = 0
    for conversation, sample in zip(conversations, encoded, strict=True):
        for (question, _), length in zip(
            questions_and_answers(conversation), _answer_lengths(sample), strict=True
        ):
            kind = kind_of_question(question.split("\n")[-1]) or "long"
            yield kind, all(hits[position : position + length])
            position += length


def _answer_lengths(sample: Encoded) -> list[int]:
    """Lengths of the runs of supervised positions."""
    lengths, run = [], 0
    for label in [*sample.labels, IGNORE_INDEX]:
        if label != IGNORE_INDEX:
            run += 1
        elif run:
            lengths.append(run)
            run = 0
    return lengths



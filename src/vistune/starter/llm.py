"""Train the starter LLM: a small Llama that reads the world's language and never sees a picture."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vistune.conversation import IGNORE_INDEX, questions_and_answers
from vistune.data.batch import to_batch
from vistune.data.pack import Tree, flatten
from vistune.data.teachers.scripted import QUESTION_KINDS, kind_of_question
from vistune.model.attention import Layout, given_mask, prepare
from vistune.progress import meter
from vistune.starter.language import GRID, Dialogue, cell_words, dialogues
from vistune.starter.optimizers import MuonAdamW
from vistune.starter.tokenizer import train_tokenizer
from vistune.template import TEMPLATES, Encoded, Renderer
from vistune.train.stage import schedule

TEMPLATE = TEMPLATES["short"]
_IMAGE_TOKEN = 2  # the third of the special tokens
_CORPUS = 4000  # dialogues that the tokenizer learns from
_POOL = 4096  # dialogues drawn at a time; like lengths share a batch
_UNSEEN = 10_000_000  # scenes from here on are never trained on


@dataclass(frozen=True)
class _Sample:
    dialogue: Dialogue
    encoded: Encoded


@dataclass(frozen=True)
class LlmSettings:
    """Size and training of the LLM.

    Attributes:
        tokens: of one optimizer step, padding included.
        noise: of the map's embeddings, as a share of their own size.
    """

    width: int = 192
    layers: int = 4
    heads: int = 4
    inner: int = 512
    vocabulary: int = 1104
    tokens: int = 2800
    dialogues: int = 120_000
    peak: float = 3e-3
    noise: float = 0.3


def build_llm(
    settings: LlmSettings, seed: int, log: Callable[[dict[str, Any]], None]
) -> tuple[Any, Any, dict[str, float]]:
    """Train tokenizer and LLM.

    Returns:
        The model, its tokenizer, and its exact-match accuracy on unseen text scenes by kind of question.
    """
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(_text(dialogues(seed, 0, _CORPUS)), settings.vocabulary)
    word_ids = _WordIds(tokenizer)
    model = _new_model(settings, tokenizer)
    renderer = Renderer(TEMPLATE, tokenizer, _IMAGE_TOKEN, GRID**2)
    optimizer = MuonAdamW(model.get_decoder().layers, model, settings.peak, weight_decay=0.01)
    seen, start = 0, time.monotonic()
    with meter("training the starter LLM", settings.dialogues) as progress:
        for step, group in enumerate(_groups(renderer, settings, seed)):
            rate = settings.peak * schedule(seen, settings.dialogues, 0.03)
            loss = _step(model, optimizer, group, word_ids, settings.noise, rate)
            seen += len(group)
            progress.advance(f"loss {loss:.3f}", len(group))
            if step % 50 == 0:
                log(
                    {
                        "part": "llm",
                        "step": step,
                        "seen": seen,
                        "loss": loss,
                        "seconds": time.monotonic() - start,
                    }
                )
            if step % 500 == 499:
                log({"part": "llm", "step": step, **text_accuracy(model, renderer, word_ids, seed, 200)})
    return model, tokenizer, text_accuracy(model, renderer, word_ids, seed, 1000)


def _new_model(settings: LlmSettings, tokenizer: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=settings.vocabulary,
            hidden_size=settings.width,
            intermediate_size=settings.inner,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            num_key_value_heads=settings.heads,
            max_position_embeddings=2048,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            tie_word_embeddings=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )
    _begin_with_words_alone(model)
    prepare(model)
    return model


@torch.no_grad()
def _begin_with_words_alone(model: Any) -> None:
    """Random weights from which a word of a question soon finds the same word in the map.

    Words begin large and all different, and what layers add begins at zero, so that at first the residual
    stream is the word itself.
    """
    for name, weight in model.named_parameters():
        if name.endswith("embed_tokens.weight"):
            weight.normal_(std=1.0)
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            weight.zero_()
        elif name.endswith("_proj.weight"):
            weight.normal_(std=weight.shape[1] ** -0.5)


class _WordIds:
    """A dialogue's map as token ids: what each cell says, three words at once."""

    def __init__(self, tokenizer: Any) -> None:
        self._ids = {}
        for word in cell_words():
            ids = tokenizer.encode(f" {word}", add_special_tokens=False)
            assert len(ids) == 1, f"{word!r} takes {len(ids)} tokens; the vocabulary is too small"
            self._ids[word] = ids[0]

    def __call__(self, dialogues: Sequence[Dialogue]) -> Tensor:
        """Ids [cells, 3] of all the dialogues' cells, one after another."""
        rows = [[self._ids[word] for word in cell] for dialogue in dialogues for cell in dialogue.cells]
        return torch.tensor(rows, dtype=torch.long).reshape(-1, 3)


def _text(dialogues: Iterator[Dialogue]) -> Iterator[str]:
    """What the tokenizer learns from: dialogues as the template writes them, and the words of cells."""
    for dialogue in dialogues:
        for question, answer in questions_and_answers(dialogue.conversation):
            yield f"{TEMPLATE.human}{question} {TEMPLATE.gpt} {answer}"
        yield "".join(f" {word}" for cell in dialogue.cells for word in cell)


def _groups(renderer: Renderer, settings: LlmSettings, seed: int) -> Iterator[list[_Sample]]:
    """Fresh dialogues, like lengths together, about as many tokens in each group."""
    rng = random.Random(f"llm order/{seed}")
    for start in range(0, settings.dialogues, _POOL):
        count = min(_POOL, settings.dialogues - start)
        pool = [_Sample(d, renderer.encode(d.conversation)) for d in dialogues(seed, start, count)]
        pool.sort(key=lambda sample: len(sample.encoded.ids))
        groups: list[list[_Sample]] = [[]]
        for sample in pool:
            if (len(groups[-1]) + 1) * len(sample.encoded.ids) > settings.tokens:
                groups.append([])
            groups[-1].append(sample)
        rng.shuffle(groups)
        yield from groups


def _step(
    model: Any,
    optimizer: MuonAdamW,
    group: Sequence[_Sample],
    word_ids: _WordIds,
    noise: float,
    rate: float,
) -> float:
    logits, targets = _predict(model, group, word_ids, noise)
    loss = nn.functional.cross_entropy(logits, targets)
    loss.backward()
    optimizer.step(rate)
    return loss.item()


def _predict(
    model: Any, group: Sequence[_Sample], word_ids: _WordIds, noise: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Logits and targets at the supervised positions.

    A cell's embedding, where a patch's will stand, is the sum of its words' embeddings; ``noise`` blurs it,
    as no connector will ever hit a word exactly.
    """
    trees = [Tree((number,), 0, (len(sample.encoded.ids),)) for number, sample in enumerate(group)]
    batch = to_batch(flatten(trees, [[sample.encoded] for sample in group], _IMAGE_TOKEN))
    embed = model.get_input_embeddings()
    cells = embed(word_ids([sample.dialogue for sample in group])).sum(1)
    if noise and len(cells):
        cells = cells + noise * cells.detach().std() * torch.randn_like(cells)
    places = (batch.ids == _IMAGE_TOKEN)[..., None]
    hidden = model.get_decoder()(
        inputs_embeds=embed(batch.ids).masked_scatter(places, cells),
        position_ids=batch.positions,
        attention_mask=given_mask(batch.ids.device),
        layout=Layout(batch.trees),
        use_cache=False,
    ).last_hidden_state
    return model.get_output_embeddings()(hidden[0, batch.sources]), batch.targets


@torch.no_grad()
def text_accuracy(
    model: Any, renderer: Renderer, word_ids: _WordIds, seed: int, scenes: int
) -> dict[str, float]:
    """Share of short answers that greedy decoding would write exactly, given the dialogue before them."""
    right: dict[str, list[bool]] = defaultdict(list)
    unseen = [_Sample(d, renderer.encode(d.conversation)) for d in dialogues(seed, _UNSEEN, scenes)]
    for start in range(0, len(unseen), 64):
        group = unseen[start : start + 64]
        logits, targets = _predict(model, group, word_ids)
        for kind, correct in _by_question(group, (logits.argmax(-1) == targets).tolist()):
            right[kind].append(correct)
    kinds = {kind: sum(values) / len(values) for kind, values in sorted(right.items())}
    short = [value for kind, values in right.items() if kind in QUESTION_KINDS for value in values]
    return {"accuracy": sum(short) / max(1, len(short)), **kinds}


def _by_question(group: Sequence[_Sample], hits: list[bool]) -> Iterator[tuple[str, bool]]:
    """Whether each answer, its STOP included, was right as a whole."""
    position = 0
    for sample in group:
        pairs = questions_and_answers(sample.dialogue.conversation)
        for (question, _), length in zip(pairs, _answer_lengths(sample.encoded), strict=True):
            kind = kind_of_question(question.split("\n")[-1]) or "other"
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

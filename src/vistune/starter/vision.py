"""Train the starter vision encoder: a small CLIP, contrastively, with a text tower that is not shipped.

All against the text tower: a picture is told from others by captions (CLIP). A patch is told by words: the
one for the thing whose centre lies in it or for the background there, the letter of its column and the digit
of its row. That is what makes patches keep what is where, in the words that the LLM's maps are made of.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vistune.data.images import Preprocessor
from vistune.data.world.captions import captions
from vistune.data.world.render import render
from vistune.data.world.scene import CANVAS, catalogue, draw_scene
from vistune.model.vision import VisionEncoder
from vistune.processes import spread
from vistune.progress import meter, track
from vistune.starter.language import COLUMNS, GRID, ROWS
from vistune.starter.optimizers import MuonAdamW
from vistune.train.stage import schedule

PART = "starter-vision"  # this world's part that nothing else draws from
LAYER = -2  # the layer that LLaVA reads, and so the one that learns words
_UNSEEN = 10_000_000  # scenes from here on are never trained on
_WORD_SHARE = 0.25  # weight of an empty patch beside one with a thing in it
_PREPROCESS = Preprocessor(
    24 * GRID, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
)


@dataclass(frozen=True)
class VisionSettings:
    width: int = 192
    layers: int = 5
    heads: int = 6
    inner: int = 768
    joint: int = 128  # width of the space that pictures and texts share
    batch_size: int = 128
    scenes: int = 48_000
    epochs: int = 5
    peak: float = 2e-3


@dataclass(frozen=True)
class _Scenes:
    """S scenes: squares [S, size, size, 3] 8-bit; captions; word numbers [S, patches]."""

    squares: np.ndarray
    captions: list[list[str]]
    words: np.ndarray


def vocabulary() -> list[str]:
    """The words a patch is told from: backgrounds, then categories."""
    return [*catalogue().backgrounds, *catalogue().categories]


def build_vision(
    settings: VisionSettings, tokenizer: Any, seed: int, log: Callable[[dict[str, Any]], None]
) -> tuple[Any, Preprocessor, dict[str, float]]:
    """Train the encoder.

    Returns:
        The model, its preprocessing, and its scores on unseen scenes: retrieval in 128, and the share of
        patches (with a thing; without) whose word is right, and of those whose column and row are.
    """
    torch.manual_seed(seed)
    scenes, unseen = paint(seed, 0, settings.scenes), paint(seed, _UNSEEN, 1024)
    towers = _Towers(settings, tokenizer)
    optimizer = MuonAdamW(towers.transformer_layers(), towers, settings.peak, weight_decay=0.05)
    per_epoch = settings.scenes // settings.batch_size
    steps, start = per_epoch * settings.epochs, time.monotonic()
    rng = random.Random(f"vision order/{seed}")
    with meter("training the starter encoder", steps) as progress:
        for step in range(steps):
            if step % per_epoch == 0:
                numbers = rng.sample(range(settings.scenes), settings.scenes)
            first = step % per_epoch * settings.batch_size
            batch = numbers[first : first + settings.batch_size]
            texts = [rng.choice(scenes.captions[number]) for number in batch]
            loss_caption, loss_word, loss_place = towers.losses(scenes, batch, texts)
            rate = settings.peak * schedule(step, steps, 0.03)
            (loss_caption + loss_word + loss_place).backward()
            optimizer.step(rate)
            progress.advance(f"captions {loss_caption:.3f}, words {loss_word:.3f}")
            if step % 50 == 0 or step == steps - 1:
                seconds = time.monotonic() - start
                log(
                    {
                        "part": "vision",
                        "step": step,
                        "loss_captions": loss_caption.item(),
                        "loss_words": loss_word.item(),
                        "loss_places": loss_place.item(),
                        "seconds": seconds,
                    }
                )
            if step % per_epoch == per_epoch - 1:
                log({"part": "vision", "step": step, **towers.scores(unseen)})
    _unit_scale(towers.vision, towers.features(unseen, range(256)))
    return towers.vision, _PREPROCESS, towers.scores(unseen)


def paint(seed: int, start: int, count: int, workers: int = 2) -> _Scenes:
    """Paint scenes ``start`` to ``start + count`` as the encoder will see them."""
    results = spread(partial(_paint_one, seed), range(start, start + count), workers)
    painted = list(track(results, "painting scenes", total=count))
    squares, texts, words = zip(*painted, strict=True)
    return _Scenes(np.stack(squares), list(texts), np.stack(words))


def _paint_one(seed: int, index: int) -> tuple[np.ndarray, list[str], np.ndarray]:
    scene = draw_scene(PART, seed, index)
    picture, drawn = render(scene)
    words = np.full((GRID, GRID), vocabulary().index(scene.background))
    for item in drawn:
        x, y, width, height = item.bbox
        column, row = (2 * x + width) * GRID // (2 * CANVAS), (2 * y + height) * GRID // (2 * CANVAS)
        words[row, column] = vocabulary().index(item.category)
    return np.asarray(_PREPROCESS.square(picture)), captions(scene, drawn), words.reshape(-1)


class _Towers(nn.Module):
    """The vision encoder, and the text tower that teaches it."""

    def __init__(self, settings: VisionSettings, tokenizer: Any) -> None:
        super().__init__()
        self.vision = _new_encoder(settings)
        self.text = _TextTower(settings.joint, tokenizer)
        self.from_picture = nn.Linear(settings.width, settings.joint, bias=False)
        self.from_patch = nn.Linear(settings.width, settings.joint)
        self.scales = nn.Parameter(torch.full((2,), math.log(1 / 0.07)))

    def transformer_layers(self) -> list[nn.Module]:
        return [*_core(self.vision).encoder.layers, *self.text.layers.layers]

    def encode(self, scenes: _Scenes, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Unit vectors of pictures [N, joint] and of their patches [N, patches, joint]."""
        pixels = np.stack([_PREPROCESS.normalise(scenes.squares[number]) for number in numbers])
        output = self.vision(torch.from_numpy(pixels), output_hidden_states=True)
        pictures = self.from_picture(output.pooler_output)
        patches = self.from_patch(output.hidden_states[LAYER][:, 1:])
        return nn.functional.normalize(pictures, dim=-1), nn.functional.normalize(patches, dim=-1)

    def losses(
        self, scenes: _Scenes, numbers: Sequence[int], texts: list[str]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The contrasts of pictures and captions, of patches and things, and of patches and places."""
        pictures, patches = self.encode(scenes, numbers)
        captioned, words, columns, rows = self.text([*texts, *vocabulary(), *COLUMNS, *ROWS]).split(
            [len(texts), len(vocabulary()), GRID, GRID]
        )
        caption_scale, word_scale = self.scales.exp().clamp(max=100)
        alike = caption_scale * pictures @ captioned.T
        same = torch.arange(len(texts))
        loss_caption = (
            nn.functional.cross_entropy(alike, same) + nn.functional.cross_entropy(alike.T, same)
        ) / 2
        targets = torch.from_numpy(scenes.words[list(numbers)]).reshape(-1)
        each = nn.functional.cross_entropy(
            (word_scale * patches @ words.T).flatten(0, 1), targets, reduction="none"
        )
        empty = targets < len(catalogue().backgrounds)
        weights = torch.where(empty, _WORD_SHARE, 1.0)
        across, along = _places(len(numbers))
        loss_place = nn.functional.cross_entropy((word_scale * patches @ columns.T).flatten(0, 1), across)
        loss_place = loss_place + nn.functional.cross_entropy(
            (word_scale * patches @ rows.T).flatten(0, 1), along
        )
        return loss_caption, (each * weights).sum() / weights.sum(), loss_place

    @torch.no_grad()
    def scores(self, unseen: _Scenes) -> dict[str, float]:
        self.eval()
        found, hits, placed = [], [], []
        words, columns, rows = self.text(vocabulary()), self.text([*COLUMNS]), self.text([*ROWS])
        across, along = _places(128)
        for start in range(0, len(unseen.captions), 128):
            numbers = range(start, start + 128)
            pictures, patches = self.encode(unseen, numbers)
            places = self.text([unseen.captions[number][1] for number in numbers])
            found.append((pictures @ places.T).argmax(1) == torch.arange(128))
            hits.append((patches @ words.T).argmax(-1) == torch.from_numpy(unseen.words[list(numbers)]))
            flat = patches.flatten(0, 1)
            placed.append(((flat @ columns.T).argmax(1) == across) & ((flat @ rows.T).argmax(1) == along))
        self.train()
        right = torch.cat(hits)
        empty = torch.from_numpy(unseen.words < len(catalogue().backgrounds))
        return {
            "retrieval_in_128": torch.cat(found).float().mean().item(),
            "patches_with_a_thing": right[~empty].float().mean().item(),
            "patches_without": right[empty].float().mean().item(),
            "patches_placed": torch.cat(placed).float().mean().item(),
        }

    @torch.no_grad()
    def features(self, scenes: _Scenes, numbers: Sequence[int]) -> Tensor:
        """What LLaVA will read: [N, patches, width]."""
        pixels = np.stack([_PREPROCESS.normalise(scenes.squares[number]) for number in numbers])
        return VisionEncoder(self.vision, LAYER)(torch.from_numpy(pixels))


class _TextTower(nn.Module):
    """A small transformer whose mean over a text's tokens is its meaning."""

    def __init__(self, width: int, tokenizer: Any) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        self.tokens = nn.Embedding(len(tokenizer), width)
        self.positions = nn.Embedding(96, width)
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, texts: list[str]) -> Tensor:
        """Unit vectors [N, joint]."""
        ids = self._tokenizer(
            [f" {text}" for text in texts], return_tensors="pt", padding=True, truncation=True, max_length=96
        )
        mask = ids["attention_mask"].bool()
        states = self.tokens(ids["input_ids"]) + self.positions.weight[: mask.shape[1]]
        states = self.layers(states, src_key_padding_mask=~mask)
        mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return nn.functional.normalize(self.out(mean), dim=-1)


def _places(scenes: int) -> tuple[Tensor, Tensor]:
    """Numbers of the columns and of the rows of all patches of so many scenes, [scenes * patches] each."""
    cells = torch.arange(GRID**2).repeat(scenes)
    return cells % GRID, cells // GRID


def _new_encoder(settings: VisionSettings) -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    return CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=settings.width,
            intermediate_size=settings.inner,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            image_size=_PREPROCESS.size,
            patch_size=_PREPROCESS.size // GRID,
            projection_dim=settings.joint,
            hidden_act="gelu",
        )
    )


@torch.no_grad()
def _unit_scale(encoder: Any, features: Tensor) -> None:
    """Give the features unit size, so that any connector starts well.

    The layers normalise what they read, so scaling all that is written to the residual stream changes its
    size and nothing else.
    """
    scale = 1.0 / features.pow(2).mean().sqrt()
    core = _core(encoder)
    writers = [core.pre_layrnorm]
    for layer in core.encoder.layers:
        writers += [layer.self_attn.out_proj, layer.mlp.fc2]
    for module in writers:
        module.weight.mul_(scale)
        module.bias.mul_(scale)


def _core(encoder: Any) -> Any:
    """The encoder itself; some versions of transformers wrap it once more."""
    return getattr(encoder, "vision_model", encoder)

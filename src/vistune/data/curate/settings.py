"""What a curation is asked for, and what it tells."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vistune.data.curate.pairs import LONGEST
from vistune.data.curate.phrases import Normalisation
from vistune.data.curate.select import Rule
from vistune.data.records import FORMATS
from vistune.errors import VistuneError

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Settings:
    """Every choice of a curation.

    Attributes:
        model: spaCy model, by name or folder; None: the first installed default model.
        workers: processes that find noun phrases; None: one for each core (on Ray: of the cluster).
        engine: ``local`` or ``ray``; both select the same captions.
        format: of the kept pairs, ``json``, ``jsonl`` or ``parquet``.
        longest: captions of more characters are set aside.
    """

    rule: Rule = field(default_factory=Rule)
    normalisation: Normalisation = field(default_factory=Normalisation)
    seed: int = 0
    model: str | None = None
    workers: int | None = None
    engine: str = "local"
    format: str = "json"
    longest: int = LONGEST

    def __post_init__(self) -> None:
        for name, value, known in (("engine", self.engine, ENGINES), ("format", self.format, FORMATS)):
            if value not in known:
                raise VistuneError(f"Unknown {name} {value!r}. Choose: {', '.join(known)}.")
        if self.longest < 1 or (self.workers is not None and self.workers < 1):
            raise VistuneError("longest and workers must be at least 1.")


@dataclass(frozen=True)
class Curated:
    """The statistics of a curation.

    Attributes:
        captions: those that could be used, of all files.
        unique_phrases: distinct noun phrases of all captions.
        phrases_kept: those of ``min_count`` or more, by which captions are chosen.
        phrases_capped: those of more than ``cap``.
        kept: captions chosen.
        unique_phrases_after: distinct noun phrases of the chosen captions.
        without_phrase: captions in which no noun phrase was found.
        set_aside: rows that could not be used, by reason.
        seconds: of this run; an interrupted one goes on where it stopped.
    """

    captions: int
    unique_phrases: int
    phrases_kept: int
    phrases_capped: int
    kept: int
    unique_phrases_after: int
    without_phrase: int
    set_aside: dict[str, int]
    seconds: float

    def summary(self) -> dict[str, Any]:
        """What ``--json`` writes."""
        return {
            "captions": self.captions,
            "unique_phrases": self.unique_phrases,
            "phrases_kept": self.phrases_kept,
            "kept": self.kept,
            "seconds": self.seconds,
        }

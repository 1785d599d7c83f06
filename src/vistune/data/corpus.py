"""A stage's data: encoded samples behind an Arrow memory map, so that their number costs no memory.

The first start reads and encodes the files and looks at each picture's header; later ones find all that in
the cache. Whatever the ids depend on is written there, and a change of it prepares them anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from vistune import __version__
from vistune.data.corpus_store import Samples
from vistune.data.images import Flaw
from vistune.data.looks import look_at_pictures
from vistune.data.mix import Mix
from vistune.data.pictures import Pictures, PictureSources
from vistune.data.prepare import PROBLEMS, SETTINGS, Encoder, SourceFile, prepare
from vistune.errors import Problem, VistuneError
from vistune.recipe import StageRecipe
from vistune.template import Encoded, Renderer


class Corpus:
    """The records of a stage that can be trained on, R of them.

    Attributes:
        lengths: tokens of each record, int32 [R].
        supervised: trained positions of each, int32 [R].
        prefixes: leading tokens of each that may be shared, up to the last patch before anything is trained
            on, int32 [R]; 0 where no picture stands there.
        groups: int64 [R], equal exactly where the leading tokens and their pictures are.
        files: which of the stage's files each is from, int32 [R].
        problems: what was set aside.
        cut: samples that were shortened, at a turn's end.
        sources: opens the pictures, by the names that samples have for them.
    """

    def __init__(
        self,
        samples: Samples,
        flaws: Mapping[str, Flaw],
        problems: list[Problem],
        cut: int,
        sources: PictureSources,
        stage: StageRecipe,
        seed: int,
    ) -> None:
        flawed = samples.rows_with(list(flaws))
        self._samples, self._rows = samples, np.flatnonzero(~flawed)
        self.sources, self.cut = sources, cut
        self.problems = problems + list(_picture_problems(samples, np.flatnonzero(flawed), flaws))
        self.lengths, self.supervised = samples.lengths[self._rows], samples.supervised[self._rows]
        self.prefixes, self.groups = samples.prefixes[self._rows], samples.groups[self._rows]
        self.files = samples.files[self._rows]
        self._stage, self._seed = stage, seed

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, record: int) -> Encoded:
        return self._samples[int(self._rows[record])]

    def place(self, record: int) -> str:
        """The file and line that a record is from."""
        return self._samples.place(int(self._rows[record]))

    def pictures(self, records: np.ndarray | None = None) -> list[str]:
        """Names of the pictures that ``records`` show, or all records, each once."""
        return self._samples.names_in(self._rows if records is None else self._rows[records])

    def count_pictures(self, steps: Sequence[np.ndarray]) -> int:
        """Count the pictures of ``steps``, given by their records, each once a step."""
        if not steps:
            return 0
        parts = np.repeat(np.arange(len(steps)), [len(records) for records in steps])
        return self._samples.count_in(self._rows[np.concatenate(steps)], parts)

    @cached_property
    def selection(self) -> Mix:
        """Which records each epoch shows."""
        sources = list(self._stage.data.values())
        files = [np.flatnonzero(self.files == number) for number in range(len(sources))]
        passes, shares = [source.passes for source in sources], [source.share for source in sources]
        return Mix(files, passes, self._stage.mix, self._seed, shares)


def load_corpus(
    stage: StageRecipe,
    folder: Path,
    images: Path,
    renderer: Renderer,
    max_length: int,
    seed: int,
    cache: Path,
    picture: str = "written",
) -> Corpus:
    """Open a stage's data, preparing what the cache does not hold.

    Args:
        folder: what names of data files, and of their own places of pictures, are relative to.
        images: where pictures lie otherwise; see :class:`vistune.data.pictures.Pictures`.
        max_length: a longer sample is cut at a turn's end, or set aside where its first answer is too long.
        seed: of shares of files, and of what is no whole number of passes.
        cache: a folder; several stages, and processes at the same time, may share it.
        picture: where a question's picture stands: ``written``, or ``first``.

    Raises:
        VistuneError: a file or a place of pictures cannot be read, or nothing is left of a file; or the stage
            trains only what reads pictures, and no record shows one.
    """
    labels = _labels(stage, folder, images)
    files = [SourceFile(folder / name, labels[name]) for name in stage.data]
    encoder = Encoder(renderer, renderer.image_token, renderer.patches, max_length, picture)
    settings = _settings(files, encoder)
    places = {label: folder / label if label else images for label in labels.values()}
    sources = PictureSources({label: Pictures(root, cache / "archives") for label, root in places.items()})
    home = cache / _name(files, encoder)
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "corpus.lock"):
        if not _is_fresh(home / SETTINGS, settings):
            prepare(files, encoder, home, settings)
        samples = Samples(home, encoder.image_token, encoder.patches)
        flaws = look_at_pictures(samples, sources, home / "looks.json")
    cut = json.loads((home / SETTINGS).read_text(encoding="utf-8"))["cut"]
    problems = [Problem(**json.loads(line)) for line in (home / PROBLEMS).open(encoding="utf-8")]
    corpus = Corpus(samples, flaws, problems, cut, sources, stage, seed)
    _refuse_empty(corpus, files)
    _refuse_blind(corpus, stage)
    return corpus


def _labels(stage: StageRecipe, folder: Path, images: Path) -> dict[str, str]:
    """For each file the label of its place of pictures; empty where that is the run's."""
    default = images.resolve()
    return {
        name: source.images if source.images and (folder / source.images).resolve() != default else ""
        for name, source in stage.data.items()
    }


def _settings(files: Sequence[SourceFile], encoder: Encoder) -> dict[str, Any]:
    """All that samples depend on."""
    return {
        "vistune": __version__,
        "files": [[*_identity(file.path), file.label] for file in files],
        "template": asdict(encoder.renderer.template),
        "tokenizer": _tokenizer_digest(encoder.renderer.tokenizer),
        "image_token": encoder.image_token,
        "patches": encoder.patches,
        "max_length": encoder.max_length,
        "picture": encoder.picture,
    }


def _identity(path: Path) -> list[Any]:
    try:
        status = path.stat()
    except OSError as error:
        raise VistuneError(f"{path}: cannot be read ({error.strerror}). Check the data folder.") from error
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]


def _tokenizer_digest(tokenizer: Any) -> str:
    if getattr(tokenizer, "is_fast", False):
        return _digest(tokenizer.backend_tokenizer.to_str())
    return _digest([type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())])


def _name(files: Sequence[SourceFile], encoder: Encoder) -> str:
    """Stages that read the same files in the same way share a folder; its content may still be stale."""
    same = [[str(file.path.resolve()), file.label] for file in files]
    return f"corpus-{_digest([same, encoder.renderer.template.name, encoder.picture])}"


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _is_fresh(path: Path, settings: dict[str, Any]) -> bool:
    if not path.exists():
        return False
    kept = json.loads(path.read_text(encoding="utf-8"))["settings"]
    return bool(kept == json.loads(json.dumps(settings)))


def _picture_problems(samples: Samples, rows: np.ndarray, flaws: Mapping[str, Flaw]) -> Iterator[Problem]:
    """A problem for each sample with a flawed picture."""
    for row in rows:
        name = next(name for name in samples[row].pictures if name in flaws)
        flaw = flaws[name]
        yield Problem(samples.place(row), flaw.reason, f"{name} {flaw.detail}".rstrip())


def _refuse_blind(corpus: Corpus, stage: StageRecipe) -> None:
    if "llm" not in stage.trains and not corpus.pictures():
        raise VistuneError(
            f"{', '.join(stage.data)}: no record shows a picture, and the stage trains only "
            f"{', '.join(stage.trains)}, which learns from pictures. Choose other `data`, or "
            "add llm to `trains`."
        )


def _refuse_empty(corpus: Corpus, files: Sequence[SourceFile]) -> None:
    left = np.bincount(corpus.files, minlength=len(files))
    for file, count in zip(files, left, strict=True):
        if count:
            continue
        own = (problem for problem in corpus.problems if problem.place.startswith(f"{file.path}:"))
        if first := next(own, None):
            detail = f" ({first.detail})" if first.detail else ""
            what = f"no record is left to train on. First problem: {first.place}: {first.reason}{detail}."
        else:
            what = "holds no record."
        raise VistuneError(f"{file.path}: {what} `vistune check` lists what is wrong with a file.")

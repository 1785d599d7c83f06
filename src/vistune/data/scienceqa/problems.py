"""ScienceQA's files: ``problems.json`` and ``pid_splits.json``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vistune.data.scienceqa.problem import ScienceProblem, to_problem
from vistune.data.text import excerpt, refuse_other_encodings
from vistune.errors import Problem, VistuneError

SPLITS = ("train", "val", "test")  # every problem is in one; the others are made of these
OFFICIAL_SIZES = {
    "train": 12726, "val": 4241, "test": 4241, "trainval": 16967,
    "minitrain": 1272, "minival": 424, "minitest": 424,
}  # fmt: skip
UNUSABLE = "unusable problem"


@dataclass(frozen=True)
class Problems:
    """The problems of a file or of one of its splits, in its order, and what could not be used."""

    problems: list[ScienceProblem]
    set_aside: list[Problem]


def read_problems(path: Path, splits: Path | None = None, split: str | None = None) -> Problems:
    """Read a problems file.

    Args:
        splits: the file of lists of problem ids, ``pid_splits.json``. Without it, a problem's own ``split``
            says where it belongs.
        split: the one that is meant. None takes test where the problems name their splits, all otherwise.

    Raises:
        VistuneError: a file cannot be read, there is no such split, or nothing can be used.
    """
    if splits is not None and split is None:
        raise VistuneError(f"--splits {splits} would be ignored; name one of its splits with --split.")
    content, twice = _read_object(path, "problems by their ids")
    lists = read_splits(splits) if splits else {}
    homes = {name: home for home in SPLITS for name in lists.get(home, ())}
    by_own = splits is None and any(isinstance(row, dict) and row.get("split") for row in content.values())
    wanted = _of_own_split(path, content, split) if by_own else _of_lists(path, content, lists, split)
    found: list[ScienceProblem] = []
    set_aside: list[Problem] = []
    for name in wanted:
        try:
            if name in twice:
                raise ValueError("its id occurs twice; neither is used")
            if name not in content:
                raise ValueError("it is in the split, but not among the problems")
            problem = to_problem(name, content[name], homes.get(name, ""))
            if by_own and not problem.split:
                raise ValueError("`split`: missing, while other problems have one")
            found.append(problem)
        except ValueError as error:
            set_aside.append(Problem(f"{path}: problem {name}", UNUSABLE, str(error)))
    if not found:
        why = f" The first: {set_aside[0].place}: {set_aside[0].detail}." if set_aside else ""
        raise VistuneError(f"{path}: holds no problem{f' of split {split}' if split else ''} to use.{why}")
    return Problems(found, set_aside)


def read_splits(path: Path) -> dict[str, list[str]]:
    """Ids of problems by the name of their split, each id once.

    Raises:
        VistuneError: the file cannot be read, or is no such file.
    """
    content, _ = _read_object(path, "lists of problem ids by split")
    for name, ids in content.items():
        if not isinstance(ids, list) or not all(isinstance(each, str | int) for each in ids):
            raise VistuneError(f"{path}: split {name}: expected a list of problem ids, found {excerpt(ids)}.")
    return {name: list(dict.fromkeys(map(str, ids))) for name, ids in content.items()}


def official_size(split: str | None) -> int | None:
    """How many problems a published split has; of the test split, where none is named."""
    return OFFICIAL_SIZES.get(split or "test")


def _of_own_split(path: Path, content: Mapping[str, Any], split: str | None) -> list[str]:
    """Ids of the problems that say they are of ``split`` (None: test), or say nothing that can be used."""
    own = {name: row.get("split") if isinstance(row, dict) else None for name, row in content.items()}
    chosen, named = split or "test", sorted({home for home in own.values() if isinstance(home, str)})
    if chosen not in named:
        raise VistuneError(
            f"{path}: no problem is of split {chosen}; there are {', '.join(named)}. "
            f"{'Give --splits FILE, or another' if split else 'Name one with'} --split."
        )
    return [name for name, home in own.items() if home == chosen or not isinstance(home, str)]


def _of_lists(
    path: Path, content: Mapping[str, Any], lists: Mapping[str, Sequence[str]], split: str | None
) -> Iterable[str]:
    """Ids of the problems of a listed split; of all, where none is named."""
    if split is None:
        return list(content)
    if not lists:
        raise VistuneError(f"{path}: the problems do not say their split. Give --splits FILE.")
    if split not in lists:
        raise VistuneError(f"--split {split}: there is no such split. Choose of {', '.join(lists)}.")
    return lists[split]


def _read_object(path: Path, what: str) -> tuple[dict[str, Any], set[str]]:
    """A file that is one JSON object, and the keys that occur twice in an object of it."""
    twice: set[str] = set()

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            twice.update(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        return content

    try:
        data = path.read_bytes()
        refuse_other_encodings(path, data[:4])
        content = json.loads(data.decode("utf-8-sig"), object_pairs_hook=unique)
    except OSError as error:
        raise VistuneError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    except (ValueError, RecursionError) as error:
        raise VistuneError(f"{path}: not valid JSON ({error}). Expected {what}.") from error
    if not isinstance(content, dict) or not content:
        raise VistuneError(f"{path}: expected {what}, found {excerpt(content)}.")
    return content, twice

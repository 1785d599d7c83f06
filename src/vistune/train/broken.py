"""Pictures that turn out unreadable while a stage runs: counted and listed over all processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vistune.errors import Problem, VistuneError
from vistune.train.parallel import Team


class BrokenPictures:
    """The list of a stage; every process has all of it.

    Args:
        shown: names of the stage's pictures.
        tolerated: share of them that may be broken.
        known: what was found before the stage began, by name; other stages' pictures may be among them.
    """

    def __init__(
        self, shown: Iterable[str], tolerated: float, team: Team, known: Mapping[str, Problem] | None = None
    ) -> None:
        self._names = frozenset(shown)
        self._tolerated, self._team = tolerated, team
        self.found = {name: problem for name, problem in (known or {}).items() if name in self._names}

    def add(self, news: Mapping[str, Problem]) -> None:
        """Take what each process has found. All processes call this.

        Raises:
            VistuneError: on every process, if too many pictures are broken.
        """
        for found in self._team.gather(dict(news)):
            self.found |= found
        self.found = dict(sorted(self.found.items()))  # the same order on every process
        if len(self.found) > self._tolerated * len(self._names):
            first = next(iter(self.found.values()))
            raise VistuneError(
                f"{len(self.found)} pictures cannot be read, more than `run.bad_pictures` allows; the first: "
                f"{first.place}: {first.reason}{f' ({first.detail})' if first.detail else ''}. "
                "Mend them (`vistune check --decode` lists all), or allow more."
            )

    def state(self) -> dict[str, dict[str, Any]]:
        """Return what a save keeps."""
        return {name: vars(problem) for name, problem in self.found.items()}

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Take a save's list back."""
        self.found |= {name: Problem(**problem) for name, problem in state.items()}

"""The published rows that a score stands beside, with their sources."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from vistune.evaluate.score import Scored


@dataclass(frozen=True)
class Published:
    """One published row.

    Attributes:
        scores: by measure, in percent; only those that were published.
        decimals: how many its table gives.
        source: where it was published.
        remark: what to know before comparing; may be empty.
    """

    model: str
    scores: Mapping[str, float]
    decimals: int
    source: str
    remark: str = ""

    def cell(self, measure: str) -> str:
        """A score as it was published; empty where it was not."""
        return f"{self.scores[measure]:.{self.decimals}f}" if measure in self.scores else ""


def published_beside(runs: Sequence[Scored]) -> list[Published]:
    """The rows that these runs may stand beside; none where one is not the benchmark's whole score."""
    if not all(run.complete and not run.questions.part for run in runs):
        return []
    return published_rows(runs[0].bench.name, {name for run in runs for name in run.measures})


def published_rows(bench: str, measured: Collection[str]) -> list[Published]:
    """Rows of a benchmark that have some of the measures, in the order of their tables."""
    source = resources.files("vistune.evaluate").joinpath("published.yaml")
    tables = yaml.safe_load(source.read_text(encoding="utf-8")).get(bench, [])
    rows = [row for table in tables for row in _rows(table, measured)]
    return [row for row in rows if row.scores.keys() & set(measured)]


def _rows(table: Mapping[str, Any], measured: Collection[str]) -> list[Published]:
    columns = table["columns"]
    if not set(columns) & set(measured):
        columns = table.get("or", columns)
    values = [value for row in table["rows"].values() for value in row]
    decimals = max(len(str(value).partition(".")[2]) for value in values)
    return [
        Published(
            model,
            dict(zip(columns, row, strict=True)),
            decimals,
            table["source"],
            table.get("remark", ""),
        )
        for model, row in table["rows"].items()
    ]

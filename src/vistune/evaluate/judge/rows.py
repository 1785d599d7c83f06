"""Files of JSON lines; a line that is no object is set aside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vistune.errors import Problem
from vistune.lines import read_lines


def read_rows(path: Path, problems: list[Problem]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line's place and object; adds to ``problems`` what is none.

    Raises:
        VistuneError: the file cannot be read.
    """
    for number, line in read_lines(path):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.append(Problem(place, "not JSON", str(error)))
            continue
        if isinstance(row, dict):
            yield place, row
        else:
            problems.append(Problem(place, "not a JSON object", line[:80]))

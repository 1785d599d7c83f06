"""Print what vistune needs, one requirement a line, without torch and what cannot do without it.

    python tools/torchless.py > requirements.txt

For Pythons that there is no small torch for: most of vistune, data and serving's guards, needs none.
"""

from __future__ import annotations

import re
from pathlib import Path

import tomllib

_NEED_TORCH = {"torch", "torchao", "peft", "vistune"}
_TESTS = {"audit", "curate", "serve"}


def main() -> None:
    """Read ``pyproject.toml`` next to this folder."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    wanted = [*project["project"]["dependencies"], "pytest>=8.0", "pytest-timeout>=2.3", "hypothesis>=6.100"]
    wanted += [requirement for extra in sorted(_TESTS) for requirement in extras[extra]]
    for requirement in wanted:
        if re.split(r"[<>=\[;]", requirement)[0] not in _NEED_TORCH:
            print(requirement)


if __name__ == "__main__":
    main()

"""The table of LLMs in the docs is what the sweep finds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import transformers
from benchmarks.llm_sweep import try_type, types

PAGE = Path(__file__).parents[2] / "docs" / "llms.md"
ROWS = dict(
    re.findall(r"^\| (\S+) \| ((?:packed|padded|single|refused) \| \w*) \| .* \|$", PAGE.read_text(), re.M)
)

pytestmark = pytest.mark.skipif(
    f"transformers {transformers.__version__}," not in PAGE.read_text(),
    reason="docs/llms.md was made with another transformers",
)


def test_every_type_of_the_installed_transformers_is_told() -> None:
    assert sorted(ROWS) == types()


@pytest.mark.parametrize(
    "kind",
    ["llama", "qwen3", "gemma2", "mixtral", "diffllama", "qwen3_next", "jamba", "gpt_oss", "gpt2", "bloom"],
)
def test_a_type_is_computed_as_the_table_says(kind: str) -> None:
    found = try_type(kind)
    assert f"{found.rows} | {found.decodes}" == ROWS[kind]

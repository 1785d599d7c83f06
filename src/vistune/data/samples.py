"""Conversations of a LLaVA-format file, for what asks their questions; training reads a corpus."""

from __future__ import annotations

from pathlib import Path

from vistune.conversation import Conversation, from_json
from vistune.data.records import read_records
from vistune.errors import Problem


def read_conversations(path: Path) -> tuple[list[Conversation], list[Problem]]:
    """Read one file (JSON, JSON lines or Parquet); malformed records are set aside.

    Raises:
        VistuneError: the file cannot be read, or is malformed as a whole.
    """
    conversations, problems = [], []
    for record in read_records(path):
        if isinstance(record, Problem):
            problems.append(record)
            continue
        try:
            conversations.append(from_json(record.value))
        except ValueError as error:
            problems.append(Problem(record.place, "malformed record", str(error)))
    return conversations, problems

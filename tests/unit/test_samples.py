"""Conversations of a file, whichever of the formats it has."""

import json

import pytest

from vistune.data.records import write_records
from vistune.data.samples import read_conversations
from vistune.errors import VistuneError

RECORD = {
    "id": "1",
    "image": "a.jpg",
    "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A dog."}],
}


@pytest.mark.parametrize("kind", ["json", "jsonl", "parquet"])
def test_every_format_gives_the_same_conversations(tmp_path, kind):
    path = tmp_path / f"data.{kind}"
    write_records(path, [RECORD, {**RECORD, "id": "2"}])
    conversations, problems = read_conversations(path)
    assert [conversation.id for conversation in conversations] == ["1", "2"] and not problems
    assert conversations[0].pictures == ["a.jpg"] and conversations[0].turns[1].text == "A dog."


def test_malformed_records_are_set_aside_with_their_line(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(f'{json.dumps(RECORD)}\n{{"id":\n{json.dumps({"id": "3"})}\n')
    conversations, problems = read_conversations(path)
    assert len(conversations) == 1
    assert [(problem.place, problem.reason) for problem in problems] == [
        (f"{path}: line 2", "not valid JSON"),
        (f"{path}: line 3", "malformed record"),
    ]


def test_a_file_that_is_no_list_is_refused(tmp_path):
    (tmp_path / "data.json").write_text("{}")
    with pytest.raises(VistuneError, match=r"data\.json: line 1"):
        read_conversations(tmp_path / "data.json")

"""`vistune split`: pictures, never records, are held out."""

import json

import pyarrow
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from vistune.cli.main import app
from vistune.data.records import read_records, write_records
from vistune.data.split import Share, split
from vistune.errors import VistuneError


def record(name, image=None, answer="Yes."):
    mark = "<image>\n" if image else ""
    turns = [{"from": "human", "value": f"{mark}Is it?"}, {"from": "gpt", "value": answer}]
    return {"id": name, **({"image": image} if image else {}), "conversations": turns}


def write(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_records(path, records)
    return path


def values(path):
    return [item.value for item in read_records(path)] if path.exists() else []


def pictures(records):
    listed = ([r["image"]] if isinstance(r.get("image"), str) else r.get("image", []) for r in records)
    return {name for names in listed for name in names}


@pytest.fixture
def files(tmp_path):
    """Forty pictures with a dialogue each in two files, and text."""
    first = [record(f"a{n}", f"{n}.jpg") for n in range(40)]
    second = [record(f"b{n}", f"{n % 40}.jpg") for n in range(120)] + [
        record(f"t{n}", answer=f"Answer {n}.") for n in range(20)
    ]
    return [write(tmp_path / "a.json", first), write(tmp_path / "b.jsonl", second)]


def test_a_picture_is_on_one_side_over_all_files_and_nothing_is_lost(files, tmp_path):
    result = split(files, Share.parse("10%"), tmp_path / "out", 0)
    train, val = (
        [r for f in files for r in values(tmp_path / "out" / side / f.name)] for side in ("train", "val")
    )
    assert pictures(train).isdisjoint(pictures(val))
    assert (len(pictures(train)), len(pictures(val))) == (36, 4)
    assert sum("image" not in r for r in val) == 2
    whole = [r for f in files for r in values(f)]
    assert sorted(map(json.dumps, train + val)) == sorted(map(json.dumps, whole))
    assert result.records == {"a.json": {"train": 36, "val": 4}, "b.jsonl": {"train": 126, "val": 14}}
    assert result.pictures == {"train": 36, "val": 4}


def test_the_same_seed_is_the_same_split_and_another_is_not(files, tmp_path):
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        split(files, Share.parse("7"), tmp_path / name, seed)
    one, same, other = (pictures(values(tmp_path / n / "val" / "a.json")) for n in ("one", "same", "other"))
    assert len(one) == 7 and one == same != other


def test_pictures_of_one_record_stay_together(tmp_path):
    chain = [record("ab", ["a.jpg", "b.jpg"]), record("bc", ["b.jpg", "c.jpg"])]
    chain[0]["conversations"][0]["value"] = chain[1]["conversations"][0]["value"] = "<image><image>?"
    alone = [record(str(n), f"{n}.jpg") for n in range(9)]
    file = write(tmp_path / "d.json", chain + alone)
    for seed in range(8):
        split([file], Share.parse("30%"), tmp_path / str(seed), seed)
        val = pictures(values(tmp_path / str(seed) / "val" / "d.json"))
        assert val.isdisjoint("abc") and len(val & {"a.jpg", "b.jpg", "c.jpg"}) in (0, 3) and val


def test_parquet_keeps_its_other_columns(tmp_path):
    turns = [record("x", "y")["conversations"]] * 10
    table = pyarrow.table(
        {
            "id": [str(n) for n in range(10)],
            "image": [f"{n}.jpg" for n in range(10)],
            "conversations": turns,
            "score": list(range(10)),
        }
    )
    parquet.write_table(table, tmp_path / "d.parquet")
    split([tmp_path / "d.parquet"], Share.parse("3"), tmp_path / "out", 0)
    sides = [parquet.read_table(tmp_path / "out" / side / "d.parquet") for side in ("train", "val")]
    assert all(side.schema == table.schema for side in sides)
    assert sorted(n for side in sides for n in side.column("score").to_pylist()) == list(range(10))
    assert sides[1].num_rows == 3


def test_what_is_no_record_is_told_with_its_place(tmp_path):
    lines = [json.dumps(record(str(n), f"{n}.jpg")) for n in range(4)] + ["{torn", '{"image": 3}']
    (tmp_path / "d.jsonl").write_text("\n".join(lines) + "\n")
    result = split([tmp_path / "d.jsonl"], Share.parse("1"), tmp_path / "out", 0)
    assert [p.place.rpartition(":")[2] for p in result.problems] == [" line 5", " line 6"]
    assert result.records["d.jsonl"] == {"train": 3, "val": 1}


@pytest.mark.parametrize("text", ["5", "0%", "100%", "0", "-1", "many", "5%%", "0.05"])
def test_shares(text):
    if text == "5":
        assert Share.parse(text).count == 5
    else:
        with pytest.raises(VistuneError, match="expected a share"):
            Share.parse(text)


def test_what_would_be_overwritten_or_cannot_be_split_is_refused(files, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").touch()
    with pytest.raises(VistuneError, match="not an empty folder"):
        split(files, Share.parse("5%"), tmp_path / "out", 0)
    with pytest.raises(VistuneError, match="another file has this name"):
        split([files[0], write(tmp_path / "sub" / "a.json", [])], Share.parse("5%"), tmp_path / "new", 0)
    one = write(tmp_path / "one.json", [record("a", "x.jpg"), record("b", "x.jpg")])
    with pytest.raises(VistuneError, match="Too little"):
        split([one], Share.parse("5%"), tmp_path / "new", 0)
    assert not (tmp_path / "new").exists() and not (tmp_path / "new.part").exists()


def test_the_command_prints_the_counts(files, tmp_path):
    told = CliRunner().invoke(
        app, ["split", *map(str, files), "--val", "10%", "--out", str(tmp_path / "out")]
    )
    assert told.exit_code == 0, told.output
    assert "a.json: 36 records to train on, 4 held out" in told.output
    assert "pictures: 36 to train on, 4 held out" in told.output

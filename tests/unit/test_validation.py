"""Validation: what is measured, that training is not disturbed, the best checkpoint, and when to stop."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from vistune.conversation import from_json
from vistune.data.generation.generate import generate
from vistune.data.generation.plan import GenerationSettings
from vistune.data.pixels import PixelStore
from vistune.data.records import read_records, write_records
from vistune.data.sources.coco import load_coco
from vistune.data.teachers.scripted import OfflineTeacher
from vistune.errors import VistuneError
from vistune.model.checkpoint import load_checkpoint
from vistune.recipe import parse_recipe
from vistune.train import stage_run
from vistune.train.best import BestCheckpoint, HeldOutRow, best_of, without_gain
from vistune.train.loop import read_all_metrics, train
from vistune.train.plan.command import plan_run
from vistune.train.validation import HeldOut, read_validation

STAGE = {
    "trains": ["connector", "llm"],
    "data": {"conversation.json": 1},
    "learning_rate": 3e-3,
    "batch_size": 4,
    "epochs": 99,
    "max_steps": 6,
}
HELD_OUT = {"data": "../val/detail.json", "questions": "../val/conversation.json", "every": 2, "limit": 5}


@pytest.fixture(scope="module")
def data(tmp_path_factory, tiny_world):
    folder = tmp_path_factory.mktemp("data")
    for part in ("train", "val"):
        annotations = load_coco(
            tiny_world / f"captions_{part}.json", tiny_world / f"instances_{part}.json", tiny_world / "images"
        )
        generate(
            annotations,
            OfflineTeacher(annotations.categories),
            folder / part,
            GenerationSettings(seed=0, picture="first"),
        )
    return folder / "train"


def make_recipe(parts, validation=HELD_OUT, run=None, precision="float32", **stage):
    model = {**parts, "template": "short", "max_length": 512}
    described = {**STAGE, **stage, **({"validation": validation} if validation else {})}
    content = {"model": model, "stages": {"instruct": described}, "run": run or {}, "precision": precision}
    return parse_recipe(content, "test")


def weights(out, name="checkpoint"):
    return load_file(out / "instruct" / name / "model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def measured(out):
    rows = read_validation(out / "instruct" / "validation.jsonl")
    return [(row.step, row.loss, row.accuracy, row.questions) for row in rows]


def losses(out, recipe):
    return [row["loss"] for row in read_all_metrics(out, recipe)["instruct"]]


@pytest.mark.parametrize("run", [{}, {"features": "cache"}])
def test_a_run_with_validation_learns_what_one_without_learns(parts, data, images, tmp_path, run):
    plain, validated = make_recipe(parts, None, run), make_recipe(parts, run=run)
    train(plain, data, images, tmp_path / "plain")
    train(validated, data, images, tmp_path / "validated")
    assert losses(tmp_path / "plain", plain) == losses(tmp_path / "validated", validated)
    assert same(weights(tmp_path / "plain"), weights(tmp_path / "validated"))
    assert [row[0] for row in measured(tmp_path / "validated")] == [2, 4, 6]
    assert {row[3] for row in measured(tmp_path / "validated")} == {5}
    left = {path.name for path in (tmp_path / "validated" / "instruct").iterdir()}
    assert left == {"metrics.jsonl", "set_aside.jsonl", "checkpoint", "best", "validation.jsonl"}


def test_the_loss_is_the_mean_of_the_records_alone(parts, data, images, tmp_path):
    """Against the saved checkpoint, one record at a time, without any of the training's code."""
    train(make_recipe(parts), data, images, tmp_path / "run")
    checkpoint = load_checkpoint(tmp_path / "run" / "instruct" / "checkpoint")
    store = PixelStore(images, checkpoint.preprocess)
    total, count = 0.0, 0
    for record in read_records(data.parent / "val" / "detail.json"):
        sample = checkpoint.renderer.encode(from_json(record.value))
        ids, labels = torch.tensor([sample.ids]), torch.tensor(sample.labels)
        hidden = checkpoint.model.language_model.get_decoder()(
            inputs_embeds=checkpoint.model.embed(ids, store.load(sample.pictures)), use_cache=False
        ).last_hidden_state
        logits = checkpoint.model.head(hidden)[0, :-1]
        total += torch.nn.functional.cross_entropy(logits, labels[1:].long(), reduction="sum").item()
        count += int((labels[1:] != -100).sum())
    assert measured(tmp_path / "run")[-1][1] == pytest.approx(total / count, rel=1e-5)


def test_an_interrupted_run_equals_one_that_was_not_with_best_and_stop(
    parts, data, images, tmp_path, monkeypatch
):
    # So large a rate that the loss soon rises: the best comes early, and three evaluations later it stops.
    recipe = make_recipe(
        parts,
        {"data": "../val/detail.json", "every": 1, "stop_after": 3},
        {"save_steps": 2},
        learning_rate=0.3,
        max_steps=12,
        warmup_ratio=0.5,
    )
    train(recipe, data, images, tmp_path / "whole")
    whole = measured(tmp_path / "whole")
    assert len(whole) < 12 and len(losses(tmp_path / "whole", recipe)) == len(whole)
    best = min(whole, key=lambda row: row[1])
    assert whole.index(best) == len(whole) - 4
    take_step = stage_run.optimizer_step
    for number in range(2, len(whole) + 1):  # killed in every step, so before and after a save and the best
        calls = []

        def interrupted(*args, calls=calls, number=number):
            calls.append(None)
            if len(calls) == number:
                raise KeyboardInterrupt
            return take_step(*args)

        out = tmp_path / str(number)
        monkeypatch.setattr(stage_run, "optimizer_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, data, images, out)
        monkeypatch.setattr(stage_run, "optimizer_step", take_step)
        train(recipe, data, images, out)
        assert measured(out) == whole
        for name in ("best", "checkpoint"):
            assert same(weights(out, name), weights(tmp_path / "whole", name))
        assert json.loads((out / "instruct" / "best" / "validation.json").read_text())["step"] == best[0]
        assert not (out / "instruct" / "best.before").exists()


def test_questions_are_answered_by_the_decoder_and_decide_the_best(parts, data, images, tmp_path):
    """Held-out questions that are trained on: the model learns their answers, and their pictures are told."""
    asked = [{"id": str(n), "question": f"Is it {n}?", "answer": "Yes."} for n in range(3)]
    turns = [{"from": "human", "value": "Is it 1?"}, {"from": "gpt", "value": "Yes."}]
    folder = tmp_path / "data"
    folder.mkdir()
    write_records(folder / "text.json", [{"id": str(n), "conversations": turns} for n in range(8)])
    (folder / "asked.jsonl").write_text("".join(json.dumps(q) + "\n" for q in asked))
    recipe = make_recipe(
        parts,
        {"data": "text.json", "questions": "asked.jsonl", "every": 5},
        data={"text.json": 1},
        max_steps=40,
        epochs=99,
        learning_rate=1e-2,
    )
    train(recipe, folder, images, tmp_path / "run")
    rows = measured(tmp_path / "run")
    assert rows[-1][2] > 0.6 and rows[-1][3] == 3
    saved = json.loads((tmp_path / "run" / "instruct" / "best" / "validation.json").read_text())
    assert saved["accuracy"] == max(row[2] for row in rows)


def test_pictures_that_are_also_trained_on_are_told(parts, data, images, tmp_path, capsys):
    train(make_recipe(parts, {"data": "detail.json", "every": 6}), data, images, tmp_path / "run")
    told = " ".join(capsys.readouterr().err.split())
    assert "8 of 8 held-out pictures are also trained on" in told
    train(make_recipe(parts, {**HELD_OUT, "stop_after": 9}), data, images, tmp_path / "other")
    told = " ".join(capsys.readouterr().err.split())
    assert "also trained on" not in told
    assert "stops after 9 evaluations without a gain; the learning-rate schedule stays" in told
    assert "held out" in told and "best after step" in told


def test_a_dry_run_says_what_the_run_says(parts, data, images, tmp_path, capsys):
    recipe = make_recipe(parts, {**HELD_OUT, "stop_after": 9})
    plan_run(recipe, data, images, tmp_path / "run", 1)
    planned = " ".join(capsys.readouterr().out.split())
    train(recipe, data, images, tmp_path / "run")
    ran = " ".join(capsys.readouterr().err.split())
    held_out = ran[ran.index("held out: ") : ran.index("best/ is kept by accuracy, then loss")]
    assert held_out in planned and "measured every 2 steps, 3 times, about " in held_out
    assert "stops after 9 evaluations without a gain" in planned
    (data / "none.json").write_text("[]")
    for file, message in (("gone.json", r"gone\.json: no such file"), ("none.json", "holds no record")):
        recipe = make_recipe(parts, {"data": file})
        with pytest.raises(VistuneError, match=message):
            plan_run(recipe, data, images, tmp_path / "other", 1)
        with pytest.raises(VistuneError, match=message):
            train(recipe, data, images, tmp_path / "other")


@pytest.mark.parametrize("precision", ["bfloat16"])
def test_bfloat16(parts, data, images, tmp_path, precision):
    train(make_recipe(parts, precision=precision), data, images, tmp_path / "run")
    assert all(math.isfinite(row[1]) for row in measured(tmp_path / "run"))


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        ({"data": "nowhere.json"}, r"nowhere\.json: no such file"),
        ({"data": "detail.json", "questions": "nowhere.json"}, r"nowhere\.json: no such file"),
    ],
)
def test_files_that_are_missing_are_named_before_a_step_is_taken(
    parts, data, images, tmp_path, validation, message
):
    with pytest.raises(VistuneError, match=message):
        train(make_recipe(parts, validation), data, images, tmp_path / "run")
    assert not (tmp_path / "run" / "instruct" / "metrics.jsonl").exists()


def test_what_would_be_ignored_is_refused(parts):
    with pytest.raises(VistuneError, match="`limit` would be ignored"):
        make_recipe(parts, {"data": "a.json", "limit": 3})
    with pytest.raises(VistuneError, match=r"validation\.evry: unknown setting; did you mean 'every'"):
        make_recipe(parts, {"data": "a.json", "evry": 3})


def row(step, loss, accuracy=None):
    return HeldOutRow(step, loss, accuracy)


def test_the_best_is_the_first_by_accuracy_then_by_loss():
    rows = [row(1, 3.0, 0.5), row(2, 2.0, 0.5), row(3, 2.0, 0.5), row(4, 1.0, 0.4)]
    assert best_of(rows).step == 2 and without_gain(rows) == 2
    rows = [row(1, math.nan), row(2, 2.0), row(3, math.nan)]
    assert best_of(rows).step == 2 and without_gain(rows) == 1
    assert best_of([]) is None and without_gain([]) == 0


def test_a_best_checkpoint_that_was_undone_gives_way_to_the_one_before(tmp_path):
    best = BestCheckpoint(tmp_path)
    for step, saved in ((2, 0), (4, 3), (5, 3)):
        best.take(
            row(step, 1 / step), saved, lambda to, step=step: (to.mkdir(), (to / "w").write_text(str(step)))
        )
    assert (tmp_path / "best" / "w").read_text() == "5"
    BestCheckpoint(tmp_path).resume(3, row(2, 0.5))
    assert (tmp_path / "best" / "w").read_text() == "2"
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


@pytest.mark.parametrize(
    ("steps", "tokens", "every"),
    [(1000, 100, 50), (1000, 30_000, 1000), (1000, 3000, 100), (10, 100, 4), (3, 0, 1)],
)
def test_the_default_interval_follows_the_cost(tokenizer, steps, tokens, every):
    recipe = make_recipe({"vision": "v", "llm": "l"}, {"data": "a"}).stages["instruct"].validation
    assert HeldOut(recipe, None, [], [], tokens).every(steps, 1000.0) == every

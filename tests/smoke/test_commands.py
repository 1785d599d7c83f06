"""Each command as a user runs it, on the embedded starter parts."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vistune import __version__

VISTUNE = str(Path(sys.executable).with_name("vistune"))
SHORT = ("stages.align.max_steps=2", "stages.instruct.max_steps=2")


def vistune(*arguments, code=0, given=None):
    done = subprocess.run(
        [VISTUNE, *map(str, arguments)], capture_output=True, text=True, input=given, timeout=300, check=False
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done


def files_below(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A very short quickstart."""
    out = tmp_path_factory.mktemp("quickstart") / "run"
    started = time.monotonic()
    done = vistune("quickstart", "--out", out, "--images", 24, "--val", 6, *SHORT)
    return out, done.stdout, time.monotonic() - started


def test_quickstart_leaves_exactly_these_files(run):
    out, _, _ = run
    checkpoint = {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vistune.json",
    }
    stage = {"metrics.jsonl", "set_aside.jsonl"} | {f"checkpoint/{name}" for name in checkpoint}
    data = {
        "alignment.json",
        "conversation.json",
        "detail.json",
        "reasoning.json",
        "provenance.json",
        "provenance.jsonl",
        "quarantine.jsonl",
        "set_aside.jsonl",
        "settings.json",
    }
    world = {f"{kind}_{part}.json" for kind in ("captions", "instances") for part in ("train", "val")}
    pictures = {f"train_{i:06d}.jpg" for i in range(24)} | {f"val_{i:06d}.jpg" for i in range(6)}
    changing = (
        "train/cache/",
        "train/tensorboard/",
    )  # what is prepared, and event files with times in their names
    found = files_below(out)
    assert all(any(file.startswith(folder) for file in found) for folder in changing)
    assert {file for file in found if not file.startswith(changing)} == (
        {"metrics.json", "report.html", "steps.json", "quickstart.json"}
        | {"train/run.json", "train/run.lock", "train/curves.png"}
        | {f"model/{name}" for name in checkpoint}
        | {f"train/{name}/{file}" for name in ("align", "instruct") for file in stage}
        | {f"data/{part}/{file}" for part in ("train", "val") for file in data}
        | {f"world/{file}" for file in world}
        | {f"world/images/{file}" for file in pictures}
        | {
            f"evaluation/{file}"
            for file in (
                "answers.jsonl",
                "answers_blind.jsonl",
                "evaluation.json",
                "outcomes.jsonl",
                "outcomes_blind.jsonl",
                "scores.json",
                "set_aside.jsonl",
            )
        }
    )


def test_quickstart_tells_its_metrics_and_what_to_try_next(run):
    out, told, _ = run
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics["accuracy_by_kind"]) <= {"presence", "count", "position", "relation", "listing"}
    assert set(metrics["seconds_by_step"]) == {"world", "data", "train", "evaluation"}
    assert 0 <= metrics["blind_accuracy"] <= 1 and 0 <= metrics["accuracy"] <= 1
    assert metrics["seed"] == 0 and metrics["versions"]["vistune"] == __version__
    assert told.count("vistune chat") == 2
    for line in told.splitlines():
        if "vistune chat" in line:
            assert vistune(*line.split()[1:], "--ask", "What is in the picture?").stdout.strip()


def test_quickstart_is_done_at_once_the_second_time(run):
    out, told, took = run
    started = time.monotonic()
    again = vistune("quickstart", "--out", out, "--images", 24, "--val", 6, *SHORT)
    assert again.stdout == told
    assert time.monotonic() - started < took / 3


def test_quickstart_never_overwrites_another_run(run):
    out, _, _ = run
    before = (out / "metrics.json").read_bytes()
    refused = vistune("quickstart", "--out", out, "--seed", 1, code=2)
    assert "another recipe and another seed" in refused.stderr and "Traceback" not in refused.stderr
    assert (out / "metrics.json").read_bytes() == before


def test_the_steps_one_by_one(run, tmp_path):
    world, data = tmp_path / "world", tmp_path / "data"
    vistune("world", "--out", world, "--images", 8, "--val", 2, "--seed", 3)
    told = vistune(
        "generate",
        "--captions", world / "captions_train.json",
        "--instances", world / "instances_train.json",
        "--images", world / "images",
        "--out", data,
    ).stdout  # fmt: skip
    assert f"{data / 'conversation.json'}: 8" in told
    trained = vistune(
        "train", "starter", "--data", data, "--images", world / "images", "--out", tmp_path / "run", *SHORT
    ).stdout.strip()
    assert trained == str(tmp_path / "run" / "instruct" / "checkpoint")
    asked = ("own", "--data", data / "conversation.json", "--images", world / "images")
    first, whole = tmp_path / "first", tmp_path / "scores"
    table = vistune("evaluate", trained, *asked, "--out", whole, "--blind").stdout
    assert (whole / "report.html").exists()
    aligned = tmp_path / "run" / "align" / "checkpoint"
    assert "5 of own data's" in vistune("evaluate", aligned, *asked, "--out", first, "--limit", 5).stdout
    vistune("score", "own", whole / "answers.jsonl", "--json", tmp_path / "again.json")
    scores = json.loads((tmp_path / "again.json").read_text())["scores"]
    assert scores == json.loads((whole / "scores.json").read_text())["scores"]
    assert f"{scores['all']:.2f}" in table
    page = ("--images", world / "images", "--out", tmp_path / "page")
    assert "over 5 of" in vistune("compare", first, whole, *page).stdout
    assert (tmp_path / "page" / "compare.html").exists()


def test_a_dry_run_tells_what_is_learned_and_leaves_prepared_data_alone(run, tmp_path):
    out, _, _ = run
    data, images = out / "data" / "train", out / "world" / "images"
    done = vistune(
        "train", "starter", "--data", data, "--images", images, "--out", tmp_path / "run", "--dry-run"
    )
    for told in ("stage align", "stage instruct", "padded batches of 32", "memory on the device", "</s>]]"):
        assert told in done.stdout
    assert "trains: connector 37,056 parameters" in done.stdout and "</s>]]" not in done.stderr
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["cache"]
    refused = vistune(
        "train",
        "starter",
        "--data",
        data,
        "--images",
        images,
        "--out",
        tmp_path / "x",
        "--devices",
        2,
        code=2,
    )
    assert "--devices is for --dry-run" in refused.stderr
    asked = ("train", "starter", "--data", data, "--images", images, "--out", tmp_path / "x", "--gpu", "h1")
    assert "--gpu and --gpu-memory are for --dry-run" in vistune(*asked, code=2).stderr
    assert "--gpu h1: not known; choose one of" in vistune(*asked, "--dry-run", code=2).stderr


def test_export_and_import_lead_back_to_the_same_answers(run, tmp_path):
    out, _, _ = run
    plain, ours = tmp_path / "plain", tmp_path / "ours"
    vistune("export", "starter", "--out", plain, "--dtype", "float32")
    (plain / "vistune.json").unlink()
    vistune("import", plain, "--out", ours, "--template", "short")
    picture = out / "world" / "images" / "val_000002.jpg"
    said = [
        vistune("chat", name, "--image", picture, "--ask", "What is in the picture?").stdout
        for name in ("starter", ours)
    ]
    assert said[0] == said[1] and said[0].strip()


def test_the_shipped_checkpoint_answers_at_once(run):
    out, _, _ = run
    picture = out / "world" / "images" / "val_000000.jpg"
    scene = json.loads((out / "world" / "instances_val.json").read_text())
    names = {category["id"]: category["name"] for category in scene["categories"]}
    shown = {names[a["category_id"]] for a in scene["annotations"] if a["image_id"] == 1}
    said = vistune("chat", "starter", "--image", picture, "--ask", "What is in the picture?").stdout
    assert any(name in said or f"{name}s" in said for name in shown), (said, shown)


def test_a_chat_of_several_turns_through_a_pipe(run):
    out, _, _ = run
    picture = out / "world" / "images" / "val_000001.jpg"
    given = "What is in the picture?\n/reset\nWhat is in the picture?\n/nonsense\n/quit\nnever asked\n"
    done = vistune("chat", "starter", "--image", picture, given=given)
    first, second = done.stdout.splitlines()
    assert first == second
    assert "Unknown command /nonsense" in done.stderr


def test_version_and_help():
    assert vistune("--version").stdout == f"vistune {__version__}\n"
    verbs = [line.split()[0] for line in vistune("--help").stdout.split("Commands:")[1].splitlines() if line]
    data = ["world", "generate", "curate", "check", "split", "audit"]
    scores = ["evaluate", "score", "judge", "compare", "ensemble"]
    models = ["train", "import", "export"]
    assert verbs == [*data, *models, *scores, "chat", "serve", "quickstart", "convert", "starter"]


def test_help_starts_in_under_half_a_second():
    def seconds():
        started = time.monotonic()
        vistune("--help")
        return time.monotonic() - started

    assert min(seconds() for _ in range(4)) < 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("chat", "starter", "--image", "nowhere.jpg", "--ask", "?"), "nowhere.jpg: picture is missing"),
        (("chat", "no-such-folder", "--ask", "?"), "not a vistune checkpoint"),
        (("generate", "--images", ".", "--out", "x"), "--captions, --instances or both"),
        (
            ("generate", "--captions", "no.json", "--images", ".", "--out", "x"),
            "no.json: cannot be read",
        ),
        (("train", "starter", "--data", ".", "--images", ".", "--out", "x", "sed=1"), "unknown setting"),
    ],
)
def test_what_a_user_can_mend_is_told_in_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = vistune(*arguments, code=2)
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "x").exists()


def test_ctrl_c_leaves_finished_steps_and_the_run_goes_on(tmp_path):
    command = [VISTUNE, "quickstart", "--out", str(tmp_path / "run"), "--images", "16", "--val", "2"]
    overrides = ["stages.align.max_steps=1", "stages.instruct.epochs=1000"]
    process = subprocess.Popen(
        [*command, *overrides], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    aligned = tmp_path / "run" / "train" / "align" / "checkpoint"
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "train" / "instruct" / "metrics.jsonl").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in told and "Traceback" not in told
    assert (aligned / "model.safetensors").exists()
    again = subprocess.Popen(
        [*command, *overrides], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert again.stderr is not None
    seen = ""
    for line in again.stderr:
        seen += line
        if "stage 2" in line:
            break
    os.killpg(again.pid, signal.SIGINT)
    again.communicate(timeout=60)
    assert "world: already finished" in seen and "stage 1 (align): already finished" in seen


def test_real_photographs_from_annotations_to_an_answer(coco_mini, tmp_path):
    annotations, photographs = coco_mini / "annotations", coco_mini / "train2017"
    started = time.monotonic()
    told = vistune(
        "generate",
        "--captions", annotations / "captions_train2017.json",
        "--instances", annotations / "instances_train2017.json",
        "--images", photographs,
        "--out", tmp_path / "data",
    ).stdout  # fmt: skip
    assert time.monotonic() - started < 10
    assert all(f"{kind}.json: 80" in told for kind in ("conversation", "detail", "reasoning"))
    trained = vistune(
        "train",
        "starter",
        "--data",
        tmp_path / "data",
        "--images",
        photographs,
        "--out",
        tmp_path / "run",
        *SHORT,
    ).stdout.strip()
    picture = sorted(photographs.iterdir())[0]
    assert vistune("chat", trained, "--image", picture, "--ask", "What is in the picture?").stdout.strip()


def test_llavas_own_pairs_and_real_photographs_train_through_both_stages(coco_mini, tmp_path):
    pairs = coco_mini.parent / "llava-pretrain-200"
    if not pairs.is_dir():
        pytest.skip("needs ../shared/data/llava-pretrain-200, which is not part of the repository")
    annotations, photographs = coco_mini / "annotations", coco_mini / "train2017"
    data = tmp_path / "data"
    vistune(
        "generate",
        "--captions", annotations / "captions_train2017.json",
        "--instances", annotations / "instances_train2017.json",
        "--images", photographs,
        "--out", data,
        "--limit", 20,
    )  # fmt: skip
    (data / "chat.json").write_bytes(next(pairs.glob("*.json")).read_bytes())
    images = json.dumps({"chat.json": {"images": str(pairs / "images")}})
    done = vistune(
        "train", "starter", "--data", data, "--images", photographs, "--out", tmp_path / "run",
        f"stages.align.data={images}", *SHORT,
    )  # fmt: skip
    assert "stage 1 (align): 200 samples" in done.stderr
    rows = [json.loads(line) for line in (tmp_path / "run/align/metrics.jsonl").read_text().splitlines()]
    assert [row["samples"] for row in rows] == [32, 32]
    assert done.stdout.strip().endswith("instruct/checkpoint")

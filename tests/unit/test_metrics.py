"""What a run tells: rows that survive a kill, speed over the last steps, and operations counted by hand."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from PIL import Image

from tests.tiny import IMAGE_SIZE, tiny_checkpoint
from vistune.data.batch import Batch
from vistune.data.pack import Tree
from vistune.errors import VistuneError
from vistune.train.curves import draw_curves, thinned
from vistune.train.flops import attended_pairs, model_flops, peak_of_name
from vistune.train.metrics import MetricsLog, StepRow, read_metrics
from vistune.train.throughput import Throughput, peak_memory
from vistune.train.trackers import Stage, Trackers

CPU = torch.device("cpu")
ROW = StepRow(0, 2.0, {"connector": 1e-3}, 0.5, 1000, 100, 8, 2.0, 0.5)


def rows(count, **changes):
    return [replace(ROW, step=step, **changes) for step in range(count)]


def write(path, steps, **settings):
    with MetricsLog(path, **settings) as log:
        for row in steps:
            log.write(row)


def steps_of(path):
    return [row["step"] for row in read_metrics(path)]


def test_a_row_is_on_disk_as_soon_as_its_step_is_done(tmp_path):
    path = tmp_path / "align" / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.write(ROW)
        row = json.loads(path.read_text())
    assert row == {
        "step": 0,
        "loss": 2.0,
        "learning_rate": {"connector": 1e-3},
        "gradient_norm": 0.5,
        "tokens": 1000,
        "supervised": 100,
        "samples": 8,
        "seconds": 2.0,
        "waited": 0.5,
    }


def test_a_resumed_run_drops_the_steps_that_it_takes_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, rows(6))
    write(path, [replace(ROW, step=4, loss=1.0)], keep_below=4)
    assert steps_of(path) == [0, 1, 2, 3, 4]
    assert read_metrics(path)[4]["loss"] == 1.0
    write(path, rows(1))
    assert steps_of(path) == [0]


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_torn_last_line_is_dropped_wherever_it_was_cut(tmp_path, cut):
    path = tmp_path / "metrics.jsonl"
    write(path, rows(3))
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert steps_of(path) == [0, 1]
    write(path, [replace(ROW, step=2)], keep_below=2)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("line", [b"{", b"[1]", b'{"loss": 1}', b"\xff", b""])
def test_a_line_that_is_no_row_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    write(path, rows(1))
    path.write_bytes(path.read_bytes() + line + b"\n" + path.read_bytes())
    with pytest.raises(VistuneError, match=r"metrics\.jsonl: line 2"):
        read_metrics(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(VistuneError, match=r"metrics\.jsonl: cannot be read"):
        read_metrics(tmp_path / "metrics.jsonl")


def tensorboard(run, first=0):
    return Trackers(["tensorboard"], Stage(run / "align", first, {}))


def events_of(folder):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard"
    )
    loaded = accumulator.EventAccumulator(str(folder))
    loaded.Reload()
    return {tag: [(e.step, e.value) for e in loaded.Scalars(tag)] for tag in loaded.Tags()["scalars"]}


def test_tensorboard_reads_the_same_figures_and_forgets_undone_steps(tmp_path):
    path, events = tmp_path / "align" / "metrics.jsonl", tmp_path / "tensorboard" / "align"
    write(path, rows(4), trackers=tensorboard(tmp_path))
    with MetricsLog(path, keep_below=2, trackers=tensorboard(tmp_path, 2)) as log:
        log.write(replace(ROW, step=2, loss=1.0), mfu=0.5)
    told = events_of(events)
    assert told["loss"] == [(0, 2.0), (1, 2.0), (2, 1.0)]
    assert told["learning_rate/connector"][0] == (0, pytest.approx(1e-3))
    assert told["tokens_per_second"][0] == (0, 500.0)
    assert told["waiting"][0] == (0, 0.25)
    assert told["mfu"] == [(2, 0.5)]


def test_a_step_shorter_than_the_clocks_tick_has_no_speed(tmp_path):
    write(tmp_path / "metrics.jsonl", rows(1, seconds=0.0), trackers=tensorboard(tmp_path))
    assert set(events_of(tmp_path / "tensorboard" / "align")) == {
        "loss",
        "gradient_norm",
        "learning_rate/connector",
    }


def test_speed_is_of_the_last_steps_without_the_first():
    meter = Throughput(peak=1000.0)
    assert meter.speed() is None and meter.note(CPU) == ""
    meter.add(replace(ROW, seconds=100.0), flops=1000.0)
    assert meter.speed().samples_per_second == 0.08
    for row in rows(2):
        meter.add(row, flops=1000.0)
    speed = meter.speed()
    assert (speed.samples_per_second, speed.tokens_per_second, speed.waiting) == (4.0, 500.0, 0.25)
    assert speed.mfu == 0.5
    for row in rows(20, seconds=1.0):
        meter.add(row)
    assert meter.speed().samples_per_second == 8.0


def test_the_note_tells_what_the_progress_line_shows():
    meter = Throughput()
    meter.add(replace(ROW, learning_rate={"connector": 2e-5, "llm": 2e-4}))
    note = meter.note(CPU)
    assert note.startswith("loss 2.000, lr 2e-05/0.0002, 4.0 samples/s, 500 tokens/s, waiting 25%, peak ")
    assert note.endswith("GiB") and "MFU" not in note
    meter = Throughput(peak=2000.0)
    meter.add(ROW, flops=1000.0)
    assert "lr 0.001," in meter.note(CPU)
    assert meter.note(CPU).endswith("MFU 25%")


def test_peak_memory_is_in_bytes():
    held = torch.ones(2**26 // 4)
    assert held.nbytes < peak_memory(CPU) < 2**40


def test_curves_show_every_stage_that_has_begun(tmp_path):
    path = tmp_path / "curves.png"
    align, instruct = ([asdict(row) for row in rows(count)] for count in (5, 3))
    draw_curves({"align": []}, path)
    assert not path.exists()
    broken = {**instruct[0], "step": 3, "loss": float("nan")}
    draw_curves({"align": align, "instruct": [*instruct, broken], "more": [broken]}, path)
    with Image.open(path) as both:
        wide = both.size
    draw_curves({"align": align}, path)
    with Image.open(path) as one:
        assert (2 * one.width, one.height) == wide
    assert list(tmp_path.iterdir()) == [path]


def test_a_long_curve_is_thinned_and_keeps_its_ends():
    assert thinned(3) == [0, 1, 2]
    kept = thinned(100_000)
    assert len(kept) == 2000 and kept[0] == 0 and kept[-1] == 99_999


def test_pairs_are_those_that_a_dense_mask_allows():
    prefix, branches = 3, (2, 4)
    allowed = torch.zeros(9, 9, dtype=torch.bool)
    allowed[:3, :3] = torch.ones(3, 3).tril()
    for start, length in ((3, 2), (5, 4)):
        allowed[start : start + length, :3] = True
        allowed[start : start + length, start : start + length] = torch.ones(length, length).tril()
    trees = (Tree((0, 1), prefix, branches), Tree((2,), 0, (5,)))
    assert attended_pairs(trees) == int(allowed.sum()) + 15


# The tiny model: vision width 24 (MLP 48), read after 2 of 3 layers, 4 patches and a class token;
# LLM width 32 (MLP 64), 2 layers.
LAYER = 4 * 32 * 32 + 3 * 32 * 64
PICTURE = 2 * 3 * 64 * 24 * 4 + 2 * (2 * (4 * 24 * 24 + 2 * 24 * 48) * 5 + 4 * 24 * 25)


EMBEDDING = 2 * 3 * 64 * 24 * 4


@pytest.mark.parametrize(
    ("trains", "through", "connector", "picture"),
    [
        ({"connector"}, 4, 4, PICTURE),
        ({"connector", "llm"}, 6, 4, PICTURE),
        ({"llm"}, 6, 2, PICTURE),
        ({"vision", "llm"}, 6, 4, 3 * PICTURE - EMBEDDING),
        ({"vision", "connector", "llm"}, 6, 6, 3 * PICTURE - EMBEDDING),
    ],
)
def test_operations_by_hand(tokenizer, trains, through, connector, picture):
    model = tiny_checkpoint(tokenizer).model
    model.set_trained(trains)
    flops = model_flops(model)
    assert flops.token == through * 2 * LAYER
    assert flops.prediction == through * 32 * len(tokenizer)
    assert flops.pair == 12 * 32 * 2
    assert flops.patch == connector * 24 * 32
    assert flops.picture == picture


def make_row(**pictures):
    """Ten tokens as one tree, three of them predicted."""
    ids = torch.zeros(1, 10, dtype=torch.long)
    three = torch.arange(3)
    return Batch(ids, ids, three, three, three, three, (Tree((0,), 0, (10,)),), 1, **pictures)


@pytest.mark.parametrize(
    ("pictures", "encoded", "connected"),
    [
        ({}, 0, 0),
        ({"pixels": torch.zeros(2, 3, IMAGE_SIZE, IMAGE_SIZE)}, 2, 2),
        (
            {"pixels": torch.zeros(2, 3, IMAGE_SIZE, IMAGE_SIZE), "picture_order": torch.tensor([0, 1, 0])},
            2,
            2,
        ),
        ({"features": torch.zeros(2, 4, 24)}, 0, 2),
    ],
)
def test_a_step_costs_the_sum_of_its_rows(tokenizer, pictures, encoded, connected):
    model = tiny_checkpoint(tokenizer).model
    model.set_trained({"connector"})
    flops = model_flops(model)
    rows = [make_row(**pictures), make_row()]
    assert flops.of_batches(rows, pairs=110) == pytest.approx(
        20 * flops.token
        + 6 * flops.prediction
        + 110 * flops.pair
        + encoded * flops.picture
        + 4 * connected * flops.patch
    )


def test_the_first_of_two_connector_layers_needs_no_gradient_of_its_input(tokenizer):
    model = tiny_checkpoint(tokenizer, connector="mlp2x_gelu").model
    model.set_trained({"connector"})
    assert model_flops(model).patch == 4 * 24 * 32 + 6 * 32 * 32


def test_torch_counts_the_same_operations_in_the_linear_layers(tokenizer):
    """Against torch's own counter, which sees every matrix product of a forward and a backward pass."""
    from torch.utils.flop_counter import FlopCounterMode

    model = tiny_checkpoint(tokenizer).model
    for trains in ({"connector"}, {"connector", "llm"}):
        model.set_trained(trains)
        features, ids = torch.randn(4, 24), torch.arange(4)
        with FlopCounterMode(display=False) as counter:
            embeddings = model.language_model.get_input_embeddings()(ids) + model.connector(features)
            decoder = model.language_model.get_decoder()
            hidden = decoder(inputs_embeds=embeddings[None], use_cache=False).last_hidden_state
            model.language_model.get_output_embeddings()(hidden).sum().backward()
        counted = sum(
            count
            for operation, count in counter.get_flop_counts()["Global"].items()
            if "attention" not in str(operation)
        )
        flops = model_flops(model)
        assert counted == 4 * (flops.token + flops.prediction + flops.patch)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA GeForce RTX 3090", 71e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA RTX A1000", None),
        ("Tesla T4", None),
    ],
)
def test_an_unknown_device_has_no_peak(name, peak):
    assert peak_of_name(name) == peak

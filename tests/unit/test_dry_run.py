"""A dry run counts what a run would compute, by the code that the run itself uses."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.tiny import tiny_llm
from vistune.conversation import IGNORE_INDEX
from vistune.data.mix import Mix
from vistune.data.pack import plant
from vistune.recipe import ModelRecipe, load_recipe
from vistune.template import Encoded
from vistune.train.plan.dry_run import Padding, choose_trees, padding_avoided, plan_stage
from vistune.train.plan.estimate import GIB
from vistune.train.plan.sketch import sketch


def arrays(*records):
    """Lengths, prefixes and groups of (length, prefix, group)."""
    return tuple(np.array(column) for column in zip(*records, strict=True))


SHARED = arrays((10, 6, 0), (12, 6, 0), (9, 5, 1), (7, 0, 2))


def test_padding_by_hand():
    steps = [np.array([0, 1]), np.array([2, 3])]
    found = padding_avoided(*SHARED, batch_size=4, steps=steps, row_tokens=100)
    assert found == Padding(samples=38, padded=4 * 12, packed=38 - 6)
    assert found.avoided == pytest.approx(1 - 32 / 48)


def test_a_tree_without_room_computes_its_prefix_again():
    steps = [np.array([0, 1])]
    assert padding_avoided(*SHARED, batch_size=2, steps=steps, row_tokens=15).packed == 22


def test_nothing_is_shared_where_all_groups_differ():
    lengths, prefixes, _ = SHARED
    steps = [np.arange(4)]
    found = padding_avoided(lengths, prefixes, np.arange(4), 4, steps, row_tokens=100)
    assert found.packed == found.samples == 38


def test_padded_batches_hold_every_sample_once_even_where_the_last_is_not_full():
    lengths = np.full(10, 7)
    found = padding_avoided(lengths, np.zeros(10, int), np.arange(10), 4, [np.arange(10)], 100)
    assert found == Padding(70, 70, 70) and found.avoided == 0


def test_a_record_that_is_seen_twice_counts_twice():
    steps = [np.array([0, 0])]
    assert padding_avoided(*SHARED, batch_size=2, steps=steps, row_tokens=100) == Padding(20, 20, 14)


def test_an_epoch_of_nothing_avoids_nothing():
    assert padding_avoided(*SHARED, batch_size=2, steps=[], row_tokens=100).avoided == 0


def test_the_tree_that_shares_is_shown_first():
    steps = [np.array([2, 3, 0, 1])]
    trees = choose_trees(steps, *SHARED, count=2)
    assert [tree.samples for tree in trees] == [(0, 1), (2,)]
    assert choose_trees([], *SHARED) == []


IMAGE = 2


class FewSamples:
    """Two dialogues on one picture and one about nothing, as a corpus holds them."""

    lengths, prefixes, groups = SHARED
    supervised = np.array([2, 3, 2, 1])

    def __init__(self, files=(0, 0, 1, 2)):
        self.files = np.array(files)
        self.selection = Mix([np.flatnonzero(self.files == n) for n in set(files)], [1] * len(set(files)))

    def __len__(self):
        return 4

    def __getitem__(self, record):
        length, prefix = int(self.lengths[record]), int(self.prefixes[record])
        trained = int(self.supervised[record])
        ids = [IMAGE] * prefix + [20] * (length - prefix)
        labels = [IGNORE_INDEX] * (length - trained) + [20] * trained
        return Encoded(ids, labels, ["a.jpg"] if prefix else [])

    def count_pictures(self, steps):
        return 2

    def pictures(self, records):
        return ["a.jpg", "b.jpg"]


def of(stage):
    """As many files as the starter's stage has."""
    return FewSamples() if stage == "instruct" else FewSamples([0, 0, 0, 0])


@pytest.fixture(scope="module")
def starter():
    return sketch(ModelRecipe(vision="starter/vision", llm="starter/llm"))


TOKENIZER = SimpleNamespace(decode=lambda ids, **_: "x" * len(ids))


def plan(starter, name, *overrides, **settings):
    recipe = load_recipe("starter", list(overrides))
    return plan_stage(name, recipe, of(name), starter, TOKENIZER, IMAGE, torch.float32, **settings)


def test_a_plan_tells_what_a_stage_would_do(starter):
    lines = [str(line) for line in plan(starter, "instruct", "stages.instruct.batch_size=4").lines()]
    connector = 192 * 192 + 192
    llm = sum(p.numel() for p in starter.language_model.parameters())
    vision = sum(p.numel() for p in starter.vision.parameters())
    assert lines[:10] == [
        "stage instruct",
        f"  trains: connector {connector:,}, llm {llm:,} parameters",
        f"  frozen: vision {vision:,} parameters",
        "  an epoch: 4 samples, 38 tokens, 8 of them supervised, 2 pictures",
        "  computed: 32 tokens in trees; padded batches of 4 would compute 48, so 33% are avoided",
        "  conversation.json: 2 records; 2 samples an epoch, 6 in all; never seen: 0",
        "  detail.json: 1 records; 1 samples an epoch, 3 in all; never seen: 0",
        "  reasoning.json: 1 records; 1 samples an epoch, 3 in all; never seen: 0",
        "  never seen in the whole stage: 0 of 4 records",
        "  steps: 3 of 4 samples",
    ]
    assert lines[10].startswith("  caution: only 3 steps, fewer than 50")
    assert lines[11].startswith("  memory on the device: about ")
    assert "sample 1: a.jpg; 10 tokens, 2 of them supervised" in lines
    assert "<image x 6>xx[[xx]]" in lines


def test_a_stage_that_trains_the_connector_freezes_the_llm(starter):
    told = plan(starter, "align")
    assert told.parameters["llm"][0] == 0 and told.parameters["connector"][1] == 0


def test_without_sharing_a_plan_shares_nothing(starter):
    lengths, prefixes, groups = SHARED
    assert plant(range(4), lengths, prefixes, groups)[0].prefix == 6
    recipe = load_recipe("starter")
    alone = recipe.model_copy(update={"run": recipe.run.model_copy(update={"share_images": False})})
    told = plan_stage("align", alone, of("align"), starter, TOKENIZER, IMAGE, torch.float32)
    assert told.padding.packed == 38
    assert sum("shares nothing" in str(line) for line in told.preview) == 3


def test_a_plan_says_whether_it_fits_and_what_would_help(starter):
    fits = [str(line) for line in plan(starter, "instruct", device_memory=8 * GIB).lines()]
    assert "  fits into a device of 8 GiB" in fits
    told = plan(starter, "instruct", device_memory=2**28)
    assert not told.memory.fits(2**28)
    lines = [str(line) for line in told.lines()]
    assert "  does not fit into a device of 0 GiB" in lines
    assert any(line.startswith("  run.row_tokens=2048 would do") for line in lines)
    hopeless = [str(line) for line in plan(starter, "instruct", device_memory=2**20).lines()]
    assert any("no single change would do" in line for line in hopeless)


def test_a_plan_for_several_devices_tells_what_they_communicate(starter):
    """The connector's gradients, 4 bytes each, once a step if it is known that there is room."""
    gradients = (192 * 192 + 192) * 4 / 2**20

    def told(**settings):
        lines = [str(line) for line in plan(starter, "align", **settings).lines()]
        return [line for line in lines if line.startswith("  communicated by each device: ")]

    assert told() == []
    (line,) = told(devices=4, device_memory=8 * GIB)
    assert line.endswith(f"of weights a row, {gradients:.1f} MiB of gradients a step")
    (line,) = told(devices=4)
    assert line.endswith(f"of weights a row, {gradients:.1f} MiB of gradients a row")


def test_a_plan_tells_of_experts_that_get_no_adapters(starter):
    with torch.device("meta"):
        mixture = copy.copy(starter)
        mixture._modules = {**starter._modules, "language_model": tiny_llm(320, "mixtral")}
    told = [str(line) for line in plan(mixture, "instruct", "stages.instruct.lora.rank=2").lines()]
    assert [line for line in told if "get no adapters" in line] == [
        "  experts (49,152 parameters) get no adapters: peft cannot adapt them with `lora.dropout` above 0"
    ]
    exact = ("stages.instruct.lora.rank=2", "stages.instruct.lora.dropout=0")
    assert not any("get no adapters" in str(line) for line in plan(mixture, "instruct", *exact).lines())

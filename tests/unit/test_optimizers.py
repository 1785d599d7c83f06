"""Optimizers that hold less for each weight: what they learn, hold, save and refuse."""

import pytest
import torch

from tests.tiny import save_tiny_parts, tiny_checkpoint
from tests.unit.test_loop import INSTRUCT, losses, only, weights
from tests.unit.test_stage import ALONE, batch_of, recipe, samples
from vistune.errors import VistuneError
from vistune.recipe import load_recipe, parse_recipe
from vistune.train import optimizers, stage_run
from vistune.train.loop import train
from vistune.train.offload import OffloadedAdamW
from vistune.train.optimizers import make_optimizer, rates, set_rates
from vistune.train.stage import optimizer_step

needs_torchao = pytest.mark.skipif(
    not optimizers.find_spec("torchao"), reason="needs torchao: pip install 'vistune[low-memory]'"
)
SMALL = ["adamw_8bit", {"weights": "bfloat16"}, {"kind": "adamw_8bit", "weights": "bfloat16"}]


def learn(tokenizer, steps, optimizer="adamw", weights=torch.float32, make=make_optimizer, **more):
    """Train a tiny model on one batch; returns it, its optimizer, and the losses."""
    torch.manual_seed(0)
    stage = recipe(learning_rate=3e-3, optimizer=optimizer, **more)
    model = tiny_checkpoint(tokenizer).model
    model.set_trained(set(stage.trains))
    for parameter in model.parameters():
        parameter.data = parameter.data.to(weights)
    made, batch, found = make(model, stage), batch_of(samples(4)), []
    for _ in range(steps):
        found.append(optimizer_step(model, made, [batch], 1.0, 1.0, ALONE).loss)
    return model, made, found


def held(optimizer):
    """Bytes of the moments."""
    tensors = [x for state in optimizer.state.values() for name, x in state.items() if name != "step"]
    parts = [getattr(x, name) for x in tensors for name in getattr(x, "tensor_attrs", []) if name != "qmap"]
    whole = [x for x in tensors if not hasattr(x, "tensor_attrs")]
    return sum(x.numel() * x.element_size() for x in [*parts, *whole])


@needs_torchao
def test_moments_take_the_bytes_that_are_promised(tokenizer):
    model, _, _ = learn(tokenizer, 0)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    large = sum(p.numel() for p in model.parameters() if p.requires_grad and p.numel() >= 4096)
    bfloat16 = {"weights": torch.bfloat16}
    for optimizer, settings, bytes_of_large in (
        ("adamw_8bit", {}, 2 + 2 * 4 / 256),
        ({"weights": "bfloat16"}, bfloat16, 8),
        ({"kind": "adamw_8bit", "weights": "bfloat16"}, bfloat16, 2 + 2 * 4 / 256),
    ):
        _, made, _ = learn(tokenizer, 1, optimizer, **settings)
        assert held(made) == pytest.approx(bytes_of_large * large + 8 * (trained - large))


@needs_torchao
def test_each_learns_as_adamw_does(tokenizer):
    expected = learn(tokenizer, 20)[2]
    for optimizer in SMALL:
        dtype = torch.bfloat16 if "weights" in optimizer else torch.float32
        found = learn(tokenizer, 20, optimizer, weights=dtype)[2]
        assert found[0] == pytest.approx(expected[0], rel=1e-2)
        assert found[-1] < expected[0] - 0.8 * (expected[0] - expected[-1])


@needs_torchao
def test_updates_too_small_for_a_bfloat16_add_up(tokenizer):
    """1,000 steps of a ten-thousandth each move a weight of 1 by a tenth; to the nearest, by nothing."""
    weight = torch.nn.Parameter(torch.ones(64, 64, dtype=torch.bfloat16))
    nearest = torch.ones(64, 64, dtype=torch.bfloat16)
    from vistune.train.low_memory import AdamWRounded

    group = {"params": [weight], "lr": 1e-4, "peak": 1e-4, "weight_decay": 0.0, "part": "llm"}
    optimizer = AdamWRounded([group], bf16_stochastic_round=True)
    torch.manual_seed(0)
    for _ in range(200):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        nearest -= 1e-4
    assert nearest.float().mean() == 1
    assert weight.detach().float().mean() == pytest.approx(0.98, abs=1e-3)


@needs_torchao
def test_groups_rates_and_decay_are_those_of_adamw(tokenizer):
    settings = {"learning_rate": {"connector": 0.5, "llm": 0.25}, "weight_decay": 0.1}
    model = tiny_checkpoint(tokenizer).model
    model.set_trained({"connector", "llm"})

    def told(optimizer):
        made = make_optimizer(model, recipe(**settings, optimizer=optimizer))
        set_rates(made, 0.1)
        groups = [(g["part"], g["peak"], g["weight_decay"], len(g["params"])) for g in made.param_groups]
        return groups, rates(made)

    assert told("adamw_8bit") == told({"weights": "bfloat16"}) == told("adamw")
    assert told("adamw")[1] == {"connector": 0.05, "llm": 0.025}


def test_offloaded_adamw_is_adamw(tokenizer):
    def offloaded(model, stage):
        return OffloadedAdamW(make_optimizer(model, stage).param_groups)

    there, optimizer, found = learn(tokenizer, 4, make=offloaded, weight_decay=0.1)
    here, _, expected = learn(tokenizer, 4, weight_decay=0.1)
    assert found == expected
    assert all(torch.equal(a, b) for a, b in zip(there.parameters(), here.parameters(), strict=True))
    assert all(state["exp_avg"] is not None for state in optimizer.state.values())


def test_offloaded_masters_keep_what_bfloat16_loses_and_are_part_of_the_state(tokenizer):
    weight = torch.nn.Parameter(torch.ones(8, dtype=torch.bfloat16))
    group = {"params": [weight], "lr": 1e-4, "weight_decay": 0.0}
    optimizer = OffloadedAdamW([group])
    for step in range(100):
        if step == 50:  # goes on from a save
            saved = optimizer.state_dict()
            weight = torch.nn.Parameter(weight.detach().clone())
            optimizer = OffloadedAdamW([{**group, "params": [weight]}])
            optimizer.load_state_dict(saved)
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    assert optimizer.state[weight]["master"].mean() == pytest.approx(0.99, abs=1e-5)
    assert torch.equal(weight.detach(), optimizer.state[weight]["master"].bfloat16())
    assert optimizer.state[weight]["step"] == 100


def test_a_run_goes_on_from_a_save_bit_for_bit(tokenizer, data, images, tmp_path, monkeypatch):
    """All the randomness of the rounding follows from the step's number."""
    pytest.importorskip("torchao", reason="needs torchao: pip install 'vistune[low-memory]'")
    stage = {**INSTRUCT, "max_steps": 4, "optimizer": {"kind": "adamw_8bit", "weights": "bfloat16"}}
    parts = save_tiny_parts(tmp_path, tokenizer)
    made = parse_recipe(
        {
            "model": {**parts, "template": "short", "max_length": 512},
            "stages": {"instruct": stage},
            "run": {"save_steps": 2},
            "precision": "bfloat16",
        },
        "test",
    )
    train(made, data, images, tmp_path / "whole")
    take_step, calls = stage_run.optimizer_step, []

    def interrupted(*args):
        calls.append(None)
        if len(calls) == 4:  # a step after the save
            raise KeyboardInterrupt
        return take_step(*args)

    monkeypatch.setattr(stage_run, "optimizer_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(made, data, images, tmp_path / "parted")
    monkeypatch.setattr(stage_run, "optimizer_step", take_step)
    train(made, data, images, tmp_path / "parted")
    assert losses(tmp_path / "parted", made) == losses(tmp_path / "whole", made)
    whole, parted = (weights(tmp_path / run / "instruct" / "checkpoint") for run in ("whole", "parted"))
    assert all(torch.equal(whole[key], parted[key]) for key in whole)
    assert only(whole, "up_proj.weight").dtype is torch.bfloat16
    assert only(whole, "fc1.weight").dtype is torch.float32


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.instruct.optimizer=adam", "optimizer.kind: .*did you mean 'adamw'"),
        ("stages.instruct.optimizer={weights: bfloat16}", "stages.instruct: .*needs `precision: bfloat16`"),
        (
            "stages.instruct.optimizer={kind: adamw_8bit, offload: true}",
            "`kind: adamw_8bit` would be ignored",
        ),
        ("stages.instruct.optimizer={ofload: true}", "unknown setting; did you mean 'offload'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(override, message):
    with pytest.raises(VistuneError, match=message):
        load_recipe("starter", [override])


def test_bfloat16_weights_beside_adapters_are_refused():
    with pytest.raises(VistuneError, match="saves nothing beside `lora`"):
        load_recipe("lora", ["stages.instruct.optimizer.weights=bfloat16"])


def test_what_this_machine_lacks_is_told(tokenizer, monkeypatch):
    model = tiny_checkpoint(tokenizer).model
    model.set_trained({"connector", "llm"})
    with pytest.raises(VistuneError, match="this run computes on the cpu"):
        make_optimizer(model, recipe(optimizer={"offload": True}))
    with pytest.raises(VistuneError, match="works with one process, not with 2"):
        optimizers.check_optimizer(recipe(optimizer={"offload": True}).optimizer, torch.device("cuda"), 2)
    monkeypatch.setattr(optimizers, "find_spec", lambda name: None)
    with pytest.raises(VistuneError, match=r"pip install 'vistune\[low-memory\]'"):
        make_optimizer(model, recipe(optimizer="adamw_8bit"))

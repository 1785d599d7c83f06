"""Memory estimates: against what torch allocates, and against sums that a human can check."""

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM, MistralConfig

from tests.tiny import LLM_FAMILIES, VISION_KINDS, save_tiny_parts, tiny_llm, tiny_vision
from vistune.errors import VistuneError
from vistune.model.adapters import add_adapters
from vistune.model.connector import Connector
from vistune.model.llava import Llava
from vistune.model.vision import VisionEncoder
from vistune.recipe import LoraRecipe, ModelRecipe, load_recipe
from vistune.train.plan.activations import measure_activations, measure_encoder
from vistune.train.plan.communication import communication
from vistune.train.plan.estimate import GIB, MemoryEstimate, communicates_once, estimate_stage, remedies
from vistune.train.plan.sketch import set_stage, sketch

BF16, FP32 = torch.bfloat16, torch.float32
LORA = LoraRecipe(rank=8, alpha=16, dropout=0.05)


def peak_allocation(work):
    """Bytes that ``work`` holds at most beside what was there before, by torch's own records."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        work()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


MEDIUM = LlamaConfig(
    vocab_size=512, hidden_size=128, intermediate_size=344, num_hidden_layers=6, num_attention_heads=4
)
GROUPED = MistralConfig(
    vocab_size=512,
    hidden_size=128,
    intermediate_size=448,
    num_hidden_layers=4,
    num_attention_heads=8,
    num_key_value_heads=2,
)


def make_llm(config, trained, lora, precision):
    """As training computes it: FSDP gives each layer's weights in ``precision``."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(config, dtype=FP32).requires_grad_(trained)
    if lora:
        add_adapters(model, LORA, 0)
    return model.to(precision).train()


@pytest.mark.parametrize(
    ("config", "trained", "lora", "precision", "checkpointed"),
    [
        (MEDIUM, True, False, FP32, False),
        (MEDIUM, False, False, FP32, False),
        (MEDIUM, False, True, FP32, False),
        (MEDIUM, False, False, BF16, False),
        (MEDIUM, False, True, BF16, False),
        (GROUPED, True, False, FP32, False),
        (GROUPED, False, False, BF16, False),
        (MEDIUM, True, False, BF16, False),
        (MEDIUM, True, False, FP32, True),
        (GROUPED, False, False, BF16, True),
    ],
)
def test_activations_are_those_that_torch_allocates(config, trained, lora, precision, checkpointed):
    """The peak is what is kept and at most what one layer's backward pass works with, as is estimated."""
    tokens, layers = 512, config.num_hidden_layers
    with torch.device("meta"):
        hollow = make_llm(config, trained, lora, precision)
    estimated = measure_activations(hollow, precision).bytes(tokens, layers, checkpointed)
    model = make_llm(config, trained, lora, precision)
    if checkpointed:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    embedding = model.get_input_embeddings().weight

    def forward_and_backward():
        inputs = torch.randn(1, tokens, config.hidden_size, dtype=embedding.dtype, requires_grad=True)
        hidden = model.get_decoder()(
            inputs_embeds=inputs, position_ids=torch.arange(tokens)[None], use_cache=False
        ).last_hidden_state
        hidden.float().sum().backward()

    forward_and_backward()
    model.zero_grad(set_to_none=False)  # gradients are there before, and counted elsewhere
    working = 4 * tokens * config.intermediate_size * precision.itemsize
    assert 0.99 * estimated < peak_allocation(forward_and_backward) < 1.05 * (estimated + working)


@pytest.mark.parametrize("kind", VISION_KINDS)
@pytest.mark.parametrize("precision", [FP32, BF16])
def test_a_trained_encoder_keeps_what_torch_allocates(kind, precision):
    """Of each picture; and one layer's backward pass works with at most four tensors of its widest."""
    encoder = VisionEncoder(tiny_vision(kind, num_hidden_layers=9, image_size=64)).to(precision)
    assert measure_encoder(encoder, precision) == 0.0
    encoder.set_trained(True)
    estimated, pictures = measure_encoder(encoder.to("meta"), precision), 16
    encoder = VisionEncoder(tiny_vision(kind, num_hidden_layers=9, image_size=64)).to(precision).train()
    encoder.set_trained(True)
    pixels = torch.randn(pictures, 3, 64, 64)

    def forward_and_backward():
        encoder(pixels).float().sum().backward()

    forward_and_backward()
    encoder.zero_grad(set_to_none=False)
    working = 4 * pictures * (encoder.patches + encoder.dropped) * 48 * precision.itemsize
    found = peak_allocation(forward_and_backward)
    assert 0.95 * pictures * estimated < found < 1.1 * (pictures * estimated + working)


@pytest.mark.parametrize("family", [*LLM_FAMILIES, "mixtral"])
@pytest.mark.parametrize("precision", [FP32, BF16])
def test_every_family_can_be_measured(family, precision):
    with torch.device("meta"):
        model = tiny_llm(320, family)
    layers = len(model.get_decoder().layers)
    trained = measure_activations(model, precision)
    frozen = measure_activations(model.requires_grad_(False), precision)
    assert len(model.get_decoder().layers) == layers  # left as it was
    assert 0 < frozen.kept < trained.kept
    assert frozen.boundary == precision.itemsize * 32


def seven_billion():
    """The shapes of LLaVA-1.5 7B."""
    with torch.device("meta"):
        vision = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=1024,
                intermediate_size=4096,
                num_hidden_layers=24,
                num_attention_heads=16,
                image_size=336,
                patch_size=14,
            )
        )
        llm = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=32064,
                hidden_size=4096,
                intermediate_size=11008,
                num_hidden_layers=32,
                num_attention_heads=32,
            )
        )
        return Llava(VisionEncoder(vision), Connector("mlp2x_gelu", 1024, 4096), llm, 0)


CONNECTOR = 1024 * 4096 + 4096 + 4096 * 4096 + 4096


@pytest.fixture(scope="module")
def large():
    return seven_billion()


def estimate(large, name, stage, devices=1, **run):
    recipe = load_recipe(name)
    changed = recipe.run.model_copy(update={"checkpoint_activations": True, **run})
    return estimate_stage(large, recipe.stages[stage], changed, BF16, devices)


def item(estimated, name):
    return next((size for found, size in estimated.items if name in found), 0.0)


def test_single_gpu_fits_into_24_gb_and_full_training_does_not(large):
    for stage in ("align", "instruct"):
        assert estimate(large, "single-gpu", stage).fits(24 * 10**9)
    assert not estimate(large, "llava-1.5-7b", "instruct").fits(80 * 10**9)
    assert estimate(large, "llava-1.5-7b", "instruct", devices=8).fits(80 * 10**9)


def test_stage_one_holds_optimizer_state_for_the_connector_alone(large):
    found = estimate(large, "llava-1.5-7b", "align")
    assert item(found, "AdamW") == 8 * CONNECTOR
    assert item(found, "gradients") == 4 * CONNECTOR
    frozen = sum(p.numel() for p in large.parameters()) - CONNECTOR
    assert item(found, "frozen") == 2 * frozen


def test_full_training_takes_16_bytes_a_parameter_and_2_for_the_copy(large):
    found = estimate(large, "llava-1.5-7b", "instruct")
    trained = sum(p.numel() for p in large.language_model.parameters()) + CONNECTOR
    assert (
        item(found, "trained, in float32") + item(found, "gradients") + item(found, "AdamW") == 16 * trained
    )


def optimized(large, optimizer, name="llava-1.5-7b", **run):
    """The estimate of full tuning on one device with another optimizer."""
    recipe = load_recipe(name, [f"stages.instruct.optimizer={optimizer}"])
    changed = recipe.run.model_copy(update={"checkpoint_activations": True, **run})
    return estimate_stage(large, recipe.stages["instruct"], changed, BF16, 1)


def test_every_optimizer_takes_its_bytes_a_parameter(large):
    trained = sum(p.numel() for p in large.language_model.parameters()) + CONNECTOR
    for optimizer, weight, moments in (
        ("adamw", 4, 8),
        ("adamw_8bit", 4, 2.03125),
        ("{weights: bfloat16}", 2, 8),
        ("{kind: adamw_8bit, weights: bfloat16}", 2, 2.03125),
        ("{offload: true}", 4, 0),
        ("{weights: bfloat16, offload: true}", 2, 0),
    ):
        found = optimized(large, optimizer)
        assert item(found, "trained, in") == item(found, "gradients") == weight * trained
        assert item(found, "AdamW") == moments * trained


def test_seven_billion_are_fully_tuned_on_one_gpu_of_80_gb(large):
    assert optimized(large, "{kind: adamw_8bit, weights: bfloat16}").fits(80 * 10**9)
    assert not optimized(large, "adamw_8bit").fits(80 * 10**9)
    assert optimized(large, "{weights: bfloat16, offload: true}").fits(48 * 10**9)


def test_devices_share_what_is_held(large):
    one, eight = (estimate(large, "llava-1.5-7b", "instruct", devices=n) for n in (1, 8))
    for name in ("trained, in float32", "gradients", "AdamW"):
        assert item(one, name) == pytest.approx(8 * item(eight, name))
    layer = sum(p.numel() for p in large.language_model.model.layers[0].parameters())
    assert item(one, "gathered") == 0 and item(eight, "gathered") > 6 * layer
    assert "each of 8 devices" in next(eight.lines())


LAYER = 4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096


def test_whole_gradients_stand_for_their_share_and_for_what_is_being_summed(large):
    """In the second layer's backward pass: the layer before is being summed, the others are whole."""
    recipe = load_recipe("llava-1.5-7b")
    once = estimate_stage(large, recipe.stages["instruct"], recipe.run, BF16, 8, whole_gradients=True)
    trained = sum(p.numel() for p in large.language_model.parameters()) + CONNECTOR
    assert item(once, "gradients of all") == 4 * (trained - LAYER)
    assert item(once, "their gradients") == 0
    assert item(once, "gathered") == item(estimate(large, "llava-1.5-7b", "instruct", 8), "gathered")


def test_gradients_are_communicated_once_where_a_device_has_room_for_all(large):
    recipe = load_recipe("llava-1.5-7b")
    needed = estimate_stage(large, recipe.stages["instruct"], recipe.run, BF16, 8, whole_gradients=True).total
    for memory, once in ((needed / 0.9 + 1, True), (needed / 0.9 - 1e6, False)):
        told = communicates_once(large, recipe.stages["instruct"], recipe.run, BF16, 8, int(memory))
        assert told == once


def test_layers_are_gathered_twice_a_row_and_the_rest_once():
    """In bfloat16, whether they are trained or not; gradients are summed in float32."""
    model = seven_billion()
    for name, trained in (("align", CONNECTOR), ("instruct", None)):
        set_stage(model, load_recipe("llava-1.5-7b").stages[name])
        trained = trained or CONNECTOR + sum(p.numel() for p in model.language_model.parameters())
        every = sum(p.numel() for p in model.parameters())
        for once in (True, False):
            found = communication(model, BF16, once)
            assert found.weights == 2 * (every + 32 * LAYER)
            assert found.step(3) == 3 * found.weights + (1 if once else 3) * 4 * trained
            assert found.line().endswith("a step" if once else "a row")


def test_four_bits_are_a_quarter_of_sixteen_and_a_little(large):
    recipe = load_recipe("single-gpu")
    stage = recipe.stages["instruct"]
    whole = stage.model_copy(update={"lora": stage.lora.model_copy(update={"quantise": None})})
    in_4, in_16 = (item(estimate_stage(large, s, recipe.run, BF16), "frozen") for s in (stage, whole))
    linear = sum(m.weight.numel() for m in large.language_model.model.modules() if hasattr(m, "in_features"))
    assert in_16 - in_4 == pytest.approx((2 - 4.127 / 8) * linear, rel=1e-4)


def test_smaller_rows_and_checkpointing_save_activations(large):
    whole = estimate(large, "llava-1.5-7b", "align", checkpoint_activations=False)
    half = estimate(large, "llava-1.5-7b", "align", checkpoint_activations=False, row_tokens=2048)
    assert item(whole, "activations") == pytest.approx(2 * item(half, "activations"))
    assert item(whole, "activations") > 4 * item(estimate(large, "llava-1.5-7b", "align"), "activations")


def test_the_model_is_left_as_it_was(large):
    before = {name: p.requires_grad for name, p in large.named_parameters()}
    estimate(large, "single-gpu", "instruct")
    assert {name: p.requires_grad for name, p in large.named_parameters()} == before


def test_remedies_are_changes_that_do(large):
    recipe = load_recipe("llava-1.5-7b", ["run.checkpoint_activations=true"])
    stage, run = recipe.stages["instruct"], recipe.run
    found = list(remedies(large, stage, run, BF16, 1, 80 * GIB))
    assert [text.split(" would")[0] for text in found] == [
        "optimizer={kind: adamw_8bit, weights: bfloat16}",
        "lora",
        "2 devices (torchrun --nproc-per-node)",
    ]
    run = run.model_copy(update={"checkpoint_activations": False})
    align = list(remedies(large, recipe.stages["align"], run, BF16, 1, 24 * GIB))
    assert align[0].startswith("run.checkpoint_activations=true would do: about ")
    assert list(remedies(large, stage, run, BF16, 64, GIB)) == []


def test_lines_tell_the_sum_and_its_parts():
    found = MemoryEstimate((("gradients", 1.5 * GIB), ("weights", 0.5 * GIB), ("rest", 2**20)), 1)
    assert list(found.lines()) == [
        "memory on the device: about 2.0 GiB",
        "    1.5 GiB  gradients",
        "    0.5 GiB  weights",
        "    1.0 MiB  rest",
    ]
    assert found.fits(3 * GIB) and not found.fits(2 * GIB)


def test_a_sketch_has_the_parts_of_the_recipe_and_no_weights(tmp_path, tokenizer):
    parts = save_tiny_parts(tmp_path, tokenizer)
    model = sketch(ModelRecipe(**parts, connector="mlp2x_gelu", max_length=512))
    assert {p.device.type for p in model.parameters()} == {"meta"}
    stage = load_recipe("starter").stages["instruct"]
    counts = set_stage(model, stage)
    connector = 24 * 32 + 32 + 32 * 32 + 32
    llm = sum(p.numel() for p in tiny_llm(len(tokenizer)).parameters())
    assert counts["connector"] == (connector, 0) and counts["llm"] == (llm, 0)
    assert counts["vision"][0] == 0


def test_a_sketch_of_adapters_trains_them_alone(tmp_path, tokenizer):
    model = sketch(ModelRecipe(**save_tiny_parts(tmp_path, tokenizer), max_length=512))
    stage = load_recipe("starter").stages["instruct"].model_copy(update={"lora": LORA})
    trained, frozen = set_stage(model, stage)["llm"]
    assert trained == 2 * 8 * (4 * (32 + 32) + 3 * (32 + 64))
    assert frozen == sum(p.numel() for p in tiny_llm(len(tokenizer)).parameters())


def test_a_sketch_of_a_checkpoint_has_its_connector():
    model = sketch(ModelRecipe(start_from="starter"))
    assert model.connector.kind == "linear"
    assert model.vision.patches == 25


def test_a_part_that_is_not_there_is_named(tmp_path):
    with pytest.raises(VistuneError, match="nowhere"):
        sketch(ModelRecipe(vision=str(tmp_path / "nowhere"), llm="starter/llm"))

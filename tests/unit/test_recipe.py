"""Recipes are strict: what would be ignored is refused, and the message helps."""

import pytest

from vistune.errors import VistuneError
from vistune.recipe import load_recipe


def test_an_override_changes_one_setting():
    overrides = ["stages.instruct.epochs=7", "precision=bfloat16", "stages.instruct.data.detail.json=0.9"]
    recipe = load_recipe("starter", overrides)
    assert recipe.stages["instruct"].data["detail.json"].passes == 0.9
    assert recipe.stages["instruct"].epochs == 7
    assert recipe.precision == "bfloat16"
    assert recipe.stages["align"] == load_recipe("starter").stages["align"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.align.learning_rat=1", "did you mean 'learning_rate'"),
        ("stages.align.batch_size=0", "stages.align.batch_size"),
        ("stages.middle.epochs=1", "no section 'middle' there"),
        ("model.connector=cubic", "model.connector: Input should be .*, not 'cubic'$"),
        ("model.connector=liner", "model.connector: .*not 'liner'; did you mean 'linear'"),
        ("precision=bfloat", "precision: .*did you mean 'bfloat16'"),
        ("stages.instruct.trains=[conector]", "stages.instruct.trains.0: .*did you mean 'connector'"),
        ("seeds=1", "seeds: unknown setting; did you mean 'seed'"),
        ("stages.align.mix=uniform", "stages.align: `mix: uniform` would be ignored"),
        (
            "stages.instruct.mix=uniform",
            "stages.instruct: `mix: uniform` would ignore unequal passes: leave `mix`",
        ),
        ("stages.align.data={a.json: {share: 1.5}}", "data.a.json.share: Input should be less"),
        ("stages.align.lora={rank: 8}", "stages.align: `lora` would be ignored"),
        ("stages.instruct.learning_rate={llm: 1}", "must name what is trained: connector, llm"),
        ("stages.align.learning_rate=-1", "greater than 0"),
        (
            "run={fit: true, row_tokens: 2048, checkpoint_activations: true, compile: false}",
            "run: `fit` would be ignored",
        ),
        ("stages.align.data={}", "stages.align.data"),
        ("stages.align.data={a.json: {pases: 1}}", "unknown setting; did you mean 'passes'"),
        ("model.start_from=run/align/checkpoint", "model: `vision` would be ignored beside `start_from`"),
        ("model.llm=null", "model: give `vision` and `llm`, or `start_from`"),
        ("epochs", "expected key=value"),
    ],
)
def test_a_wrong_override_is_refused_with_its_name(override, message):
    with pytest.raises(VistuneError, match=message):
        load_recipe("starter", [override])


TRAINED_ENCODER = ["stages.instruct.trains=[vision, llm]", "stages.instruct.learning_rate=1e-5"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.features=cache", "stages.instruct: trains the vision encoder, .*Take `run.features: compute`"),
        ("stages.instruct.lora={merge: false}", "`lora.merge: false` has no place for a trained encoder"),
        ("stages.instruct.learning_rate={llm: 1e-5, connector: 1e-5}", "what is trained: vision, llm"),
    ],
)
def test_what_does_not_go_with_a_trained_encoder_is_refused(override, message):
    kept = ["run.features=compute"]
    recipe = load_recipe("starter", [*kept, *TRAINED_ENCODER])
    assert recipe.stages["instruct"].trains == ("vision", "llm")
    with pytest.raises(VistuneError, match=message):
        load_recipe("starter", [*kept, *TRAINED_ENCODER, override])


def test_an_unknown_recipe_names_the_shipped_ones():
    with pytest.raises(VistuneError, match="starter"):
        load_recipe("no-such-recipe")


def test_a_file_that_is_no_mapping_is_refused(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("- just\n- a list\n")
    with pytest.raises(VistuneError, match="mapping"):
        load_recipe(str(path))


def test_the_template_of_a_stage_is_its_own_or_the_models():
    recipe = load_recipe("starter", ["stages.align.template=plain"])
    assert (recipe.template_of("align"), recipe.template_of("instruct")) == ("plain", "short")

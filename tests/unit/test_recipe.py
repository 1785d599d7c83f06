"""Recipes are strict: what would be ignored is refused, and the message helps."""

import pytest

from vistune.errors import VistuneError
from vistune.recipe import load_recipe, shipped_recipes


def test_every_shipped_recipe_is_valid():
    recipes = {name: load_recipe(name) for name in shipped_recipes()}
    assert sorted(recipes) == ["starter"]
    assert all(set(recipe.stages) == {"align", "instruct"} for recipe in recipes.values())
    assert recipes["starter"].stages["align"].trains == ("connector",)
    assert recipes["starter"].stages["instruct"].trains == ("connector", "llm")


def test_an_override_changes_one_setting():
    overrides = ["stages.instruct.epochs=7", "precision=bfloat16", "stages.instruct.data.detail.json=0.9"]
    recipe = load_recipe("starter", overrides)
    assert recipe.stages["instruct"].data["detail.json"] == 0.9
    assert recipe.stages["instruct"].epochs == 7
    assert recipe.precision == "bfloat16"
    assert recipe.stages["align"] == load_recipe("starter").stages["align"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.align.learning_rat=1", "did you mean 'learning_rate'"),
        ("stages.align.batch_size=0", "stages.align.batch_size"),
        ("stages.middle.epochs=1", "no section 'middle' there"),
        ("model.connector=cubic", "model.connector"),
        ("epochs", "expected key=value"),
    ],
)
def test_a_wrong_override_is_refused_with_its_name(override, message):
    with pytest.raises(VistuneError, match=message):
        load_recipe("starter", [override])


def test_an_unknown_recipe_names_the_shipped_ones():
    with pytest.raises(VistuneError, match="starter"):
        load_recipe("no-such-recipe")


def test_a_file_that_is_no_mapping_is_refused(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("- just\n- a list\n")
    with pytest.raises(VistuneError, match="mapping"):
        load_recipe(str(path))

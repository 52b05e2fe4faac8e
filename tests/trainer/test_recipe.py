import json
from pathlib import Path

import pytest

from contracts.errors import InvalidInput
from trainer.recipe import RECIPES, Recipe, read_recipe


def test_every_bundled_recipe_reads_by_its_name() -> None:
    recipes = {file.stem: read_recipe(file.stem) for file in RECIPES.glob("*.json")}
    assert {name: recipe.method for name, recipe in recipes.items()} == {
        "demo": "qlora",
        "demo_full": "full",
        "demo_lora": "lora",
        "demo_raft": "raft",
        "full": "full",
        "lora": "lora",
        "qlora": "qlora",
        "raft": "raft",
    }
    in_4_bit = {name for name, recipe in recipes.items() if recipe.quantization == "nf4"}
    assert in_4_bit == {"demo", "demo_raft", "qlora", "raft"}
    assert recipes["qlora"].model_copy(update={"method": "lora"}) == recipes["lora"]


def test_a_file_of_the_user_is_a_recipe(tmp_path: Path) -> None:
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps({"method": "lora", "rank": 3}))
    assert read_recipe(str(mine)).rank == 3


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"method": "prompt"}', "method"),
        ('{"method": "lora", "learning_rat": 1}', "learning_rat"),
        ('{"method": "lora", "rank": 0}', "rank"),
        ('{"method": "lora", "alpha": NaN}', "alpha"),
        ("{", "JSON"),
    ],
)
def test_a_wrong_recipe_is_refused_with_the_field(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=named):
        read_recipe(str(path))


def test_an_unknown_recipe_names_those_there_are() -> None:
    with pytest.raises(InvalidInput, match=r"demo, demo_full, demo_lora, demo_raft, full, lora, qlora, raft"):
        read_recipe("qlroa")


def test_steps_follow_from_rows_epochs_and_bound() -> None:
    recipe = Recipe(method="lora", batch_size=4, gradient_accumulation=2, epochs=3, evals_per_epoch=2)
    assert (recipe.steps(33), recipe.eval_steps(33)) == (15, 2)
    assert recipe.model_copy(update={"max_steps": 7}).steps(33) == 7

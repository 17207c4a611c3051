"""docs/reference/methods.md says what the registry says, and docs/reference/recipes.md shows a recipe that works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from studio import methods
from studio.recipes.recipe import FORMAT, Recipe, Source, UnitEdits, View, read_yaml
from tools.sections.methods import section

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "reference" / "methods.md"
RECIPES = DOCS / "reference" / "recipes.md"


@pytest.mark.parametrize("id", methods())
def test_every_method_has_its_section(id: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    wanted = f"docs/reference/methods.md has no section `## … (`{id}`)` with the marks <!-- {id} --> and <!-- /{id} -->"
    assert f"(`{id}`)\n" in page, wanted
    assert f"<!-- {id} -->\n" in page, wanted
    assert page.count(section(methods()[id])) == 1, "run `python -m tools.document`"


def test_the_examples_are_recipes() -> None:
    examples = re.findall(r"```yaml\n(.*?)```", RECIPES.read_text(encoding="utf-8"), re.DOTALL)
    recipes = [read_yaml(example) for example in examples]
    assert recipes
    assert all(recipe.format == FORMAT and recipe.sources for recipe in recipes)


@pytest.mark.parametrize("model", [Recipe, Source, UnitEdits, View])
def test_every_field_is_explained(model: type[Recipe | Source | UnitEdits | View]) -> None:
    text = RECIPES.read_text(encoding="utf-8")
    assert [field for field in model.model_fields if f"| `{field}` |" not in text] == []

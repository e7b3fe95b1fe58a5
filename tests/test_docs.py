"""Pages name what there is: tests that hold the promises, strategies, what their modules and bases may define."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
NAMED = re.findall(r"(test_\w+\.py)::(test_\w+)( \*slow\*)?", PAGE)


def decorators(file: str) -> dict[str, list[str]]:
    """The tests of a file with their decorators."""
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {one.name: [ast.unparse(decorator) for decorator in one.decorator_list] for one in functions}


def test_there_are_many() -> None:
    assert len(NAMED) > 40


@pytest.mark.parametrize(("file", "name", "slow"), sorted(set(NAMED)))
def test_each_promise_names_a_test(file: str, name: str, slow: str) -> None:
    found = decorators(file)
    assert name in found
    assert bool(slow) == any(decorator == "pytest.mark.slow" for decorator in found[name])


def test_the_page_of_strategies_has_each_of_them() -> None:
    page = (ROOT / "docs" / "strategies.md").read_text(encoding="utf-8")
    table = page[page.index("## All strategies") : page.index("## Does it do")]
    listed = [name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split(" | ")[0])]
    assert sorted(listed) == sorted(path.stem for path in (ROOT / "strategies").glob("*.py") if path.stem != "__init__")


def is_stored(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def test_the_page_of_strategies_has_what_a_module_may_define() -> None:
    page = (ROOT / "docs" / "strategies.md").read_text(encoding="utf-8").partition("## What a strategy's module")[2]
    listed = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    platform = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "platform").rglob("*.py"))
    for name in listed - {"NEUTRAL"}:  # which the laws ask for
        assert re.search(rf"[\".]{name}\b", platform), f"nobody asks for {name}"
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "strategies").glob("*.py")]
    statements = [line for tree in trees for line in tree.body if isinstance(line, ast.Assign | ast.AnnAssign)]
    stored = [node.id for statement in statements for node in ast.walk(statement) if is_stored(node)]
    own = {"NEUTRAL_REASON", "RIDGES"}  # the second one is ranpac's
    assert {name for name in stored if name.isupper() and name[0] != "_" and len(name) > 1} <= listed | own
    bases = re.findall(r"`(\w+)` \(([\w/]+)\.py\)", page)
    assert len(bases) >= 7
    for base, file in bases:
        assert f"class {base}" in (ROOT / "platform" / f"{file}.py").read_text(encoding="utf-8")

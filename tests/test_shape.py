"""Limits that ruff does not check: lengths of files and functions, what the repository must not hold."""

import ast
import io
import re
import subprocess
import tokenize
from importlib import import_module
from pathlib import Path

import pytest

from retain import Plugin

ROOT = Path(__file__).resolve().parent.parent
FILES = [path for folder in ("platform", "strategies", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]


def function_lengths() -> dict[str, int]:
    """Lines of each function, nested ones too, without docstring and decorators."""
    sizes = {}
    for path in [ROOT / "__init__.py", *FILES]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if ast.get_docstring(node, clean=False) is not None:
                    lines -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
                sizes[f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"] = lines
    return sizes


def longest(sizes: dict[str, int], above: int) -> list[str]:
    """What exceeds a limit, the longest first."""
    return [f"{size} {where}" for where, size in sorted(sizes.items(), key=lambda item: -item[1]) if size > above]


def test_files_are_short() -> None:
    sizes = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert longest(sizes, 400) == []


def test_functions_are_short() -> None:
    assert longest(function_lengths(), 50) == []


def num_code_lines(path: Path) -> int:
    """Lines with code: no docstrings, comments and blank lines."""
    text = path.read_text(encoding="utf-8")
    of_docstrings: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            of_docstrings |= {*range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _LAYOUT:
            lines |= {*range(token.start[0], token.end[0] + 1)}
    return len(lines - of_docstrings)


_LAYOUT = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
STRATEGIES = [path for path in sorted((ROOT / "strategies").glob("*.py")) if path.stem != "__init__"]


def test_strategies_hold_the_formula_and_little_else() -> None:
    sizes = {path.stem: num_code_lines(path) for path in STRATEGIES}
    assert sum(sizes.values()) / len(sizes) <= 45, sizes
    assert sizes["lwf"] <= 50 and sizes["ewc"] <= 50


@pytest.mark.parametrize("name", [path.stem for path in STRATEGIES])
def test_a_strategy_is_at_most_two_classes_deep(name: str) -> None:
    """Its own class and one base, both below `Plugin`."""
    module = import_module(f"retain.strategies.{name}")
    plugins = [each for each in vars(module).values() if isinstance(each, type) and issubclass(each, Plugin)]
    (own,) = [each for each in plugins if each.__module__ == module.__name__]
    below = [each for each in own.__mro__ if issubclass(each, Plugin) and each is not Plugin]
    assert len(below) <= 2, below


def tracked() -> list[Path]:
    """The repository's files, as git lists them (new ones that it does not ignore too)."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        pytest.skip("not a git checkout")
    return [path for line in ended.stdout.splitlines() if (path := ROOT / line).is_file()]


def test_no_path_of_a_machine_is_shipped() -> None:
    pattern = re.compile(r"(?<![\w.])/(?:root|work|tmp|home)(?:/|\b)")
    found = []
    for path in tracked():
        if path.is_relative_to(ROOT / "tests") or path.suffix in (".png", ".jpg", ".gif"):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert found == []


def test_the_lock_file_stays_out_of_git() -> None:
    assert ROOT / "uv.lock" not in tracked()
    assert "uv.lock" in (ROOT / ".gitignore").read_text().splitlines()

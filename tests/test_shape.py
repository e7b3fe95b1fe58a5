"""The budgets of the code's shape: sizes, annotations, docstrings, prints, handlers, paths."""

import ast
import re
import statistics
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("platform", "strategies", "benchmarks")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
Definition = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Function:
    """A function or method: where it stands and its syntax tree; `public` if its name and all it stands in are."""

    where: str
    node: Definition
    public: bool
    method: bool


@cache
def functions() -> tuple[Function, ...]:
    """Every function of the shipped code, nested ones too."""
    return tuple(found for path in [ROOT / "__init__.py", *FILES] for found in _functions_in(path))


def _functions_in(path: Path) -> Iterator[Function]:
    """The functions of a file."""
    waiting: list[tuple[ast.AST, bool, bool]] = [(ast.parse(path.read_text(encoding="utf-8")), True, False)]
    while waiting:
        node, public, in_class = waiting.pop()
        if isinstance(node, Definition):
            public = public and (not node.name.startswith("_") or node.name == "__getattr__")
            yield Function(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node, public, in_class)
            public = False  # what is inside of a function is its own affair
        if isinstance(node, ast.ClassDef):
            public = public and not node.name.startswith("_")
        in_class = isinstance(node, ast.ClassDef)
        waiting += [(child, public, in_class) for child in ast.iter_child_nodes(node)]


def num_lines(node: Definition) -> int:
    """Lines of a function from `def` to its end, without its docstring and decorators."""
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node, clean=False) is not None:
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def lengths() -> dict[str, int]:
    """Lines of each function."""
    return {function.where: num_lines(function.node) for function in functions()}


def longest(sizes: dict[str, int], above: int) -> list[str]:
    """What exceeds a budget, the longest first."""
    return [f"{size} {where}" for where, size in sorted(sizes.items(), key=lambda item: -item[1]) if size > above]


def file_lengths() -> dict[str, int]:
    """Lines of each file."""
    return {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}


def test_files_are_short() -> None:
    assert longest(file_lengths(), 300) == []


def test_most_files_are_shorter() -> None:
    sizes = file_lengths()
    assert statistics.median(sizes.values()) <= 120, longest(sizes, 120)


def test_a_strategy_is_one_short_file() -> None:
    assert longest({name: size for name, size in file_lengths().items() if name.startswith("strategies/")}, 150) == []


def test_the_trial_is_short() -> None:
    assert file_lengths()["platform/trial/run.py"] < 150


def test_functions_are_short() -> None:
    sizes = lengths()
    assert longest(sizes, 50) == []
    ordered = sorted(sizes.values())
    assert statistics.median(ordered) <= 8
    assert ordered[int(0.9 * len(ordered))] <= 25, longest(sizes, 25)


def test_everything_is_annotated() -> None:
    lacking = []
    for function in functions():
        arguments = function.node.args
        given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        named = [argument for argument in given if argument is not None]
        bare = [a.arg for a in named if a.annotation is None and a.arg not in ("self", "cls")]
        if bare or function.node.returns is None:
            lacking.append(f"{function.where}: {bare or 'what it returns'}")
    assert lacking == []


def test_everything_public_has_a_docstring() -> None:
    lacking = [f.where for f in functions() if f.public and not ast.get_docstring(f.node)]
    for path in [ROOT / "__init__.py", ROOT / "configs" / "__init__.py", *FILES]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        classes = [n for n in tree.body if isinstance(n, ast.ClassDef) and not n.name.startswith("_")]
        lacking += [f"{path.relative_to(ROOT)} {node.name}" for node in classes if not ast.get_docstring(node)]
        if not ast.get_docstring(tree):
            lacking.append(str(path.relative_to(ROOT)))
    assert lacking == []


def test_print_lives_in_the_command_line_only() -> None:
    found = []
    for path in [ROOT / "__init__.py", *FILES]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.stdout.write", "typer.echo"):
                found.append(str(path.relative_to(ROOT)))
    assert set(found) <= {"platform/cli/app.py"}


def test_no_broad_except() -> None:
    broad = []
    for path in [ROOT / "__init__.py", *FILES]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                caught = (
                    {"nothing"}
                    if node.type is None
                    else {part.id for part in ast.walk(node.type) if isinstance(part, ast.Name)}
                )
                if caught & {"nothing", "Exception", "BaseException"}:
                    broad.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert broad == []


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

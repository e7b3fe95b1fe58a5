"""Limits that ruff does not check: lengths of files and functions, what the repository must not hold."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

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

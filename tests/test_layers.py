"""The architecture: import contracts, what is loaded when, and what no shipped line may do."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("platform", "strategies", "benchmarks", "configs")
FILES = [ROOT / "__init__.py"] + [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]

# The only modules at the top of platform/; everything else is in one of its subpackages.
TOP = {"errors", "files", "seeding", "metrics", "run_folders", "disk_errors", "visible_text"}
SUBPACKAGES = {
    *("config", "ledger", "data", "models", "training", "methods", "trial", "sweep", "reporting", "cli", "contract"),
}
# Forbidden imports: the file that one is planted in, the line, the contract of pyproject.toml that it breaks.
PLANTS = {
    "a lower layer imports a higher one": ("platform/data/streams.py", "from ..trial import run", "layers"),
    "inside of a function": ("platform/config/load.py", "def f():\n    from ..data import cache", "layers"),
    "for types only": (
        "platform/models/heads.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..training import learner",
        "layers",
    ),
    "the top imports a subpackage": ("platform/metrics.py", "from .ledger import documents", "layers"),
    "methods and trial do not know each other": ("platform/methods/teacher.py", "from ..trial import state", "layers"),
    "a sweep imports the contract suite": ("platform/sweep/plan.py", "from ..contract import suite", "layers"),
    "reporting imports torch": ("platform/reporting/rows.py", "import torch", "reporting"),
    "reporting imports the trial": ("platform/reporting/rows.py", "from ..trial import state", "reporting"),
    "a strategy imports another": ("strategies/ewc.py", "from . import lwf", "independent"),
    "a benchmark imports a strategy": ("benchmarks/rotated.py", "from ..strategies import lwf", "independent"),
    "a strategy imports the learner": ("strategies/si.py", "from ..platform.training import learner", "strategies"),
    "a benchmark imports a trial": ("benchmarks/permuted.py", "from ..platform.trial import run", "strategies"),
    "platform imports a strategy": ("platform/methods/teacher.py", "from ...strategies import lwf", "plugins"),
    "a cycle": ("platform/data/cache_entry.py", "from . import cache", "acyclic"),
    "ray outside of sweep": ("platform/trial/run.py", "import ray", "ray"),
    "optuna outside of sweep": ("platform/trial/run.py", "import optuna", "optuna"),
    "wandb outside of reporting": ("platform/trial/run.py", "import wandb", "wandb"),
    "avalanche elsewhere": ("platform/training/evaluation.py", "import avalanche", "avalanche"),
    "pandas outside of reporting": ("platform/cli/tables.py", "import pandas", "pandas"),
    "omegaconf outside of config": ("platform/trial/run.py", "import omegaconf", "omegaconf"),
    "torchvision elsewhere": ("platform/models/heads.py", "import torchvision", "torchvision"),
    "timm elsewhere": ("platform/models/heads.py", "import timm", "timm"),
    "sklearn elsewhere": ("platform/data/streams.py", "import sklearn", "sklearn"),
    "typer outside of cli": ("platform/sweep/run.py", "import typer", "typer"),
    "plotly outside of reporting": ("platform/cli/tables.py", "import plotly", "plotly"),
    "jinja2 outside of reporting": ("platform/cli/tables.py", "import jinja2", "jinja2"),
}


@dataclass(frozen=True)
class Import:
    """One imported module: ours by its name under retain ("platform.config"), others by their full name."""

    importer: str
    imported: str
    ours: bool
    line: int


def name_of(path: Path) -> str:
    """``platform/metrics.py`` -> ``platform.metrics``; a package's ``__init__`` is the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


NAMES = {name_of(path): path for path in FILES}


@cache
def tree_of(path: Path) -> ast.Module:
    """A file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def imports() -> tuple[Import, ...]:
    """Every import of the repository, those inside of functions too."""
    return tuple(found for path in FILES for found in _imports_of(path))


def _imports_of(path: Path) -> Iterator[Import]:
    """A file's imports."""
    importer = name_of(path)
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for imported, ours in _targets(node, path):
                yield Import(importer, imported, ours, node.lineno)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield Import(importer, _literal_start(node.args[0]), False, node.lineno)


def _targets(node: ast.Import | ast.ImportFrom, path: Path) -> Iterator[tuple[str, bool]]:
    """The modules that a statement names: ``from . import plugins`` is plugins, ``from .config import build`` is config."""
    if isinstance(node, ast.Import):
        yield from ((alias.name, False) for alias in node.names)
        return
    if node.level == 0:
        yield node.module or "", False
        return
    package = path.relative_to(ROOT).parent.parts
    base = [*package[: len(package) - node.level + 1], *(node.module.split(".") if node.module else [])]
    for alias in node.names:
        full = ".".join([*base, alias.name])
        yield (full if full in NAMES else ".".join(base)), True


def _literal_start(node: ast.expr) -> str:
    """What is known of a name that is put together at run time: its first literal part."""
    part = node.values[0] if isinstance(node, ast.JoinedStr) else node
    return str(part.value) if isinstance(part, ast.Constant) else ""


CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def linted(folder: Path, plants: Iterable[tuple[str, str, str]]) -> tuple[dict[str, str], str]:
    """Verdicts on the contracts for a copy of the shipped code with these lines planted, and import-linter's report."""
    for path in FILES:
        copy = folder / "retain" / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    for file, line, _ in plants:
        with (folder / "retain" / file).open("a") as open_file:
            open_file.write(f"\n\n{line}\n")
    program = "import sys; from importlinter.cli import lint_imports; sys.path.insert(0, '.')\n"
    program += f"sys.exit(lint_imports(config_filename={str(ROOT / 'pyproject.toml')!r}, no_cache=True))"
    ended = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=300)
    text = " ".join(ended.stdout.split())  # it wraps long names
    assert "kept," in text, ended.stdout + ended.stderr
    return {contract["id"]: text.partition(contract["name"])[2].split()[0] for contract in CONTRACTS}, text


def test_each_contract_has_a_plant() -> None:
    assert {contract for _, _, contract in PLANTS.values()} == {contract["id"] for contract in CONTRACTS}


def test_strategies_may_import_three_modules_of_training() -> None:
    """The contract lists what is forbidden: everything else that there is."""
    (forbidden,) = [contract["forbidden_modules"] for contract in CONTRACTS if contract["id"] == "strategies"]
    modules = {path.stem for path in (ROOT / "platform/training").iterdir() if not path.name.startswith("__")}
    listed = {name.rpartition(".")[2] for name in forbidden if name.startswith("retain.platform.training.")}
    assert modules - listed == {"plugin", "plugin_api", "learner_view"}


def test_the_contracts_are_kept(tmp_path: Path) -> None:
    verdicts, _ = linted(tmp_path, ())
    assert set(verdicts.values()) == {"KEPT"}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], str]:
    """All plants at once."""
    return linted(tmp_path_factory.mktemp("planted"), PLANTS.values())


@pytest.mark.parametrize("plant", PLANTS)
def test_a_forbidden_import_breaks_its_contract(plant: str, planted: tuple[dict[str, str], str]) -> None:
    file, line, contract = PLANTS[plant]
    verdicts, report = planted
    assert verdicts[contract] == "BROKEN"
    name = next(c["name"] for c in CONTRACTS if c["id"] == contract)
    section = re.split(r" -{8,} ", report.partition("Broken contracts")[2].partition(name)[2])[1]
    importer = "retain." + file.removesuffix(".py").replace("/", ".")
    imported = line.rpartition("import ")[2]
    found = re.findall(r"([\w.]+) -> ([\w.]+)", section)
    assert any(importer.endswith(one) and other.rpartition(".")[2] == imported for one, other in found), section


def test_the_top_of_platform_is_small() -> None:
    there = {path.stem for path in (ROOT / "platform").iterdir() if path.name != "__pycache__"}
    assert there == TOP | SUBPACKAGES


def test_our_own_imports_are_relative() -> None:
    assert [f for f in imports() if not f.ours and f.imported.partition(".")[0] == "retain"] == []
    inside = {"platform", "strategies", "benchmarks", "configs"}
    standard = "platform"  # as an absolute import, the standard library's
    wrong = [f for f in imports() if not f.ours and f.imported.split(".")[0] in inside and f.imported != standard]
    assert wrong == []


def test_no_regular_package_of_the_name_platform() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()


def test_no_file_in_platform_hides_a_standard_module() -> None:
    stems = {path.stem for path in (ROOT / "platform").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert sorted(stems & sys.stdlib_module_names) == []


LOADED = """
import importlib, sys
before = set(sys.modules)
for name in sys.argv[2:]:
    importlib.import_module(name)
print(sorted({name.partition(".")[0] for name in set(sys.modules) - before} & set(sys.argv[1].split(","))))
"""


def loaded(modules: list[str], packages: str) -> str:
    """Which of the packages are in memory after the modules were imported in a fresh process."""
    command = [sys.executable, "-c", LOADED, packages, *modules]
    ended = subprocess.run(command, cwd=ROOT.parent, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_importing_retain_loads_nothing_heavy() -> None:
    heavy = "torch,ray,avalanche,wandb,plotly,sklearn,torchvision,numpy,omegaconf,pydantic,yaml,typer,rich"
    assert loaded(["retain"], heavy) == "[]"


def test_strategies_benchmarks_and_networks_load_torch_at_most() -> None:
    modules = [f"retain.{name}" for name in NAMES if name.split(".")[0] in ("strategies", "benchmarks")]
    modules += [
        f"retain.{name}" for name in NAMES if name.startswith(("platform.models.networks", "platform.training.probes"))
    ]
    assert len(modules) > 10
    assert loaded(modules, "avalanche,torchvision,sklearn,ray,wandb,plotly,pandas,jax,torch") == "['torch']"


def test_reading_ledgers_and_settings_needs_no_torch() -> None:
    light = ["cli.app", "config.load", "config.schema", "config.yaml_overrides", "ledger.writer", "errors", "files"]
    light += ["config.registry", "reporting.projector", "cli.listing"]
    assert loaded([f"retain.platform.{name}" for name in light], "torch,ray,avalanche,wandb,plotly,numpy") == "[]"


def test_a_trial_never_loads_ray() -> None:
    assert loaded(["retain.platform.trial.run"], "ray,plotly") == "[]"


# --- what no shipped line may do ---


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """(file and line, what is called, the call) for every call in shipped code."""
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", ast.unparse(node.func), node


def test_every_torch_load_has_weights_only() -> None:
    for where, name, call in calls():
        if name.endswith("torch.load") or name == "torch.load":
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert given.get("weights_only") == "True", where


def test_torch_load_is_called_by_its_full_name() -> None:
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "torch":
                assert not {"load", "serialization"} & {alias.name for alias in node.names}, path


def test_nothing_is_unpickled_or_evaluated() -> None:
    modules = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
    assert [f for f in imports() if f.imported.split(".")[0] in modules] == []
    wrong = [
        w for w, name, _ in calls() if name in ("eval", "exec", "compile", "__import__") or name.endswith("os.system")
    ]
    assert wrong == []


def test_yaml_is_read_by_safe_loaders_only() -> None:
    safe = {"yaml.SafeLoader", "SafeLoader", "yaml.CSafeLoader"}
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ClassDef) and {ast.unparse(base) for base in node.bases} & safe:
                safe.add(node.name)
    assert "_Loader" in safe
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            named = (
                node.attr if isinstance(node, ast.Attribute) else node.value if isinstance(node, ast.Constant) else ""
            )
            if isinstance(named, str) and named.endswith("Loader"):
                assert named in ("SafeLoader", "CSafeLoader"), f"{path}:{node.lineno}"
    for where, name, call in calls():
        if name.startswith("yaml.") and name.endswith(("load", "load_all", "compose", "scan", "parse")):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert name.startswith("yaml.safe_") or given.get("Loader") in safe, where
        assert not name.startswith(("yaml.unsafe_", "yaml.full_")), where


def test_numpy_loads_without_pickle() -> None:
    for where, name, call in calls():
        if name in ("np.load", "numpy.load"):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert given.get("allow_pickle", "False") == "False", where

"""The architecture: who may import whom, what is loaded when, and what no shipped line may do."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("platform", "strategies", "benchmarks", "configs")
FILES = [ROOT / "__init__.py"] + [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]

# A module may import modules of lower layers, and of its own layer as long as there is no cycle.
LAYERS: list[set[str]] = [
    {
        "errors",
        "files",
        "config.schema",
        "metrics",
        "seeding",
        "data.streams",
        "config.dotted_paths",
        "training.plugin",
        "config.registry",
        "models.heads",
    },
    {
        "data.resident_loader",
        "config.yaml_overrides",
        "data.cache_entry",
        "data.cache",
        "data.image_decoding",
        "data.image_cache",
        "data.dataset",
        "data.dataset_key",
        "ledger.reader",
        "ledger.writer",
        "trial.state_codec",
        "trial.checkpoint",
        "disk_errors",
        "data.subsampling",
        "data.class_streams",
        "data.domain_streams",
        "data.image_rotation",
        "data.image_filters",
        "data.corruptions",
        "data.image_styles",
        "data.synthetic_domain_streams",
        "training.evaluation",
        "methods.validation_samples",
        "models.batchnorm",
        "methods.probability_averaging",
        "training.probes._base",
        "models.blocks",
        "methods.freezing",
        "training.frozen_feature_cache",
        "models.features",
        "models.activation_capture",
        "methods.feature_classifier",
        "methods.prompted_vit",
        "methods.teacher",
        "methods.layer_distillation",
        "methods.replay_memory",
        "methods.herded_memory",
        "methods.bias_correction",
        "methods.balanced_finetuning",
        "methods.quadratic_penalty",
        "methods.sample_selection",
        "methods.reservoir_memory",
        "trial.environment",
        "config.load",
        "data.augmentation.pipeline",
        "data.augmentation",
    },
    {"models.networks", "data.datasets", "benchmarks", "strategies", "training.probes"},
    {
        "training.optimization",
        "data.avalanche_export",
        "data.avalanche_import",
        "training.avalanche_template",
        "training.learner_state",
        "training.learner",
        "trial.builder",
    },
    {"trial.stop_request", "trial.torch_settings", "trial.failure_status", "trial.state", "trial.run"},
    {
        "cli.listing",
        "sweep.plan",
        "sweep.estimate",
        "sweep.run",
        "sweep.ray_cluster",
        "sweep.ray_tune",
        "sweep.ray_worker",
        "reporting.rows",
        "reporting.wandb_runs",
        "reporting.projector",
        "reporting.results",
        "reporting.charts",
        "reporting.probe_section",
        "reporting.html_parts",
        "reporting.html_report",
        "cli.image_sheet",
    },
    {"cli.progress", "cli.exit_report", "cli.prepare", "cli.ensemble", "cli.app"},
]
ONLY = {  # who may import what
    "ray": {"platform.sweep.ray_tune", "platform.sweep.ray_cluster"},
    "wandb": {"platform.reporting.wandb_runs"},
    "tensorboard": {"platform.reporting.wandb_runs"},
    "omegaconf": {"platform.config.yaml_overrides"},
    "avalanche": {"platform.training.avalanche_template", "platform.data.avalanche_export"},
    "torchvision": {"platform.data.datasets._download", "platform.models.networks.torchvision"},
    "timm": {"platform.models.networks.timm"},
    "sklearn": {"platform.data.datasets.digits"},
    "typer": {"platform.cli.app", "platform.cli.exit_report"},
}


@dataclass(frozen=True)
class Import:
    """One imported module: ours by its name under retain ("platform.config"), others by their full name."""

    importer: str
    imported: str
    ours: bool
    at_top: bool
    typing_only: bool
    line: int


def name_of(path: Path) -> str:
    """``platform/config.py`` -> ``platform.config``; a package's ``__init__`` is the package."""
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
    waiting: list[tuple[ast.AST, bool, bool]] = [(node, True, False) for node in tree_of(path).body]
    while waiting:
        node, at_top, typing_only = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            for imported, ours in _targets(node, path):
                yield Import(importer, imported, ours, at_top, typing_only, node.lineno)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield Import(importer, _literal_start(node.args[0]), False, at_top, typing_only, node.lineno)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        guard = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        waiting += [(child, at_top and not inside, typing_only or guard) for child in ast.iter_child_nodes(node)]


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


def layer(name: str) -> int | None:
    """The number of a module's layer; None for packages' own files, which hold nothing but a docstring or lazy names."""
    key = name.partition(".")[0] if name.startswith(("benchmarks", "strategies")) else name.removeprefix("platform.")
    return next(
        (n for n, members in enumerate(LAYERS) if any(f"{key}.".startswith(f"{one}.") for one in members)), None
    )


def test_every_module_has_a_layer() -> None:
    known = {name_of(path) for path in FILES if path.name == "__init__.py"}
    assert [name for name in NAMES if name not in known and layer(name) is None] == []
    members = {name.removeprefix("platform.") for name in NAMES}
    assert sorted(set.union(*LAYERS) - members) == []  # and no layer holds a module that is not there


def test_layers_point_one_way() -> None:
    upwards = [
        f"{found.importer}:{found.line} imports {found.imported}"
        for found in imports()
        if found.ours and not found.typing_only
        if (low := layer(found.importer)) is not None and (high := layer(found.imported)) is not None and high > low
    ]
    assert upwards == []


def test_no_import_cycles() -> None:
    below = {
        name: {f.imported for f in imports() if f.importer == name and f.ours and not f.typing_only} for name in NAMES
    }
    cycles: list[str] = []

    def walk(name: str, trail: tuple[str, ...]) -> None:
        if name in trail:
            cycles.append(" -> ".join([*trail[trail.index(name) :], name]))
            return
        if name not in seen:
            for imported in sorted(below.get(name, ())):
                walk(imported, (*trail, name))
            seen.add(name)

    seen: set[str] = set()
    for name in NAMES:
        walk(name, ())
    assert cycles == []


def test_benchmarks_and_strategies_do_not_know_each_other() -> None:
    forbidden = {"benchmarks": "strategies", "strategies": "benchmarks"}
    for found in imports():
        kind = found.importer.partition(".")[0]
        if kind in forbidden and found.ours:
            assert not found.imported.startswith(forbidden[kind]), found
            assert found.imported.partition(".")[0] in (kind, "platform"), found


@pytest.mark.parametrize("package", ONLY)
def test_only_these_import(package: str) -> None:
    found = {one.importer for one in imports() if not one.ours and one.imported.split(".")[0] == package}
    if package == "tensorboard":
        found |= {one.importer for one in imports() if one.imported.startswith("torch.utils.tensorboard")}
    assert found <= ONLY[package]
    assert found, f"nobody imports {package}: take it out of the table"


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
    ended = subprocess.run(command, cwd=ROOT.parent, capture_output=True, text=True, timeout=120)
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
    """Nor wandb by itself: Avalanche's loggers import that, so it is looked for in our own imports."""
    assert loaded(["retain.platform.trial.run"], "ray,plotly") == "[]"
    reached, waiting = set[str](), ["platform.trial.run"]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += [found.imported for found in imports() if found.importer == name and found.ours]
    assert "platform.training.learner" in reached
    assert [f for f in imports() if f.importer in reached and f.imported.split(".")[0] in ("ray", "wandb")] == []


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

"""`retain check`: each check fails for the module with just that fault; the examples of the docs and shipped modules pass."""

import re
import sys
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

import retain
from retain.platform.cli.app import main
from retain.platform.contract import random_pictures
from retain.platform.contract.checks import Result, run_checks
from retain.platform.contract.kinds import KINDS, kind_of
from retain.platform.contract.suite import checks_for
from retain.platform.errors import UserError

ROOT = Path(retain.__file__).parent
PLUGINS = Path(__file__).parent / "plugins"
STOPPED = (
    "stopped mid-experience and resumed, the bits are the same (split)",
    "stopped mid-experience and resumed, the bits are the same (rotated)",
    "stopped between experiences and resumed, the bits are the same",
)
LEAK = "no test or validation sample is trained on"
NEUTRAL = "neutral settings give the bits of plain finetuning"
WITHOUT_TRIAL = (
    "Config is a frozen dataclass",
    "each setting is described",
    "settings come back from YAML",
    "settings can be sent to another process",
    "hooks and declarations have names that are known",
    "ROLES and CONFLICTS are valid",
    "it runs in a plain Avalanche script",
)
# A module in tests/plugins/broken -> the checks that fail, and a part of what the first of them says.
BROKEN: dict[str, tuple[tuple[str, ...], str]] = {
    "not_frozen": (("Config is a frozen dataclass",), "write @settings"),
    "undescribed": (("each setting is described",), "add a line 'weight: ...'"),
    "doubles": (("settings come back from YAML",), "settings differ after YAML"),
    "hidden_config": (("settings can be sent to another process",), "Config is not found as"),
    "misspelt_hook": (("hooks and declarations have names that are known",), "Did you mean 'before_training_exp'?"),
    "misspelt_declaration": (("hooks and declarations have names that are known",), "Did you mean 'CONFLICTS'?"),
    "conflicts_with_nobody": (("ROLES and CONFLICTS are valid",), "Did you mean 'lwf'?"),
    "raises": (("a short trial runs",), "ZeroDivisionError: division by zero (raises.py, line"),
    "never_neutral": ((NEUTRAL,), "differ from plain finetuning"),
    "no_neutral": ((NEUTRAL,), "declare NEUTRAL"),
    "does_nothing": (("its settings change something",), "neither weights nor accuracies"),
    "draws_globally": (("the same seed gives the same bits",), "generator made of the plugin's seed"),
    "changes_in_evaluation": (("evaluation changes nothing",), "evaluation changes: the plugins' state"),
    "leaves_hook": (("nothing is left in the network at the end",), "hooks are left in the network"),
    "leaves_frozen": (("nothing is left in the network at the end",), "parameters are still frozen at the end"),
    "forgets_state": (STOPPED, "STATE or state_dict must hold everything"),
    "loses_its_past": (STOPPED, "Broken has a state_dict and no load_state_dict"),
    "forgets_on_resume": (STOPPED[:2], "on_start or on_resume"),
    "network_one_output": (("its output is finite and of shape (B, classes)",), "4 samples give shape (4, 2)"),
    "network_draws_globally": (("its weights follow from the generator alone",), "trunk.1.weight"),
    "network_head_forgets": (("its head grows with the classes",), "the logits of the old classes change"),
    "network_unused_parameter": (("every parameter gets a gradient",), "trunk.scale"),
    "network_counts_in_evaluation": (("evaluation mode draws and changes nothing",), "trunk.passes"),
    "network_drops_in_evaluation": (("evaluation mode draws and changes nothing",), "unless self.training"),
    "network_sees_the_batch": (("evaluation mode draws and changes nothing",), "depend on the other samples"),
    "network_hides_a_tensor": (("its state_dict holds everything",), "register tensors as parameters or buffers"),
    "network_one_shape_only": (("it takes another shape than [1, 8, 8], or refuses it",), "raise retain.UserError"),
    "benchmark_leaks": ((LEAK,), "20 of its samples are in a training part too"),
    "benchmark_copies": ((LEAK,), "160 of 160 test samples are equal to a training sample"),
    "benchmark_draws_globally": (("same seed, same stream",), "torch.Generator made of the seed"),
    "benchmark_empty": (("no experience is empty",), "experience 2 (blobs (2, 3)), test: has no samples"),
    "benchmark_unordered": (("labels, classes and scenario agree",), "number them from 0 as they appear"),
    "benchmark_wrong_scenario": (("labels, classes and scenario agree",), "each experience has all classes"),
    "benchmark_wrong_format": (("samples and labels have the format that the loader takes",), "must be int64"),
    "probe_misspelt": (("its methods have names that are known",), "Did you mean 'after_experience'?"),
    "probe_changes_batchnorm": (("a trial with it has the bits of one without",), "it must change no weight, buffer"),
    "probe_is_silent": (("its values are numbers",), "it has measured nothing"),
    "probe_returns_text": (("its values are numbers",), "is no number: return floats by name"),
    "probe_forgets_state": (("stopped and resumed, each value is there once",), "state_dict must hold all"),
    "data_set_of_floats": (("pictures, labels and statistics have the expected form",), "must be (N, C, H, W) uint8"),
    "data_set_unseeded": (("it is the same when it is built again", "same seed, same stream"), "seed what is random"),
}
# No faults: what does not apply, and why.
NOT_APPLICABLE = {
    "no_state": (("it has a state to resume from", *STOPPED), "a stopped trial starts again from its first experience"),
    "needs_our_learner": (("it runs in a plain Avalanche script",), "it uses learner.seed_data"),
    "network_fixed_head": (("its head grows with the classes",), "set training.full_head=true"),
}


def check(name: str, folder: Path, only: Collection[str] | None = None, **settings: object) -> list[Result]:
    """Return the results of a module's checks; `only`: of these checks."""
    checks = checks_for(kind_of(name), name, settings, folder)
    return list(run_checks([each for each in checks if only is None or each.text in only]))


def ended(results: list[Result], state: str) -> dict[str, str]:
    """Return the checks that ended in this way, with the reasons."""
    return {result.text: result.reason for result in results if result.state == state}


@pytest.fixture
def folder(quick_folder: Path, tmp_path: Path) -> Path:
    """Return a new folder, in memory if possible."""
    new = quick_folder / f"contract-{tmp_path.name}"
    new.mkdir()
    return new


def test_each_broken_module_is_in_the_table() -> None:
    assert {path.stem for path in (PLUGINS / "broken").glob("*.py")} == BROKEN.keys() | NOT_APPLICABLE.keys()


STRATEGIES = [name for name in BROKEN if name.split("_")[0] not in ("network", "benchmark", "probe", "data")]


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategys_fault_fails_its_check(name: str, folder: Path) -> None:
    """Without the other checks that need trials, which take seconds; they pass for the shipped and documented strategies."""
    checks, reason = BROKEN[name]
    failed = ended(check(f"plugins.broken.{name}", folder, {*checks, *WITHOUT_TRIAL}), "failed")
    assert tuple(failed) == checks, failed
    assert reason in failed[checks[0]]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in STRATEGIES else []) for name in BROKEN]
)
def test_a_fault_fails_no_other_check(name: str, folder: Path) -> None:
    checks, reason = BROKEN[name]
    failed = ended(check(f"plugins.broken.{name}", folder), "failed")
    assert tuple(failed) == checks, failed
    assert reason in failed[checks[0]]


@pytest.mark.parametrize("name", NOT_APPLICABLE)
def test_what_does_not_apply_is_said(name: str, folder: Path) -> None:
    checks, reason = NOT_APPLICABLE[name]
    results = check(f"plugins.broken.{name}", folder, {*checks, "a short trial runs"})
    assert ended(results, "failed") == {}
    skipped = ended(results, "not applicable")
    assert tuple(skipped) == checks, skipped
    assert reason in skipped[checks[0]]


def test_checks_that_need_a_trial_wait_for_one(folder: Path) -> None:
    results = check("plugins.broken.raises", folder)
    place = [result.text for result in results].index("a short trial runs")
    assert {result.state for result in results[place + 1 :]} == {"not applicable"}


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Put the modules of docs/extending.md on the path; return their dotted paths."""
    users, names = tmp_path_factory.mktemp("users"), []
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.DOTALL):
        path = users / block.partition("\n")[0].removeprefix("# ").replace("mine/", "documented/")
        path.parent.mkdir(exist_ok=True)
        path.write_text(block)
        names.append(f"documented.{path.stem}")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(users)
        yield names
    for name in [name for name in sys.modules if name.partition(".")[0] == "documented"]:
        del sys.modules[name]


def test_the_examples_of_the_docs_keep_the_contract(mine: list[str], folder: Path) -> None:
    kinds = {kind_of(name) for name in mine}
    assert kinds == set(KINDS)
    for number, name in enumerate(mine):
        (folder / str(number)).mkdir()
        assert ended(check(name, folder / str(number)), "failed") == {}, name


@pytest.mark.parametrize("name", ["lwf", "stability_gap", "permuted_digits", "small_cnn", "digits"])
def test_shipped_modules_keep_the_contract(name: str, folder: Path) -> None:
    """tests/test_laws.py and the tests of each kind look at all of them."""
    results = check(name, folder, **({"every": 4} if name == "stability_gap" else {}))
    assert ended(results, "failed") == {}
    assert len(results) >= 9


def test_avalanches_plugins_and_benchmarks_can_be_checked(folder: Path) -> None:
    results = check("avalanche.training.plugins.EWCPlugin", folder, ewc_lambda=1.0)
    assert ended(results, "failed") == {}
    assert len(ended(results, "not applicable")) >= 4
    assert kind_of("avalanche.benchmarks.SplitMNIST") == "benchmark"


REFUSED = [
    (["lfw"], "check lfw: there is no such name. Did you mean 'lwf'?"),
    (["lwf", "wieght=2"], "strategies.lwf.wieght: unknown key. Did you mean 'weight'?"),
    (["lwf", "weight=-1"], "strategies.lwf.weight=-1: must be"),
    (["lwf", "--kind", "stratgy"], "--kind stratgy: there is no such kind. Did you mean 'strategy'?"),
    (["plugins.nowhere"], "check plugins.nowhere: cannot be imported"),
    (["retain.platform.seeding"], "give its kind with --kind strategy|network|benchmark|probe|data_set"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_wrong_input_is_refused(arguments: list[str], message: str, folder: Path) -> None:
    name, *rest = arguments
    kind = rest[1] if rest[:1] == ["--kind"] else None
    with pytest.raises(UserError) as refusal:
        settings = dict(each.split("=") for each in rest) if kind is None else {}
        checks_for(kind_of(name, kind), name, {k: int(v) for k, v in settings.items()}, folder)
    assert message in str(refusal.value)


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run `retain check` in this process; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["retain", "check", *arguments])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_the_command_prints_a_line_for_each_check(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    assert command(monkeypatch, "plugins.broken.benchmark_leaks") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "benchmark plugins.broken.benchmark_leaks: 10 checks"
    assert f"  {LEAK} ... failed: experience 1 (blobs (0, 1)), test: 20 of its samples" in "\n".join(lines)
    assert lines[-1] == "9 passed, 1 failed"
    assert sum(line.endswith(" ... passed") for line in lines) == 9
    assert list(folder.iterdir()) == [], "its folder is removed"


def test_the_command_ends_with_0_or_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(monkeypatch, random_pictures.__name__, "num_experiences=3") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "10 passed"
    assert command(monkeypatch, "lfw") == 2
    assert "Did you mean 'lwf'?" in capsys.readouterr().err

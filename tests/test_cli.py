"""The `retain` command: its output, its exit codes, the files it writes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from retain.platform.config.load import from_dict, load_config
from retain.platform.trial.resolve import resolve_experiment

RETAIN = Path(sys.executable).with_name("retain")
HEAVY = ("torch", "ray", "avalanche", "wandb", "plotly", "sklearn", "torchvision", "numpy")
QUICK = ("training.epochs=1", "benchmark.split_digits.num_experiences=2", "model.mlp.hidden=[8]", "wandb.mode=disabled")


def retain(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder, with tables as wide as they need."""
    command = [str(RETAIN), *map(str, arguments)]
    environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return every file under a folder with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Run a trial with `retain run`; return its folder and output."""
    folder = tmp_path_factory.mktemp("runs")
    ended = retain("run", "quickstart", *QUICK, "--output", "trial", cwd=folder)
    assert ended.returncode == 0, ended.stderr
    return folder / "trial", ended


def test_version(tmp_path: Path) -> None:
    from retain import __version__

    ended = retain("--version", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, f"retain {__version__}\n")


LOADED = """
import sys
from retain.platform.cli import app
sys.argv = ["retain", *sys.argv[1:]]
try:
    app.main()
except SystemExit as end:
    code = end.code or 0
print("ended with", code, [name for name in {heavy} if name in sys.modules])
"""


@pytest.mark.parametrize(
    ("arguments", "code", "shown"),
    [
        (["--help"], 0, "sweep"),
        (["sweep", "--help"], 0, "--dry-run"),
        (["run", "quickstrat"], 2, "'quickstart'?"),
        (["sweep", "quickstart", "training.epoch=1"], 2, "training.epoch: unknown key"),
        (["show", "quickstart", "strategies.lwff.weight=1"], 2, "'lwf'?"),
        (["list", "strategie"], 2, "'strategies'?"),
        (["list", "configs"], 0, "quickstart"),
    ],
)
def test_light_commands_load_no_heavy_library(arguments: list[str], code: int, shown: str, tmp_path: Path) -> None:
    program = LOADED.format(heavy=HEAVY)
    command = [sys.executable, "-c", program, *arguments]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert f"ended with {code} []" in ended.stdout, ended.stdout + ended.stderr
    assert shown in ended.stdout + ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (
            ["run", "quickstart", "training.optimizer.lr=-1"],
            "error: training.optimizer.lr=-1: must be a finite number above 0",
        ),
        (["resume", "nowhere"], "error: nowhere"),
        (["nothing"], "No such command 'nothing'"),
        (["run", "quickstart", "--folder", "trial"], "error: --folder was renamed to --output"),
        (["sweep", "quickstart", "--folder=trial"], "error: --folder was renamed to --output"),
        (["report", "trial", "--out", "page.html"], "error: --out was renamed to --output"),
        (["show", "quickstart", "--images", "--out", "x.png"], "error: --out was renamed to --output"),
        (["list", "networks"], "error: list networks: networks was renamed to models"),
    ],
)
def test_bad_input_exits_with_2_and_writes_nothing(arguments: list[str], shown: str, tmp_path: Path) -> None:
    ended = retain(*arguments, cwd=tmp_path)
    assert ended.returncode == 2
    assert shown in ended.stderr and ended.stdout == ""
    assert "Traceback" not in ended.stderr
    assert ended.stderr.count("\n") == 1 or arguments == ["nothing"]
    assert list(tmp_path.iterdir()) == []


def test_run_shows_tables_and_the_page(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, ended = done
    assert "split_digits, task-agnostic" in ended.stdout and "split_digits, task-aware" in ended.stdout
    assert "ACC" in ended.stdout and "quickstart" in ended.stdout
    assert f"Forgetting curves: {folder / 'report.html'}\n" in ended.stdout
    assert (folder / "report.html").read_text().lstrip().startswith("<!")
    assert {"config.yaml", "trial.json", "metrics.jsonl", "matrix.json", "summary.json"} <= set(snapshot(folder))
    assert ended.stderr == ""


def test_report_writes_to_the_output_path(done: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    ended = retain("report", done[0], "--output", "page.html", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "page.html\n")
    assert "quickstart" in (tmp_path / "page.html").read_text()


def test_resume_of_a_completed_trial_changes_nothing(
    done: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    folder, _ = done
    before = snapshot(folder)
    ended = retain("resume", folder, cwd=tmp_path)
    assert ended.returncode == 0 and "1 of 1 trials are done, 0 to go" in ended.stdout
    after = snapshot(folder)
    assert {name: data for name, data in after.items() if name != "report.html"} == {
        name: data for name, data in before.items() if name != "report.html"
    }


def test_an_occupied_folder_is_refused_and_not_changed(
    done: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    folder, _ = done
    before = snapshot(folder)
    ended = retain("run", "quickstart", *QUICK, "--output", folder, cwd=tmp_path)
    assert ended.returncode == 2
    assert f"error: {folder} is occupied: resume it (retain resume {folder})" in ended.stderr
    assert snapshot(folder) == before


def test_a_file_in_the_way_of_the_output(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    ended = retain("sweep", "quickstart", "output=file/runs", cwd=tmp_path)
    assert ended.returncode == 2
    assert f"{tmp_path / 'file'} is a file, not a folder" in ended.stderr and "Traceback" not in ended.stderr
    assert snapshot(tmp_path) == {"file": b"mine"}


def test_show_prints_yaml_that_is_the_same_experiment(tmp_path: Path) -> None:
    override = "strategies={lwf: {weight: 0.5}}"
    ended = retain("show", "quickstart", override, cwd=tmp_path)
    assert ended.returncode == 0
    assert (
        from_dict(yaml.safe_load(ended.stdout)) == resolve_experiment(load_config("quickstart", [override])).experiment
    )
    assert "temperature: 2.0" in ended.stdout  # a default, filled in
    (tmp_path / "shown.yaml").write_text(ended.stdout)
    assert load_config(tmp_path / "shown.yaml") == resolve_experiment(load_config("quickstart", [override])).experiment


def test_list_names_everything_with_its_settings(tmp_path: Path) -> None:
    from retain.platform.config import registry

    ended = retain("list", cwd=tmp_path)
    assert ended.returncode == 0
    for heading, kind in (("strategies", "strategies"), ("benchmarks", "benchmarks"), ("models", "networks")):
        assert f"\n{heading}\n" in f"\n{ended.stdout}"
        for name in registry.names(kind):  # type: ignore[arg-type]
            assert f"\n  {name}  " in ended.stdout
    assert "      temperature: float = 2.0\n" in ended.stdout
    assert "\n  quickstart  The first sweep" in ended.stdout.partition("\nconfigs\n")[2]


@pytest.mark.parametrize("option", [(), ("--no-estimate",)])
def test_dry_run_lists_the_trials_and_starts_nothing(tmp_path: Path, option: tuple[str, ...]) -> None:
    seeds = ("sweep.seeds=[4, 5]", "sweep.streams={}", "sweep.variants={naive: {}, lwf: {strategies: {lwf: {}}}}")
    ended = retain("sweep", "quickstart", *seeds, *QUICK, "--dry-run", *option, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    for name in ("000-split_digits-naive-seed4", "003-split_digits-lwf-seed5"):
        assert name in ended.stdout
    # on a machine with much else to do, the time is over before anything is measured
    cost = "4 trials\\." if option else "4 trials; (about [0-9.]+ to [0-9.]+ (s|min) on this machine's|no estimate)"
    assert re.search(cost, ended.stdout) and "Nothing was started." in ended.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_failing_trial_exits_with_1_and_the_reason(tmp_path: Path) -> None:
    ended = retain("run", "quickstart", *QUICK, "training.optimizer.lr=1e30", "-o", "trial", cwd=tmp_path)
    assert ended.returncode == 1
    assert "failed quickstart: FloatingPointError: the loss became" in ended.stderr
    assert "training.optimizer.lr=1e+30" in ended.stderr and "trial.log" in ended.stderr
    assert "Traceback" not in ended.stderr  # it is in the log
    log = (tmp_path / "trial" / "trial.log").read_text()
    assert "Traceback (most recent call last)" in log and "FloatingPointError" in log

"""Somebody else's run folder: reading, resuming or working in it executes nothing and writes nothing outside of it.

Each attack would leave a canary. All checksums are valid: they detect accidents, and an attacker can compute them.
"""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from retain.platform.config.load import from_dict, load_config, to_dict
from retain.platform.config.schema import Experiment
from retain.platform.errors import UserError
from retain.platform.files import digest
from retain.platform.ledger.documents import checksum, read_json, write_json
from retain.platform.ledger.reader import Trial, trials_of
from retain.platform.ledger.writer import SweepLedger, TrialLedger, write_status
from retain.platform.reporting.projector_state import ProjectorState
from retain.platform.reporting.results import results_of
from retain.platform.sweep.run import resume
from retain.platform.trial.run import run as run_trial

RETAIN = Path(sys.executable).with_name("retain")
SCRIPT = "<script>alert(1)</script>"
Make = Callable[..., Experiment]


class Evil:
    """An object that runs a command when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


@pytest.fixture(scope="module")
def real(make_experiment: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a stopped trial: two checkpoints, nothing left to train."""
    config = from_dict(to_dict(make_experiment("pair")) | {"wandb": {"mode": "disabled"}})
    folder: Path = tmp_path_factory.mktemp("real") / "run"
    run_trial(config, folder)
    write_status(folder, "stopped", 2, None)
    return folder


@pytest.fixture
def run(real: Path, tmp_path: Path) -> Path:
    """Return a copy of it in an empty folder."""
    shutil.copytree(real, tmp_path / "home" / "run")
    return tmp_path / "home" / "run"


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


def retain(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command as from a shell; no traceback may reach the user."""
    environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"}
    command = [str(RETAIN), *map(str, arguments)]
    ended = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert "Traceback" not in ended.stderr + ended.stdout, ended.stderr
    assert ended.returncode in (0, 1, 2, 130)
    return ended


def results_of_one(folder: Path) -> list[Any]:
    """Return what a report reads."""
    return list(results_of([folder]))


def configure(folder: Path, text: str) -> None:
    """Replace a trial's config.yaml, with a valid checksum."""
    (folder / "config.yaml").write_text(text)
    write_json(
        folder / "trial.json", read_json(folder / "trial.json") | {"config_sha256": digest(folder / "config.yaml")}
    )


def change(folder: Path, changes: Mapping[str, Any]) -> None:
    """Change a trial's config."""
    configure(folder, yaml.safe_dump(yaml.safe_load((folder / "config.yaml").read_text()) | changes))


def replace_in_checkpoints(folder: Path, name: str, data: bytes) -> None:
    """Put a file into every checkpoint, with valid checksums."""
    for manifest in folder.glob("checkpoints/*/manifest.json"):
        (manifest.parent / name).write_bytes(data)
        about = json.loads(manifest.read_text())
        about["files"][name] = hashlib.sha256(data).hexdigest()
        about.pop("sha256")
        about["sha256"] = checksum(about)
        manifest.write_text(json.dumps(about))


@pytest.mark.parametrize("kind", ["pickle", pytest.param("torch", marks=pytest.mark.slow)])
def test_tensors_are_never_unpickled(run: Path, canary: Path, tmp_path: Path, kind: str) -> None:
    if kind == "pickle":
        (tmp_path / "evil").write_bytes(pickle.dumps(Evil(canary)))
    else:
        torch.save({"model": Evil(canary)}, tmp_path / "evil")
    replace_in_checkpoints(run, "tensors.safetensors", (tmp_path / "evil").read_bytes())
    ended = retain("resume", run, cwd=tmp_path)
    assert not canary.exists()
    assert ended.returncode == 0 or "afetensor" in ended.stderr, ended.stderr


def test_pickles_that_ray_and_wandb_would_leave_are_not_read(run: Path, canary: Path, tmp_path: Path) -> None:
    names = ["experiment_state-2026.json", "trainable.pkl", "searcher-state-1.pkl", "tuner.pkl", "params.pkl", "x.ckpt"]
    for folder in (".ray/tune", "wandb/run-1-2/files", "tune", "checkpoints", "checkpoints/000002", "__pycache__"):
        (run / folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            (run / folder / name).write_bytes(pickle.dumps(Evil(canary)))
    for name in ("resume", "report"):
        assert retain(name, run, cwd=run).returncode == 0
    assert not canary.exists()


def test_a_repository_in_the_folder_runs_no_command(run: Path, canary: Path) -> None:
    """`git status` runs what the repository's settings name."""
    subprocess.run(["git", "init", "-q"], cwd=run, check=True)
    someone = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *someone, "commit", "-q", "--allow-empty", "-m", "x"], cwd=run, check=True)
    subprocess.run(["git", "config", "core.fsmonitor", f"touch {canary};"], cwd=run, check=True)
    assert retain("resume", ".", cwd=run).returncode == 0
    assert not canary.exists()
    subprocess.run(["git", "status"], cwd=run, check=True, capture_output=True)
    assert canary.exists()


TAGS = ("!!python/object/apply:os.system ['touch {canary}']", "!!python/object/new:os.system ['touch {canary}']")


@pytest.mark.parametrize("tag", TAGS)
def test_yaml_tags_are_refused(run: Path, canary: Path, tmp_path: Path, tag: str) -> None:
    configure(run, (run / "config.yaml").read_text() + "evil: " + tag.format(canary=canary) + "\n")
    sweep = tmp_path / "sweep"
    SweepLedger.create(sweep, (run / "config.yaml").read_text(), "x", [Trial(run).identity]).close()
    for look in (
        lambda: resume(run),
        lambda: resume(sweep),
        lambda: load_config(run / "config.yaml"),
    ):
        with pytest.raises(UserError, match=r"(config|experiment)\.yaml, line .*: the tag '.*' is not allowed"):
            look()
    assert not canary.exists()


CALLS: list[tuple[dict[str, Any], str]] = [
    ({"benchmark": {"os.system": {"command": "touch CANARY"}}}, "benchmark.os.system"),
    ({"benchmark": {"subprocess.Popen": {"args": "touch CANARY", "shell": True}}}, "benchmark.subprocess.Popen"),
    ({"benchmark": {"torch.load": {"f": "PICKLE", "weights_only": False}}}, "benchmark.torch.load: is no"),
    ({"benchmark": {"avalanche.checkpointing.maybe_load_checkpoint": {"strategy": None, "fname": "PICKLE"}}}, "is no"),
    ({"strategies": {"subprocess.Popen": {"args": "touch CANARY", "shell": True}}}, "strategies.subprocess.Popen"),
    ({"strategies": {"torch.hub.HTTPError": {}}}, "is no Avalanche plugin"),
    ({"strategies": {"evil.Plugin": {}}}, "strategies.evil.Plugin"),
    ({"model": {"evil.inner": {}}}, "model.evil.inner"),
    ({"benchmark": {"evil": {}}}, "benchmark.evil"),
    ({"name": "${oc.env:HOME}", "benchmark": {"evil.x": {"a": "${oc.decode:x}"}}}, "benchmark.evil.x"),
]


@pytest.mark.parametrize(("changes", "shown"), CALLS, ids=[shown for _, shown in CALLS])
def test_a_config_calls_only_plugins_from_outside_the_folder(
    run: Path, canary: Path, changes: dict[str, Any], shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even if the folder is on the import path, as in a plain Python process."""
    (run / "evil.pkl").write_bytes(pickle.dumps(Evil(canary)))
    (run / "evil.py").write_text(f"open({str(canary)!r}, 'w')\n")
    monkeypatch.syspath_prepend(run)
    monkeypatch.chdir(run)
    text = json.dumps(changes).replace("CANARY", str(canary)).replace("PICKLE", str(run / "evil.pkl"))
    change(run, json.loads(text))
    with pytest.raises(UserError) as caught:
        resume(".")
    assert shown in str(caught.value)
    assert not canary.exists()


def test_report_and_run_import_no_module_from_the_folder(run: Path, canary: Path) -> None:
    for place in ("evil.py", "plotly.py", "numpy.py", "torch.py"):
        (run / place).write_text(f"open({str(canary)!r}, 'w')\n")
    change(run, {"strategies": {"evil": {}}})
    assert retain("report", ".", cwd=run).returncode == 0
    ended = retain("resume", ".", cwd=run)
    assert ended.returncode == 2 and "strategies.evil" in ended.stderr
    for cwd in (run, run / "checkpoints"):
        ended = retain("run", run / "config.yaml", "--output", run.parent / "new", cwd=cwd)
        assert ended.returncode == 2 and "strategies.evil" in ended.stderr
    assert not canary.exists()


@pytest.mark.slow
def test_ray_workers_import_no_module_from_the_sweep_folder(
    make_experiment: Make, canary: Path, tmp_path: Path
) -> None:
    config = to_dict(make_experiment("pair")) | {"wandb": {"mode": "disabled"}}
    folder = tmp_path / "sweep"
    who = [{"id": name, "variant": name, "stream": "s", "seed": 0, "overrides": {}} for name in ("good", "evil")]
    with SweepLedger.create(folder, yaml.safe_dump(config), "test", who) as ledger:
        for trial in ledger.trials():
            text = config | ({"strategies": {"evil": {}}} if trial.id == "evil" else {})
            TrialLedger.create(trial.folder, yaml.safe_dump(text), trial.identity).close()
    for place in ("evil.py", "sklearn.py", "avalanche.py", "safetensors.py"):
        for where in (folder, folder / "trials" / "evil"):
            (where / place).write_text(f"open({str(canary)!r}, 'w')\n")
    ended = retain("resume", ".", cwd=folder)
    assert not canary.exists()
    good, evil = (Trial(folder / "trials" / name).status() for name in ("good", "evil"))
    assert (ended.returncode, good.status, evil.status) == (1, "done", "failed"), ended.stderr
    assert "strategies.evil" in str(evil.error)


def test_a_sweep_joins_no_cluster_that_only_its_folder_names(make_experiment: Make, tmp_path: Path) -> None:
    config = to_dict(make_experiment("pair")) | {"ray": {"address": "evil.example:6379"}}
    who = {"id": "a", "variant": "a", "stream": "s", "seed": 0, "overrides": {}}
    with SweepLedger.create(tmp_path / "s", yaml.safe_dump(config), "test", [who]):
        TrialLedger.create(tmp_path / "s" / "trials" / "a", yaml.safe_dump(config), who).close()
    ended = retain("resume", tmp_path / "s", cwd=tmp_path)
    assert ended.returncode == 2 and "ray.address=evil.example:6379: set RAY_ADDRESS" in ended.stderr


def test_names_are_escaped_on_the_page(run: Path, tmp_path: Path) -> None:
    matrix = read_json(run / "matrix.json")
    write_json(run / "matrix.json", matrix | {"experiences": [SCRIPT] * 2, "class_names": [SCRIPT] * 10})
    write_json(run / "environment.json", {"retain": SCRIPT, "packages": {"torch": SCRIPT}, "git": {"commit": SCRIPT}})
    write_json(run / "trial.json", read_json(run / "trial.json") | {"variant": SCRIPT, "stream": SCRIPT})
    for state, error in (("done", None), ("failed", SCRIPT)):
        write_status(run, state, 2, error)  # type: ignore[arg-type]
        assert retain("report", run, cwd=tmp_path).returncode == 0
        page = (run / "report.html").read_text()
        assert "alert(1)" in page and SCRIPT not in page


@pytest.mark.parametrize("place", ["../../elsewhere", "/etc", "trials/../../home"])
def test_a_list_cannot_name_a_folder_outside(run: Path, tmp_path: Path, place: str) -> None:
    sweep = tmp_path / "sweep"
    SweepLedger.create(sweep, "schema: 1\n", "x", [{**Trial(run).identity, "folder": place}]).close()
    before = {str(p): p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    for look in (trials_of, results_of_one, SweepLedger.open):
        with pytest.raises(UserError, match="is not inside of"):
            look(sweep)
    ended = retain("resume", sweep, cwd=tmp_path)
    assert ended.returncode == 2 and "is not inside of" in ended.stderr
    assert {str(p): p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("name", ["../victim", "..", "", "a/b"])
def test_a_trial_s_id_is_the_name_of_a_folder(run: Path, name: str) -> None:
    """TensorBoard's files go to a folder of that name, which is emptied first."""
    write_json(run / "trial.json", read_json(run / "trial.json") | {"id": name})
    with pytest.raises(UserError, match="must be the name of a folder"):
        results_of_one(run)


@pytest.mark.parametrize("name", ["x/../../../victim", "*", "", 7])
def test_projector_state_cannot_name_files_to_delete(run: Path, name: Any) -> None:
    """Local files of a W&B run are deleted by a pattern that contains its id."""
    write_json(run / "projector.json", {"key": "k", "trials": {"test": {"run": name}}})
    with pytest.raises(UserError, match=r"projector\.json is damaged"):
        ProjectorState(run)


def test_html_in_the_scenario_is_refused(run: Path) -> None:
    write_json(run / "matrix.json", read_json(run / "matrix.json") | {"scenario": SCRIPT})
    write_status(run, "done", 2, None)
    (result,) = results_of([run])
    assert not result.views and "unreadable: matrix.json: scenario=" in result.problem


@pytest.mark.parametrize("target", ["metrics.jsonl", "trial.log", "checkpoints", "status.json", ".lock"])
def test_links_out_of_the_folder_are_not_followed(run: Path, tmp_path: Path, target: str) -> None:
    victim = tmp_path / "victim"
    if (run / target).is_dir():
        shutil.rmtree(run / target)
        victim.mkdir()
        (victim / "000001").mkdir()
    else:
        (run / target).unlink(missing_ok=True)
        victim.write_text("not a whole line")
    (run / target).symlink_to(victim)
    for look in (resume, results_of_one, TrialLedger.open):
        with pytest.raises(UserError, match=f"{target} is a link that leads out"):
            look(run)
    assert (
        victim.is_dir() and [p.name for p in victim.iterdir()] == ["000001"] or victim.read_text() == "not a whole line"
    )


DEEP = "[" * 200_000


@pytest.mark.parametrize("name", ["trial.json", "status.json", "matrix.json", "summary.json", "environment.json"])
@pytest.mark.parametrize("text", [DEEP, '{"a":' * 200_000, '{"schema": 1, "x": ' + "9" * 6000 + "}", '{"schema": 1}'])
def test_deep_huge_and_empty_documents_are_errors(run: Path, name: str, text: str) -> None:
    write_status(run, "done", 2, None)
    (run / name).write_text(text)
    try:
        trial = Trial(run)
    except UserError as error:
        assert "trial.json is damaged" in str(error)
    else:
        damage = trial.damage()
        assert (damage is not None and name in damage) or (
            text == '{"schema": 1}' and name not in ("trial.json", "status.json")
        )


@pytest.mark.slow
def test_the_command_line_reports_deep_documents(run: Path, tmp_path: Path) -> None:
    (run / "matrix.json").write_text(DEEP)
    (run / "status.json").write_text(DEEP)
    (run / "metrics.jsonl").write_text(DEEP + "\n")
    assert "status.json is damaged" in (retain("resume", run, cwd=tmp_path).stderr)
    (run / "trial.json").write_text(DEEP)
    ended = retain("report", run, cwd=tmp_path)
    assert ended.returncode == 2 and "trial.json is damaged" in ended.stderr

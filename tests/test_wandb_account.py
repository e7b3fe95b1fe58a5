"""What W&B takes from the environment, what is refused before the start, and what is kept when W&B or the projector fails."""

import ast
import io
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import wandb
import wandb_server as stub
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import retain
from retain.platform.cli.terminal import Terminal
from retain.platform.cli.unsent import print_unsent, warn_about_wandb
from retain.platform.config.schema import Wandb
from retain.platform.errors import UserError
from retain.platform.ledger.documents import read_json
from retain.platform.ledger.reader import Trial
from retain.platform.ledger.writer import TrialLedger
from retain.platform.reporting.html_report import report
from retain.platform.reporting.projector import ProjectorSettings, num_unsent, project
from retain.platform.reporting.wandb_account import check_wandb, isolated
from retain.platform.reporting.wandb_runs import WandbRuns

KEY = "k" * 40
OFFLINE = ProjectorSettings(mode="offline", project="p")
CONFIG = {
    "schema": 1,
    "name": "demo",
    "benchmark": {"split_digits": {}},
    "model": {"mlp": {}},
    "wandb": {"mode": "offline", "project": "a/b"},
    "tensorboard": True,
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Hide the user's key and settings."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "home"))
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    """Write a finished trial, in a folder that is named as W&B names its own."""
    identity = {"id": "demo", "variant": "lwf", "stream": "digits", "seed": 5}
    with TrialLedger.create(tmp_path / "wandb", yaml.safe_dump(CONFIG), identity) as ledger:
        for epoch in (1, 2, 3):
            ledger.append("epoch", 1, 10 * epoch, {"epoch": epoch, "loss": 1 / epoch})
        ledger.write("summary", {"seconds": 2.5})
        ledger.status("done", experience=1)
    return Trial(tmp_path / "wandb")


def points(trial: Trial) -> list[tuple[int, float]]:
    """Return the steps and values of the loss in a trial's TensorBoard files."""
    (folder,) = (trial.folder / "tensorboard").iterdir()
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars("train/loss")]


POINTS = [(10, 1.0), (20, 0.5), (30, pytest.approx(1 / 3))]


# --- the environment ---


def write_settings(folder: Path, url: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings").write_text(f"[default]\nbase_url = {url}\n")


def test_only_the_users_own_settings_decide_which_server_gets_the_key(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the working directory, nor the folder of a run."""
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    with stub.serving() as own, stub.serving() as foreign:
        write_settings(tmp_path / "home", own.url)
        for place in ("wandb", ".wandb", "wandb/wandb", "wandb/.wandb"):
            write_settings(tmp_path / place, foreign.url)
        assert project(trial.folder, ProjectorSettings(mode="online", project="p")) == 1
        assert (len(own.rows), foreign.requests) == (1, 0)
        wandb.teardown()
    assert Path.cwd() == tmp_path


VARIABLES = {
    "WANDB_API_KEY": KEY,
    "WANDB_BASE_URL": "https://wandb.example.org",
    "WANDB_ENTITY": "team",
    "WANDB_HTTPS_PROXY": "http://proxy.example.org",
    "WANDB_HTTP_TIMEOUT": "30",
    "WANDB_CONFIG_DIR": "settings",  # relative to the working directory
    "WANDB__EXTRA_HTTP_HEADERS": '{"x": "y"}',
}
OUTER_RUN = (
    "SWEEP_ID SWEEP_PARAM_PATH RUN_ID RESUME NAME RUN_GROUP JOB_TYPE TAGS NOTES MODE DISABLED LAUNCH CONFIG DIR PROJECT SERVICE "
    "FORK_FROM RESUME_FROM PROGRAM ARGS RUN_DIR JOB_NAME _PRIMARY _LABEL _FILES_DIR SAVE_CODE GIT_REMOTE_URL REINIT SYMLINK"
).split()


def test_only_the_account_is_kept_of_wandbs_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    for name in OUTER_RUN:
        monkeypatch.setenv(f"WANDB_{name}", "x")
    before = dict(os.environ)
    with isolated():
        kept = {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}
        assert list(Path.cwd().iterdir()) == []
    assert kept == VARIABLES | {"WANDB_CONFIG_DIR": str(tmp_path / "settings")}
    assert dict(os.environ) == before and Path.cwd() == tmp_path


def test_inside_an_outer_run_each_trial_is_its_run(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a W&B agent, W&B Launch and SageMaker."""
    for name in OUTER_RUN:
        monkeypatch.setenv(f"WANDB_{name}", "x")
    for name in wandb.Settings.model_fields:
        if not name.startswith("x_"):
            monkeypatch.setenv(f"WANDB_{name.upper()}", os.environ.get(f"WANDB_{name.upper()}", "x"))
    for name in ("API_KEY", "BASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "INSECURE_DISABLE_SSL", "IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(f"WANDB_{name}")
    for name in ("CREDENTIALS_FILE", "AZURE_ACCOUNT_URL_TO_ACCESS_KEY"):
        monkeypatch.delenv(f"WANDB_{name}")
    monkeypatch.setenv("TRAINING_JOB_NAME", "sagemaker")
    monkeypatch.setenv("CURRENT_HOST", "h")
    assert project(trial.folder, OFFLINE) == 1
    (run,) = (trial.folder / "wandb").glob("offline-run-*")
    assert run.name.endswith(f"-{read_json(trial.folder / 'projector.json')['trials']['demo']['run']}")
    begun = record(run)
    assert (begun["project"], begun["run_group"], begun["display_name"]) == ("p", "demo", "lwf/digits/5")
    assert (begun["job_type"], begun["tags"], "sweep_id" in begun) == ("trial", ["lwf", "digits"], False)


def record(run: Path) -> dict[str, Any]:
    """Return the record of an offline run's start, read with W&B's reader."""
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(run)]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    lines = subprocess.run(command, capture_output=True, check=True, text=True, env=plain).stdout.splitlines()
    return next(dict(entry["run"]) for entry in map(json.loads, lines) if entry["type"] == "run")


# --- checks before the start ---


@pytest.mark.parametrize(
    ("settings", "variables", "shown"),
    [
        ({"project": "cl/exp"}, {}, r"wandb\.project='cl/exp': must have 1 to 128 characters, none of them /"),
        ({"project": "x" * 129}, {}, r"wandb\.project='x+': must have 1 to 128"),
        ({"project": " "}, {}, r"wandb\.project=' ': must have 1 to 128"),
        ({"project": "\udcff"}, {}, r"wandb\.project=.*UTF-8"),
        ({"entity": "team/x"}, {}, r"wandb\.entity='team/x': must have 1 to 128 characters, none of them /"),
        ({"group": "g" * 129}, {}, r"wandb\.group='g+': must have 1 to 128 characters$"),
        ({"tags": ("a", "")}, {}, r"wandb\.tags=\['a', ''\]: a tag must not be empty"),
        ({"tags": ("\udcff",)}, {}, r"wandb\.tags=.*UTF-8"),
        ({}, {"WANDB_BASE_URL": "nowhere"}, "WANDB_BASE_URL=nowhere: Input should be a valid URL"),
        ({}, {"WANDB_BASE_URL": "https://wandb.ai"}, "WANDB_BASE_URL=https://wandb.ai: .*did you mean"),
        ({}, {"WANDB_HTTP_TIMEOUT": "soon"}, "WANDB_HTTP_TIMEOUT=soon: Input should be a valid number"),
        ({"mode": None}, {"WANDB_API_KEY": "secret"}, r"^WANDB_API_KEY: API key must have 40\+ characters, has 6\.$"),
        ({"mode": None}, {"WANDB_API_KEY": f"{KEY} "}, "^WANDB_API_KEY: API key cannot start or end with whitespace$"),
        ({"mode": None}, {"WANDB_IDENTITY_TOKEN_FILE": "no/file"}, "WANDB_IDENTITY_TOKEN_FILE=no/file: there is no such file"),
        ({"mode": "online"}, {}, "no W&B key is set"),
    ],
)  # fmt: skip
def test_what_wandb_would_refuse_is_refused_before_the_start(
    settings: dict[str, Any], variables: dict[str, str], shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    config = Wandb(**{"mode": "offline", **settings})
    with pytest.raises(UserError, match=shown):
        check_wandb(config)
    disabled = Wandb(**{**settings, "mode": "disabled"})
    assert check_wandb(disabled) == "disabled"


def test_what_wandb_accepts_is_not_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tags are cut; a key for the old name of W&B's server counts for the new one."""
    config = Wandb(project="日本 x" * 25, entity="team", group="a/b", tags=("t" * 70, "日本"))
    assert check_wandb(config) == "offline"
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai login user password {KEY}\n")
    assert check_wandb(config) == "online"
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password short\n")
    with pytest.raises(UserError, match=r"netrc file: API key must have 40\+"):
        check_wandb(config)


def test_sweep_and_dry_run_check_wandb_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"wandb\.project='a/b'"):
        retain.sweep({key: value for key, value in CONFIG.items() if key != "schema"}, tmp_path / "new")
    assert not (tmp_path / "new").exists()


NOT_CONFIGURED = """
import sys
from retain.platform.config.schema import Wandb
from retain.platform.reporting.wandb_account import check_wandb
print(check_wandb(Wandb()), check_wandb(Wandb(mode="offline")), "wandb" in sys.modules)
"""


def test_without_an_account_wandb_is_not_loaded(tmp_path: Path) -> None:
    """Its import takes as long as that of the rest of the command line."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "NETRC"))}
    command = [sys.executable, "-c", NOT_CONFIGURED]
    environment["HOME"] = str(tmp_path)
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert (ended.stdout, ended.stderr) == ("offline offline False\n", "")


def test_resume_says_at_its_start_what_wandb_will_refuse(trial: Trial) -> None:
    """It does not stop: the trials matter more, and a stored config cannot be changed."""
    errors = Terminal(file=io.StringIO(), width=1000)
    warn_about_wandb(trial.folder, errors)
    shown = errors.file.getvalue()  # type: ignore[attr-defined]
    assert shown.startswith("W&B wandb.project='a/b': must have") and f"retain sync {trial.folder}" in shown


# --- failures of W&B and of the projector ---


def test_what_was_not_sent_is_told_and_tensorboard_has_all(trial: Trial) -> None:
    """W&B refuses the project of this old folder."""
    settings = ProjectorSettings(mode="offline", project="a/b", tensorboard=True)
    with pytest.raises(UserError, match=r"(?s)not all was sent: UsageError: Invalid project name.*retain sync"):
        project(trial.folder, settings)
    assert points(trial) == POINTS
    assert num_unsent(trial.folder, settings) == 1
    errors = Terminal(file=io.StringIO(), width=1000)
    with pytest.raises(KeyError), print_unsent(trial.folder, errors):
        raise KeyError  # whatever ends the command
    lines = errors.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0] == f"not sent 1 of 1 trials are not completely in W&B. Send them with: retain sync {trial.folder}"
    assert "Invalid project name" in lines[1] and len(lines) == 2
    assert project(trial.folder, ProjectorSettings(mode="offline", project="p", tensorboard=True)) == 1
    with print_unsent(trial.folder, errors):
        pass
    assert len(errors.file.getvalue().splitlines()) == 2  # type: ignore[attr-defined]


def test_an_exception_of_any_type_does_not_end_the_projector(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WandbRuns, "update", lambda *_: 1 / 0)
    with pytest.raises(UserError, match="not all was sent: ZeroDivisionError"):
        project(trial.folder, OFFLINE)
    assert "Traceback" in (trial.folder / "projector.log").read_text()  # a fault of ours


def test_deleted_tensorboard_files_are_written_again_and_no_step_is_doubled(trial: Trial) -> None:
    settings = ProjectorSettings(mode="disabled", tensorboard=True)
    assert project(trial.folder, settings) == 1 and project(trial.folder, settings) == 0
    (trial.folder / "tensorboard" / "demo").rename(trial.folder / "moved")
    assert project(trial.folder, settings) == 1
    assert points(trial) == POINTS


# in a locale that cannot encode the tag
KILLED = """
import sys, psutil, yaml
from pathlib import Path
from retain.platform.config.load import from_dict
from retain.platform.reporting.projector import projector_process
folder = Path(sys.argv[1])
config = yaml.safe_load((folder / "config.yaml").read_bytes())
config["wandb"] = {"mode": "offline", "tags": ["\\u65e5\\u672c"]}
with projector_process(folder, from_dict(config)):
    (process,) = psutil.Process().children()
    process.kill()
"""


def test_a_projector_that_was_killed_is_replaced_whatever_the_locale(trial: Trial) -> None:
    ascii_locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", KILLED, str(trial.folder)]
    ended = subprocess.run(command, env=os.environ | ascii_locale, capture_output=True, text=True, timeout=300)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert points(trial) == POINTS
    (run,) = (trial.folder / "wandb").glob("offline-run-*")
    assert record(run)["tags"] == ["lwf", "digits", "日本"]
    assert "ended with exit code -9" in (trial.folder / "projector.log").read_text()


def test_a_projector_that_cannot_start_does_not_concern_the_trials(trial: Trial) -> None:
    from retain.platform.config.load import from_dict
    from retain.platform.reporting.projector import projector_process

    (trial.folder / "projector.log").mkdir()
    with projector_process(trial.folder, from_dict(CONFIG)):
        pass
    assert num_unsent(trial.folder, OFFLINE) == 1
    with pytest.raises(UserError, match=r"wandb cannot be written: Is a directory"):
        project(trial.folder, OFFLINE)


# --- files ---


def test_a_page_that_cannot_be_written_is_one_sentence(trial: Trial) -> None:
    with ExitStack() as stack:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        stack.callback(resource.setrlimit, resource.RLIMIT_FSIZE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        with pytest.raises(UserError, match=r"report\.html cannot be written: File too large$"):
            report([trial.folder])
    assert not list(trial.folder.glob(".report*"))


def text_files_without_encoding(source: str) -> Iterator[int]:
    """Yield the lines that open a text file in the locale's encoding."""
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        name = method or getattr(call.func, "id", "")
        values = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
        texts = [value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)]
        is_text = (
            name == "open" and not any("b" in text for text in texts) and bool(texts or not method or not call.args)
        )
        is_text |= (method, len(call.args)) in (("read_text", 0), ("write_text", 1))
        if is_text and not any(keyword.arg == "encoding" for keyword in call.keywords):
            yield call.lineno


def test_text_files_have_a_fixed_encoding() -> None:
    root = Path(retain.__file__).parent
    paths = [path for folder in ("platform", "strategies", "benchmarks") for path in (root / folder).rglob("*.py")]
    lines = [
        f"{path}:{line}" for path in paths for line in text_files_without_encoding(path.read_text(encoding="utf-8"))
    ]
    assert len(paths) > 100 and lines == []

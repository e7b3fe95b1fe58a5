"""Names of runs, and the folders that they get: whatever is written can be read, and no two runs share a folder."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from typer.testing import CliRunner

from retain.platform.cli.app import app, main
from retain.platform.config.load import from_dict, load_config, to_dict
from retain.platform.config.yaml_files import dump_yaml
from retain.platform.errors import UserError
from retain.platform.ledger.reader import Trial, run_config, run_name, trials_of
from retain.platform.ledger.writer import SweepLedger, TrialLedger
from retain.platform.run_folders import check_new_file, folder_name, new_folder
from retain.platform.sweep.plan import plan
from retain.platform.trial.run import identity_of

LONG = "x" * 256
NAMES = [
    *("plain", "a/b", "/abs", "a\\b", "..", ".", "...", ".hidden", "trailing.", "trailing ", " x", "-x", "a:b", "*?<>|", "C:"),
    *("con", "NUL", "com1.txt", "Aux", "lpt9", "größe", "实验", "😀", "e\u0301", "\u202eevil", "a\nb", "a\tb", "\x1b[31m"),
    *("\x00", "a\u2028b", "\ufeff", "on", "010", "1e-3", "=x", "<<", "~", "null", "[red]", ":x:", "%s", "{class}"),
    *("a" * 300, "é" * 300),
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_s_name_is_legal_everywhere(name: str) -> None:
    made = folder_name(name)
    assert re.fullmatch(r"[A-Za-z0-9_=+-][A-Za-z0-9_.=+-]{0,124}", made) and not made.endswith(".")
    assert made.partition(".")[0].lower() not in ("con", "prn", "aux", "nul", "com1", "lpt9")
    assert folder_name(made) == made


def config_of(name: str, **more: Any) -> Any:
    """Return a config with a name, as from a file."""
    return load_config(
        {"name": name, "benchmark": "split_digits", "model": "mlp", "wandb": {"mode": "disabled"}, **more}
    )


@pytest.mark.parametrize("name", NAMES)
def test_what_the_writer_accepts_the_reader_accepts(name: str, quick_folder: Path) -> None:
    config = config_of(name, sweep={"variants": {name: {}, f"{name} too": {}}, "streams": {name: {}}})
    output = str(quick_folder / "names")
    with new_folder(None, output, config.name) as folder:
        assert folder.parent == Path(output)
        TrialLedger.create(folder, dump_yaml(to_dict(config)), identity_of(config)).close()
        (trial,) = trials_of(folder)
        assert trial.damage() is None and trial.variant == run_name(folder) == name
        assert from_dict(trial.config()) == config
    with new_folder(None, output, config.name) as folder:
        identities = [trial.identity for trial in plan(config)]
        with SweepLedger.create(folder, dump_yaml(to_dict(config)), config.name, identities) as sweep:
            for trial, identity in zip(sweep.trials(), identities, strict=True):
                TrialLedger.create(trial.folder, dump_yaml(to_dict(config)), identity).close()
        assert [trial.damage() for trial in trials_of(folder)] == [None, None]
        assert [trial.variant for trial in trials_of(folder)] == [name, f"{name} too"]
        assert {trial.stream for trial in trials_of(folder)} == {name} and run_name(folder) == name
        assert from_dict(run_config(folder)) == config


@pytest.mark.parametrize("trial_id", ["exp/one", "..", ".", "", "a\\b", "a\0", LONG, "é" * 128, 3, None])
def test_an_identity_that_cannot_be_read_is_not_written(trial_id: Any, tmp_path: Path) -> None:
    config = config_of("t")
    identity = identity_of(config) | {"id": trial_id}
    with pytest.raises(UserError, match="a trial's id"):
        TrialLedger.create(tmp_path / "trial", dump_yaml(to_dict(config)), identity)
    with pytest.raises(UserError, match="a trial's id"):
        SweepLedger.create(tmp_path / "sweep", dump_yaml(to_dict(config)), "t", [identity])
    assert list(tmp_path.iterdir()) == []


def test_runs_that_start_in_the_same_second_get_different_folders(tmp_path: Path) -> None:
    together = Barrier(8)

    def start(number: int) -> Path:
        together.wait()
        with new_folder(None, str(tmp_path / "runs"), "job") as folder:
            (folder / str(number)).touch()
        return folder

    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(start, range(8)))
    assert len(set(folders)) == 8
    assert all(re.fullmatch(r"job-\d{8}-\d{6}(-\d+)?", folder.name) for folder in folders)
    assert all(os.listdir(folder) == [str(number)] for number, folder in enumerate(folders))


@pytest.mark.parametrize("folder", [None, "given", "a/b/c"])
def test_a_folder_that_stays_empty_is_removed(
    folder: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZeroDivisionError), new_folder(folder, "runs/mine", "job") as made:
        assert made.is_absolute() and made.is_dir()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_kept(tmp_path: Path) -> None:
    with new_folder(tmp_path, "runs", "job") as folder:
        assert folder == tmp_path
    assert tmp_path.is_dir()


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with a file, links and a run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine").touch()
    TrialLedger.create(tmp_path / "trial", "a: 1", identity_of(config_of("t"))).close()
    return tmp_path


UNUSABLE = {
    "file": "is a file",
    "file/x": "file is a file, not a folder",
    "link": "is a file",
    "link/x": "link is a file, not a folder",
    "dangling": "dangling is a link to nowhere, which does not exist",
    "dangling/x": "dangling is a link to nowhere, which does not exist",
    LONG: "cannot be written: File name too long",
    f"a/{LONG}/b": "cannot be written: File name too long",
    "caf\udce9": r"caf\\udce9.*: is not valid text",
    "trial/x": "is inside .*trial, the folder of another run",
    "/sys/x": "/sys.* cannot be written",
    "nul\0": "null byte",
}


@pytest.mark.parametrize("path", UNUSABLE)
def test_a_folder_that_cannot_be_made(path: str, hostile: Path) -> None:
    before = sorted(hostile.rglob("*"))
    for folder, output in ((path, "runs"), (None, path)):
        with pytest.raises(UserError, match=UNUSABLE[path]) as error, new_folder(folder, output, "job"):
            pass
        assert str(error.value).endswith("choose another with --output or output=PATH.") and "\n" not in str(
            error.value
        )
    assert sorted(hostile.rglob("*")) == before


@pytest.mark.parametrize("path", ["file/x", "link/x", "dangling", "dangling/x", LONG, "caf\udce9"])
def test_a_file_that_cannot_be_made(path: str, hostile: Path) -> None:
    with pytest.raises(UserError, match=UNUSABLE[path]):
        check_new_file(Path(path))
    with pytest.raises(UserError, match="other: cannot be written: it is a folder"):
        check_new_file(Path("other"))
    check_new_file(Path("file"))
    check_new_file(Path("new/page.html"))


BAD_COMMANDS = [
    (["run", "quickstart", "--output", LONG], "File name too long"),
    (["sweep", "quickstart", "--output", "caf\udce9"], "is not valid text (UTF-8)"),
    (["run", "quickstart", "name=caf\udce9"], "override 'name=caf\\udce9': is not valid text (UTF-8)"),
    (["sweep", "quickstart", "--output", "dangling"], "is a link to nowhere"),
    (["run", "quickstart", "--output", "other"], "other is occupied: empty it or choose another"),
    (["run", "quickstart", "output=trial/runs"], "the folder of another run"),
    (["report", "trial", "--output", "."], "it is a folder"),
    (["report", "trial", "--output", LONG], "File name too long"),
    (["show", "quickstart", "--output", "other"], "it is a folder"),
    (["run", "trial"], "`retain show trial` prints its config"),
]


@pytest.mark.parametrize(("arguments", "shown"), BAD_COMMANDS, ids=range(len(BAD_COMMANDS)))
def test_a_command_refuses_it_in_one_sentence(
    arguments: list[str], shown: str, hostile: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(hostile.rglob("*"))
    monkeypatch.setattr(sys, "argv", ["retain", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    output = capsys.readouterr()
    assert (end.value.code, output.out) == (2, "")
    assert shown in output.err and output.err.startswith("error: ") and output.err.count("\n") == 1
    assert sorted(hostile.rglob("*")) == before


def test_a_name_that_is_not_utf_8_on_a_real_command_line(tmp_path: Path) -> None:
    command = [Path(sys.executable).with_name("retain"), "run", "quickstart", "--output", b"caf\xe9"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 2 and ended.stderr.startswith("error: ") and "is not valid text (UTF-8)" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_show_prints_the_config_of_a_run(tmp_path: Path) -> None:
    config = config_of("shown", training={"epochs": 7})
    TrialLedger.create(tmp_path / "trial", dump_yaml(to_dict(config)), identity_of(config)).close()
    shown = CliRunner().invoke(app, ["show", str(tmp_path / "trial")])
    assert shown.exit_code == 0 and "name: shown\n" in shown.stdout and "epochs: 7\n" in shown.stdout
    assert Trial(tmp_path / "trial").damage() is None

"""The README's and the package's own examples run as they stand."""

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import retain
from retain.platform.config.load import from_dict
from retain.platform.sweep.plan import plan
from retain.platform.trial.resolve import check_plugins

ROOT = Path(retain.__file__).parent
README = (ROOT / "README.md").read_text()
COMMAND = [sys.executable, "-c", "from retain.platform.cli.app import main; main()"]


def blocks(language: str, page: Path = ROOT / "README.md") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def test_the_package_s_doctest_runs_a_trial(request: pytest.FixtureRequest) -> None:
    globs = {"getfixture": request.getfixturevalue}
    example = doctest.DocTestParser().get_doctest(retain.__doc__ or "", globs, "retain", None, 0)
    assert len(example.examples) == 4
    assert doctest.DocTestRunner().run(example).failed == 0


def test_the_config_is_accepted_and_planned() -> None:
    text, *_ = blocks("yaml")
    experiment = check_plugins(from_dict(yaml.safe_load(text)))
    assert len(plan(experiment)) == 5 * 2 * 4


FRAGMENTS = [*blocks("yaml")[1:], *(b for page in sorted((ROOT / "docs").glob("*.md")) for b in blocks("yaml", page))]


@pytest.mark.parametrize("text", FRAGMENTS, ids=lambda text: text.split(":")[0] + str(len(text)))
def test_the_parts_of_configs_are_accepted(text: str) -> None:
    """Those of the README and of docs/, each put into a config of its own."""
    base = {"name": "part", "benchmark": "split_digits", "model": "mlp"}
    check_plugins(from_dict({**base, **yaml.safe_load(text)}))


def test_the_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    example, _ = blocks("python")
    exec(compile(example.replace("training.epochs=5", "training.epochs=1"), "README.md", "exec"), {})
    assert 0 < float(capsys.readouterr().out.split()[0]) <= 1
    assert (tmp_path / "runs/my-first-trial/summary.json").is_file()


def test_a_strategy_of_one_s_own_changes_the_result(tmp_path: Path) -> None:
    _, example = blocks("python")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/l2sp.py").write_text(example)
    (line,) = re.findall(r"^    (retain run quickstart strategies\.mine.*)$", README, re.MULTILINE)
    arguments = [*line.split()[1:], "training.epochs=1", "--folder", "trial"]
    done = subprocess.run([*COMMAND, *arguments], cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "mine.l2sp" in (tmp_path / "trial/config.yaml").read_text()
    naive = retain.run(retain.load_config("quickstart", ["training.epochs=1"]), tmp_path / "naive")
    assert (tmp_path / "trial/matrix.json").read_text() != (naive.folder / "matrix.json").read_text()


def test_every_command_of_the_table_exists_and_no_other() -> None:
    from retain.platform.cli.app import app

    named = set(re.findall(r"^\| `retain (\w+)", README, re.MULTILINE))
    known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert named == known


def test_files_that_the_readme_names_are_there() -> None:
    for path in re.findall(r"\]\((docs/[^)]+)\)", README):
        assert (ROOT / path).is_file(), path

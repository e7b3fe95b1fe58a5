"""The examples in the README, in docs/ and in the package's docstring run as they stand."""

import doctest
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import retain
from retain.platform.config.load import from_dict, to_dict
from retain.platform.sweep.plan import plan
from retain.platform.trial.resolve import resolve_experiment

ROOT = Path(retain.__file__).parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = [sys.executable, "-c", "from retain.platform.cli.app import main; main()"]


def blocks(language: str, page: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def test_the_package_s_doctest_runs_a_trial(request: pytest.FixtureRequest) -> None:
    globs = {"getfixture": request.getfixturevalue}
    example = doctest.DocTestParser().get_doctest(retain.__doc__ or "", globs, "retain", None, 0)
    assert len(example.examples) == 4
    assert doctest.DocTestRunner().run(example).failed == 0


@pytest.mark.parametrize(
    ("page", "number", "trials"),
    [("README.md", 0, 2 * 4 * 3), ("README.md", 1, 4 * 3), ("docs/configuration.md", 0, 5 * 2 * 4)],
)
def test_a_whole_config_is_accepted_and_planned(page: str, number: int, trials: int) -> None:
    experiment = resolve_experiment(from_dict(yaml.safe_load(blocks("yaml", page)[number]))).experiment
    assert len(plan(experiment)) == trials


FRAGMENTS = [block for page in PAGES for block in blocks("yaml", page.relative_to(ROOT).as_posix())]


@pytest.mark.parametrize("text", FRAGMENTS, ids=lambda text: text.split(":")[0] + str(len(text)))
def test_the_parts_of_configs_are_accepted(text: str) -> None:
    """Those of all pages, each put into a config that has the rest."""
    base = {"name": "part", "benchmark": "split_digits", "model": "mlp"}
    resolve_experiment(from_dict({**base, **yaml.safe_load(text)}))


def test_the_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = blocks("python", "docs/commands.md")
    exec(compile(example.replace("training.epochs=5", "training.epochs=1"), "commands.md", "exec"), {})
    assert 0 < float(capsys.readouterr().out.split()[0]) <= 1
    assert (tmp_path / "runs/my-first-trial/summary.json").is_file()


# Modules of the user's own: each block of code in docs/extending.md with the command after it.
EXTENSIONS = dict(
    re.findall(
        r"```python\n# (mine/\w+\.py)\n.*?```\n\n    (retain run quickstart [^\n]*)\n",
        (ROOT / "docs/extending.md").read_text(),
        re.DOTALL,
    )
)


def test_every_kind_of_module_has_an_example() -> None:
    assert len(EXTENSIONS) == len(blocks("python", "docs/extending.md")) == 6


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder on Python's path with all of them."""
    folder = tmp_path_factory.mktemp("users")
    (folder / "mine").mkdir()
    for block in blocks("python", "docs/extending.md"):
        (folder / block.partition("\n")[0].removeprefix("# ")).write_text(block)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


QUICK = ["training.epochs=1", "wandb.mode=disabled"]


@pytest.mark.parametrize("file", EXTENSIONS)
def test_a_module_of_the_user_runs(file: str, mine: Path, tmp_path: Path) -> None:
    config = retain.load_config("quickstart", [*shlex.split(EXTENSIONS[file])[3:], *QUICK])
    assert file.removesuffix(".py").replace("/", ".") in yaml.safe_dump(to_dict(config))
    result = retain.run(config, tmp_path / "trial")
    assert 0 <= result.summary["task_agnostic"]["average_accuracy"] <= 1


def test_a_strategy_of_the_user_changes_the_result(mine: Path, tmp_path: Path) -> None:
    """At the command line, which has the working folder on its path."""
    arguments = [*shlex.split(EXTENSIONS["mine/l2sp.py"])[1:], *QUICK, "--output", str(tmp_path / "trial")]
    done = subprocess.run([*COMMAND, *arguments], cwd=mine, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    naive = retain.run(retain.load_config("quickstart", QUICK), tmp_path / "naive")
    assert (tmp_path / "trial/matrix.json").read_text() != (naive.folder / "matrix.json").read_text()


def test_every_command_of_the_table_exists_and_no_other() -> None:
    from retain.platform.cli.app import app

    named = set(re.findall(r"^\| `retain (\w+)", (ROOT / "docs/commands.md").read_text(), re.MULTILINE))
    known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert named == known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_links_to_are_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    for link in links:
        if "://" not in link:
            assert (page.parent / link).is_file(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_import_public_names_only(page: Path) -> None:
    """No deep path: what users import is exported from `retain`."""
    text = page.read_text()
    assert not re.search(r"retain\.platform\.\w", text)
    for names in re.findall(r"^from retain import ([^\n]+)$", text, re.MULTILINE):
        for name in names.split(", "):
            assert hasattr(retain, name), name


def test_the_public_names_exist() -> None:
    for name in retain.__all__:
        assert getattr(retain, name) is not None
    assert set(retain.__all__) <= set(dir(retain))

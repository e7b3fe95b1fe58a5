"""The user's own modules: they are found, hide nobody else's, and their errors are one sentence with file and line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from retain.platform.config.dotted_paths import import_path, module_path
from retain.platform.config.user_code import is_standard_library
from retain.platform.errors import UserError
from retain.platform.sweep.ray_worker import run_trial

RETAIN = Path(sys.executable).with_name("retain")
CONFIG = """
name: job
benchmark: {split_digits: {num_experiences: 2}}
model: {mlp: {hidden: [8]}}
training: {iterations: 1}
probes: {curves: {every: null}}
wandb: {mode: disabled}
"""
HEAD = "from retain import Plugin, settings\n"
PLAIN = f'{HEAD}@settings\nclass Config:\n    """Nothing."""\n\nclass Mine(Plugin[Config]):\n    STATE = ()\n'
# names of installed packages, and of Python's own modules that retain, torch or Ray import late
COMMON = (
    "avalanche",
    "calendar",
    "timeit",
    "gzip",
    "argparse",
    "colorsys",
    "sysconfig",
    "pydoc",
    "pkgutil",
    "torch",
    "ray",
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory, with a config and a package `own`."""
    (tmp_path / "one.yaml").write_text(CONFIG)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", module_path(sys.path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "own"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def retain(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command in the working directory."""
    return subprocess.run([RETAIN, *arguments], capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("command", ["run", pytest.param("sweep", marks=pytest.mark.slow)])
def test_scripts_in_the_working_directory_hide_nothing(command: str, here: Path) -> None:
    """In Ray's workers too. A strategy of the user's is found all the same."""
    for name in COMMON:
        (here / f"{name}.py").write_text(
            f"open({str(here / 'executed')!r}, 'a').write('{name} ')\nraise SystemExit('{name}')\n"
        )
    (here / "own" / "mine.py").write_text(PLAIN)
    done = retain(command, "one.yaml", "strategies={own.mine: {}}", "-o", "out")
    assert not (here / "executed").exists(), (here / "executed").read_text()
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("first", ["", "."])
def test_the_working_directory_is_the_last_place(first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = [os.path.abspath(first) if first else "", "/a", "/b", "/a"]
    assert module_path(given) == ["/a", "/b", str(tmp_path)]


def test_a_worker_takes_the_driver_s_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray puts the driver's working directory first; what only the worker has stays in front."""
    monkeypatch.setattr(sys, "path", ["/cwd", "", "/worker", "/packages"])
    (tmp_path / ".stop").touch()
    run_trial({"folder": str(tmp_path), "sweep": str(tmp_path), "path": ["/packages", "/cwd"]}, lambda metrics: None)
    assert sys.path == ["/worker", "/packages", "/cwd"]


OWN_OF_PYTHON = [
    *("test.autotest", "test.support", "test", "idlelib.idle", "lib2to3.main", "turtledemo.clock", "__phello__.spam"),
    *(
        "__hello__",
        "site-packages.numpy",
        "lib-dynload.x",
        "_testcapi.x",
        "xxlimited.Xxo",
        "os.path",
        "sys.x",
        "zipimport.x",
    ),
    *("_frozen_importlib.x", "pip.__main__", "torch.__main__", "__main__.x", "antigravity.x", "this.x"),
]


@pytest.mark.parametrize("name", OWN_OF_PYTHON)
def test_python_s_own_modules_are_refused_and_not_imported(name: str) -> None:
    before = set(sys.modules)
    with pytest.raises(UserError, match=r"^strategies\.x: is not imported: .*standard library never are"):
        import_path("strategies.x", name)
    assert set(sys.modules) - before == set()


def test_what_belongs_to_python() -> None:
    import numpy
    import test

    assert is_standard_library(Path(os.__file__)) and is_standard_library(Path(test.__file__ or ""))
    assert not is_standard_library(Path(numpy.__file__)) and not is_standard_library(Path(__file__))
    library = Path(os.__file__).parent
    assert is_standard_library(library / "site-packages")
    assert not is_standard_library(library / "site-packages" / "mine" / "strategy.py")


@pytest.mark.parametrize("name", ["test", "yaml"])
def test_a_hidden_module_of_the_user_s_is_named(name: str, here: Path) -> None:
    (here / f"{name}.py").write_text(PLAIN)
    with pytest.raises(UserError, match=rf"Your .*{name}\.py has the name of .*, which comes first: rename yours\."):
        import_path("strategies.x", f"{name}.mine")


BROKEN: list[tuple[str, str]] = [  # a module, the end of the message
    ("import numpy\n\nundefined\n", "broken.py, line 3: NameError: name 'undefined' is not defined"),
    ("def f(:\n", "broken.py, line 1: SyntaxError: invalid syntax"),
    (
        "def f():\n  x = 1\n x = 2\n",
        "broken.py, line 3: IndentationError: unindent does not match any outer indentation level",
    ),
    ("import sys\nsys.exit(3)\n", "broken.py, line 2: SystemExit: 3"),
    ("import not_there\n", "broken.py, line 1: ModuleNotFoundError: No module named 'not_there'"),
    ("from retain import nothing\n", "broken.py, line 1: ImportError: cannot import name 'nothing' from 'retain'"),
    ("import numpy\nnumpy.zeros(-1)\n", "broken.py, line 2: ValueError: negative dimensions are not allowed"),
    ("raise KeyboardInterrupt2\n", "broken.py, line 1: NameError: name 'KeyboardInterrupt2' is not defined"),
    (f"{HEAD}class Config:\n    pass\n", "own.broken: its Config is no dataclass: write @settings"),
    (f"{HEAD}Config = 3\n", "own.broken: its Config is no dataclass: write @settings"),
    (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass Config:\n    x: Nothing = 1\n",
        "own.broken: an annotation of its Config is wrong: NameError: name 'Nothing' is not defined",
    ),
    (
        PLAIN.replace("Nothing.", "N").replace(
            "\nclass Mine", "    def __post_init__(self):\n        1 / 0\nclass Mine"
        ),
        "ZeroDivisionError",
    ),
    (f"{PLAIN}    def init_state(self):\n        1 / 0\n", "broken.py, line 9: ZeroDivisionError: division by zero"),
    (f"{PLAIN}def build(config, seed):\n    1 / 0\n", "broken.py, line 9: ZeroDivisionError: division by zero"),
    (f"{PLAIN}def check_stream(*args):\n    1 / 0\n", "broken.py, line 9: ZeroDivisionError: division by zero"),
    (f"{PLAIN}def adapt(*args):\n    1 / 0\n", "broken.py, line 9: ZeroDivisionError: division by zero"),
]


@pytest.mark.parametrize("number", range(len(BROKEN)))
def test_an_error_in_the_user_s_module_is_one_sentence(
    number: int, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from retain.platform.cli.app import main

    text, expected = BROKEN[number]
    (here / "own" / "broken.py").write_text(text)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["retain", "run", "one.yaml", "strategies={own.broken: {}}", "-o", "out"])
        main()
    printed = capsys.readouterr().err
    assert ended.value.code == 2
    assert printed.startswith("error: ") and expected in printed
    assert "Traceback" not in printed and len(printed.splitlines()) == 1
    assert not (here / "out").exists()


@pytest.mark.parametrize("where", ["forward", "hook"])
def test_an_error_while_training_names_file_and_line(
    where: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a hook, and of a network, whose frames are below those of torch."""
    from retain.platform.cli.app import main

    (here / "own" / "hook.py").write_text(
        f"{PLAIN}    def after_forward(self, learner, **kwargs):\n        learner.mb_output.reshape(7, 7, 7)\n"
    )
    (here / "own" / "net.py").write_text(
        "import torch\nfrom retain import settings\nfrom retain.platform.models.networks import mlp\n"
        "Config = mlp.Config\n\ndef build(config, shape, num_classes, generator):\n"
        "    network = mlp.build(config, shape, num_classes, generator)\n"
        "    network.trunk.register_forward_pre_hook(broken)\n    return network\n\n"
        "def broken(module, inputs):\n    if module.training:\n        inputs[0].reshape(7, 7, 7)\n"
    )
    part = "model={own.net: {hidden: [8]}}" if where == "forward" else "strategies={own.hook: {}}"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["retain", "run", "one.yaml", part, "-o", "out"])
        main()
    captured = capsys.readouterr()
    line = f"{here}/own/net.py, line 13" if where == "forward" else f"{here}/own/hook.py, line 9"
    printed = "".join((captured.out + captured.err).split())
    assert ended.value.code == 1
    assert "".join(line.split()) in printed and "RuntimeError:shape'[7,7,7]'isinvalid" in printed
    assert "Traceback" not in printed

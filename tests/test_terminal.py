"""What the command line shows: hostile text is inert on a terminal, and failures are counted and never look like results."""

import ast
import errno
import io
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from helpers.processes import COMMAND, DEADLINE
from helpers.written_runs import AWARE, identity, write_sweep, write_trial
from rich.console import Console

from retain.platform.cli import app, ensemble
from retain.platform.cli.exit_report import show_results
from retain.platform.cli.progress import ProgressDisplay
from retain.platform.cli.tables import tables
from retain.platform.cli.terminal import Terminal, cell, one_line, plain_table, print_error, several_lines
from retain.platform.ledger.writer import TrialLedger, write_status
from retain.platform.reporting.results import results_of, table_rows
from retain.platform.visible_text import csv_cell, shortened, visible

CLI = Path(app.__file__).parent
ACTING = {  # what no text from outside may do to a terminal
    "colours": "\x1b[31m",
    "the title": "\x1b]0;owned\x07",
    "links": "\x1b]8;;file:///\x1b\\",
    "C1": "\x9b31m\x85\x9d",
    "line breaks": "\nfake\r\x0b\x0c\u2028\u2029",
    "NUL and DEL": "\0\x7f\x08",
    "reordering": "\u202a\u202e\u2066\u2069\u200e\u200f\u061c",
    "no width": "\u200b\u200d\u2060\ufeff\u00ad\u034f\u180e\ufe0f\U000e0041",
    "blanks": "\u00a0\u2003\u3000\u3164\u2800",
    "bytes": "\udcff",
}
MARKUP = "[red]x[/] [/old] [w=0.1] :x: :skull: \\[bold]"
EVIL = "a" + "b".join(text for name, text in ACTING.items() if name != "bytes") + f"c {MARKUP}"
EVIL_PATH = EVIL.replace("\0", "").replace("/", "-")[:80]


def is_inert(text: str) -> bool:
    """Return whether a terminal would only show a text in lines, and no line is made by a name."""
    return visible(text, keep="\n") == text and not any(line.startswith("fake") for line in text.splitlines())


@pytest.mark.parametrize("text", ACTING.values(), ids=ACTING)
def test_what_acts_is_made_visible(text: str) -> None:
    shown = visible(f"a{text}b")
    assert shown.isprintable() and shown.startswith("a") and shown.endswith("b")
    assert shown == f"a{text.encode('unicode_escape').decode()}b".replace("\\\\", "\\")


@pytest.mark.parametrize(
    "text", ["plain", "имя 名前 été e\u0301", "שלום عربي", "emoji 🦊 ± − ✓", "C:\\new", "[red]x[/]", ""]
)
def test_what_can_be_seen_stays(text: str) -> None:
    assert visible(text) == text


def test_a_long_text_is_cut_in_the_middle() -> None:
    assert shortened("x" * 50, 50) == "x" * 50
    assert (len(shortened("a" * 500 + "z" * 500, 50)), shortened("a" * 500 + "z" * 500, 50)[-3:]) == (50, "zzz")


@pytest.mark.parametrize(
    ("text", "shown"),
    [("=1", "'=1"), ("-0.5", "'-0.5"), ("\t@x", "'\t@x"), ("a=1", "a=1"), ("lwf weight=-1", "lwf weight=-1"), ("", "")],
)
def test_a_csv_cell_is_no_formula(text: str, shown: str) -> None:
    assert csv_cell(text) == shown


def printed(*what: Any, **options: Any) -> str:
    """Return what a coloured terminal gets."""
    file = io.StringIO()
    console = Terminal(file=file, width=4000, **options)
    for each in what:
        console.print(each)
    return file.getvalue()


@pytest.mark.parametrize("text", [*ACTING.values(), MARKUP], ids=[*ACTING, "markup"])
def test_a_console_shows_text_literally(text: str) -> None:
    table = plain_table("heading", text, title=text)
    table.add_row(text, cell(text))
    for what in (text, one_line(text, (text, "bold")), several_lines(text, "  "), table):
        assert is_inert(printed(what))
    line = printed(one_line("a", (text, "bold red"), "b"), force_terminal=True, color_system="standard")
    assert line == f"a\x1b[1;31m{visible(text)}\x1b[0mb\n"  # rich's own codes only
    assert printed(one_line(text)) == printed(text) == f"{visible(text)}\n"


def test_an_error_of_several_lines_is_indented_and_a_long_one_is_cut() -> None:
    file = io.StringIO()
    print_error(Terminal(file=file, width=80), "first\nfake\x1b[2J\n" + "x" * 100_000)
    first, second, third = file.getvalue().splitlines()
    assert (first, second) == ("error: first", "       fake\\x1b[2J")
    assert third.startswith("       xxx") and len(third) < 5000


def test_everything_is_printed_by_the_one_console() -> None:
    """No module of the command line creates another console, prints in another way, or uses markup."""
    for path in sorted(CLI.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {
            node.body[0].value
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            where = f"{path.name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.ImportFrom | ast.Import):
                names = [getattr(node, "module", "") or "", *(alias.name for alias in node.names)]
                assert not {"rich.markup", "rich.logging", "rich.traceback"} & set(names), where
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
                assert "[/" not in node.value, f"{where}: markup is shown as it is written; use one_line"
            if isinstance(node, ast.Call) and path.name != "terminal.py":
                called = ast.unparse(node.func)
                assert called not in ("Console", "Text", "Text.assemble", "Text.from_markup", "print"), where
                assert not called.startswith(("typer.echo", "typer.secho", "sys.stdout", "sys.stderr")), where


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a sweep with finished, failed and damaged trials in which every name is hostile."""
    config = yaml.safe_dump({"schema": 1, "name": EVIL, "benchmark": {EVIL: {EVIL: EVIL}}, "strategies": {EVIL: {}}})
    ids = [f"{seed}{EVIL_PATH}".replace("\\", "-")[:60] for seed in range(4)]
    who = [identity(EVIL, seed, stream=f"class{EVIL}") | {"id": name} for seed, name in enumerate(ids)]
    failed = {"status": "failed", "error": f"ValueError: {EVIL}", "config": config}
    options: list[dict[str, Any]] = [{"config": config, "aware": AWARE}, {"config": config}, failed, {"config": config}]
    folder = write_sweep(
        tmp_path_factory.mktemp("hostile") / EVIL_PATH, list(zip(who, options, strict=True)), name=EVIL
    )
    (folder / "trials" / who[3]["id"] / "matrix.json").write_text(f'{{"{EVIL!r}": ')
    return folder


def command(
    *arguments: str | Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[int, str]:
    """Run the command in this process; return its exit code and what it has printed."""
    monkeypatch.setattr(sys, "argv", ["retain", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        app.main()
    shown = capsys.readouterr()
    return int(end.value.code or 0), shown.out + shown.err


COMMANDS = [
    ["report", "FOLDER"],
    ["report", "FOLDER", "--output", "PATH"],
    ["ensemble", "FOLDER"],
    ["resume", "FOLDER"],
    ["sync", "FOLDER"],
    ["report", "PATH"],
    ["sync", "PATH"],
    ["show", "CONFIG"],
    ["show", "PATH"],
    ["run", "CONFIG"],
    ["sweep", "CONFIG", "--dry-run", "--no-estimate"],
    ["sweep", "SWEEP", "--dry-run", "--no-estimate"],
    ["prepare", "CONFIG"],
    ["prepare", "PATH"],
    ["check", "PATH"],
    ["list", "PATH"],
    ["PATH"],
    ["run", "quickstart", "PATH=1"],
    ["run", "quickstart", "--PATH"],
    ["run", "quickstart", "name=PATH", "training.epochs=PATH"],
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_no_command_prints_what_acts(
    arguments: list[str],
    hostile: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    base = {
        "model": {"mlp": {"hidden": [4]}},
        "training": {"epochs": 1, "batch_size": 256},
        "wandb": {"mode": "disabled"},
    }
    stream = {"benchmark": {"split_digits": {"num_experiences": 2}}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({EVIL: EVIL, "strategies": {EVIL: {}}}))
    swept = {"name": "x", **base, **stream, "sweep": {"variants": {MARKUP: {}, f"{MARKUP} שלום": {}}}}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(swept, allow_unicode=True))
    places = {"FOLDER": str(hostile), "PATH": EVIL_PATH, "CONFIG": "config.yaml", "SWEEP": "sweep.yaml"}
    for name, place in places.items():
        arguments = [argument.replace(name, place) for argument in arguments]
    code, shown = command(*arguments, capsys=capsys, monkeypatch=monkeypatch)
    assert shown and is_inert(shown), shown
    assert "Traceback" not in shown and code in (0, 1, 2, 130), shown
    if "SWEEP" in "".join(arguments) or "sweep.yaml" in arguments:
        assert code == 0 and shown.count(MARKUP) == 2, shown


def test_warnings_about_files_are_inert_too(
    hostile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / EVIL_PATH
    shutil.copytree(hostile, folder)
    (folder / "trials.json").write_text("{")
    next(folder.glob("trials/2*/trial.json")).write_text("{")
    code, shown = command("report", folder, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0 and is_inert(shown) and shown.count("warning: ") == 2, shown


def test_the_live_display_shows_hostile_names_literally(hostile: Path) -> None:
    out = io.StringIO()
    console = Terminal(file=out, force_terminal=True, width=2000, color_system=None)
    with ProgressDisplay(hostile, console):
        pass
    rich_codes = ("\x1b[?25l", "\x1b[?25h", "\x1b[1A", "\x1b[2K", "\r")
    shown = out.getvalue()
    for code in rich_codes:
        shown = shown.replace(code, "")
    assert is_inert(shown) and visible(EVIL)[:40] in shown


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "gbk"])
def test_a_terminal_that_is_not_utf_8(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "names.yaml").write_text(yaml.safe_dump({"été ключ 🦊": 1}, allow_unicode=True), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name not in ("LANG", "PYTHONUTF8")}
    environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": encoding}
    command = [*COMMAND, "show", "names.yaml"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=DEADLINE)
    assert ended.returncode == 2 and b"Traceback" not in ended.stderr
    assert "été ключ 🦊".encode(encoding, "backslashreplace") in ended.stderr


FAILED: dict[str, Any] = {"status": "failed", "error": "FloatingPointError: the loss\nbecame nan"}


@pytest.fixture
def failures(tmp_path: Path) -> Path:
    """Write a sweep after failures: naive has one seed of three, lwf none, ewc all three."""
    states: dict[str, list[dict[str, Any]]] = {
        "naive": [{}, FAILED, {"absent": True}],
        "lwf": [FAILED] * 3,
        "ewc": [{}] * 3,
    }
    trials = [(identity(name, seed), options) for name, each in states.items() for seed, options in enumerate(each)]
    return write_sweep(tmp_path / "failures", trials)


def test_the_table_counts_the_seeds_of_each_row_and_omits_no_variant(failures: Path) -> None:
    (table,) = tables(table_rows(results_of([failures])))
    text = printed(table, force_terminal=True, color_system="standard")
    lines = [line.split() for line in printed(table).splitlines()]
    assert lines[0] == ["class_incremental"]
    assert lines[1][:3] == ["variant", "seeds", "ACC"]
    assert lines[2] == ["naive", "1", "of", "3", "50.0", "77.5", "70.0", "85.0"]
    assert lines[3] == ["lwf:", "0", "of", "3", "done", "0", "of", "3", "-", "-", "-", "-"]
    assert lines[4][:5] == ["ewc", "3", "50.0", "±", "0.0"]
    assert "\x1b[1m" not in text.splitlines()[4]  # nothing is the best while naive has one seed


def test_a_failed_trial_s_line_has_its_error_and_no_accuracy(tmp_path: Path) -> None:
    folder, out = tmp_path / "trial", io.StringIO()
    who = identity("lwf")
    write_trial(folder, who, status="running")
    with TrialLedger.open(folder) as ledger:
        matrix = {"task_agnostic": [0.249, None], "task_aware": [0.249, None]}
        ledger.append("experience", 1, 7, matrix)
    with ProgressDisplay(folder, Console(file=out, force_terminal=False, width=60)):
        write_status(folder, "failed", 1, FAILED["error"])
    line = "1/1 failed: class_incremental / lwf / seed 0: after experience 1: FloatingPointError: the loss became nan\n"
    assert out.getvalue() == line


def test_a_log_that_cannot_be_written_does_not_end_the_display(tmp_path: Path) -> None:
    """Lines that fit again after the disk was full are printed."""

    class FullAtFirst(io.StringIO):
        is_full = True

        def write(self, text: str) -> int:
            if self.is_full and "failed" in text:
                self.is_full = False
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(text)

    out = FullAtFirst()
    folder = write_sweep(tmp_path / "sweep", [(identity(name, 0), {"status": "running"}) for name in ("naive", "lwf")])
    naive, lwf = (folder / "trials" / identity(name, 0)["id"] for name in ("naive", "lwf"))
    with ProgressDisplay(folder, Console(file=out, force_terminal=False, width=60)) as display:
        write_status(naive, "failed", 0, "first")
        while display.console.file.is_full:  # type: ignore[attr-defined]
            time.sleep(0.01)
        write_status(lwf, "failed", 0, "second")
    assert "2/2 failed: class_incremental / lwf / seed 0: before the end of experience 1: second\n" in out.getvalue()


def test_a_common_error_is_printed_once_with_its_trials(tmp_path: Path) -> None:
    """In the progress lines a long error is cut; after the table it is there in full, once for all trials that have it."""
    error = "RuntimeError: " + "a long reason " * 40
    failed: dict[str, Any] = {"status": "failed", "error": error}
    trials = [(identity("lwf", seed), failed) for seed in range(7)] + [
        (identity("ewc", 0), {"status": "failed", "error": "ValueError: other"})
    ]
    folder, out, lines = write_sweep(tmp_path / "sweep", trials), io.StringIO(), io.StringIO()
    with pytest.raises(typer.Exit):
        show_results(folder, Terminal(file=io.StringIO()), Terminal(file=out))
    long, other = out.getvalue().splitlines()
    ids = [who["id"] for who, _ in trials]
    assert long.startswith(f"failed {', '.join(ids[:5])} and 2 more: {' '.join(error.split())} (")
    assert f"{ids[0]}/trial.log)" in long and other.startswith(f"failed {ids[7]}: ValueError: other (")
    write_trial(tmp_path / "trial", identity("lwf"), status="running")
    with ProgressDisplay(tmp_path / "trial", Console(file=lines, force_terminal=False)):
        write_status(tmp_path / "trial", "failed", 0, error)
    assert lines.getvalue().endswith("reason…\n") and len(lines.getvalue()) < 250


def test_an_ensemble_says_whom_it_leaves_out(failures: Path) -> None:
    assert ensemble.left_out([failures]) == [
        "class_incremental, naive: left out, 1 of 3 done; an ensemble needs two seeds",
        "class_incremental, lwf: left out, 0 of 3 done; an ensemble needs two seeds",
    ]
    shown = ensemble.Ensemble("stream", "naive", ("1", "2"), {0: [0.5, 0.5], 2: [0.5, 0.7]}, [0.6, 0.6], planned=3)
    assert printed(ensemble.table(shown)).splitlines()[0].strip() == "stream, naive: 2 of 3 seeds"

"""docs/speed.md shows the stored figures; interval, verdict and table of a measure; one program can be measured alone."""

import os
import sys
import time
from pathlib import Path

import mammoth
import measure
import pytest
import write_docs
from measure import Ratio

MACHINE = {
    "processor": "a processor",
    "cores": 2,
    "load": 0.41,
    "busy": 0.12,
    "python": "3.11.7",
    "torch": "2.15.0",
    "date": "2026-12-01",
    "minutes": 4.2,
}
SPEED = Path(write_docs.__file__).parent


# The page.


def test_the_page_is_up_to_date() -> None:
    """docs/speed.md shows what docs/speed/*.json hold (`python tests/speed/write_docs.py`)."""
    page = write_docs.PAGE.read_text(encoding="utf-8")
    assert write_docs.render(page, write_docs.results_of(write_docs.FOLDER)) == page


def test_all_programs_are_known() -> None:
    """What calls `save` is run by make speed and has a section; results belong to such programs."""
    saving = {path.stem for path in SPEED.glob("*.py") if "save(" in path.read_text(encoding="utf-8")}
    assert saving - {"measure"} == set(write_docs.PROGRAMS)
    assert set(write_docs.results_of(write_docs.FOLDER)) <= set(write_docs.PROGRAMS)


def section(program: str, text: str) -> str:
    return f"{write_docs.START.format(program)}{text}{write_docs.END}"


PAGE = "Text.\n" + "\n".join(f"## {name}\n\n{section(name, 'old')}\n" for name in write_docs.PROGRAMS)


def test_only_the_sections_change() -> None:
    results = {"loops": measure.as_json(MACHINE, [Ratio("mlp | lwf", [1.0, 1.01, 1.02], 1.03)], ["A line."])}
    page = write_docs.render(PAGE, results)
    assert page.startswith("Text.\n## startup\n\n")
    assert section("sweep", "\nNot measured yet.\n\n") in page
    assert (
        section(
            "loops",
            "\n2026-12-01, a processor, 2 cores, load 0.4 (other processes used 0.1 cores) at the start; "
            "Python 3.11.7, torch 2.15.0; it took 4 minutes.\n"
            "\n|  | median [95 % interval] | pairs | goal | is it met? |\n"
            "| --- | ---: | ---: | ---: | ---: |\n"
            "| mlp \\| lwf | 1.010 [1.000, 1.020] | 3 | ≤ 1.03 | met |\n"
            "\nA line.\n\n",
        )
        in page
    )
    assert write_docs.render(page, results) == page


def test_a_page_without_a_section_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^speed\.md: must have one section of figures for loops: <!-- figures of loo"
    ):
        write_docs.render(PAGE.replace("figures of loops", "figures of loop"), {})


def test_the_table_has_the_columns_that_are_needed() -> None:
    ratios = [Ratio("a", [12.34, 56.78], 20, at_least=True, note="1 / 2 s"), Ratio("b", [2.0])]
    assert write_docs.ratio_table(ratios).splitlines() == [
        "|  | median [95 % interval] | pairs | goal | is it met? | details |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| a | 34.6 [12.3, 56.8] | 2 | ≥ 20 | undecided | 1 / 2 s |",
        "| b | 2.000 [2.000, 2.000] | 1 |  |  |  |",
    ]
    assert write_docs.ratio_table([Ratio("b", [2.0])]).splitlines()[0] == "|  | median [95 % interval] | pairs |"
    assert "| **missed** |" in write_docs.ratio_table([Ratio("c", [2.0], 1.0)])


# Interval and verdict.


@pytest.mark.parametrize(
    ("num_values", "low", "high"),
    [
        (1, 1, 1),
        (2, 1, 2),
        (3, 1, 3),  # a resample's median is the least value if two or three of three draws are: 7/27 > .025
        (5, 1, 5),  # three to five of five draws: .058 > .025
        (9, 2, 8),  # five to nine of nine draws: .0014 < .025; of the two least: .030 > .025
    ],
)
def test_the_interval_by_hand(num_values: int, low: float, high: float) -> None:
    """The quantiles .025 and .975 of the median of resamples of 1, 2, ..., from the binomial distribution."""
    values = [float(value) for value in range(num_values, 0, -1)]
    assert measure.interval(values) == (low, high)
    assert measure.interval(values) == measure.interval(values)  # the resamples are seeded


@pytest.mark.parametrize(
    ("values", "goal", "at_least", "verdict"),
    [
        ([1.00, 1.01, 1.03], 1.03, False, "met"),
        ([1.00, 1.01, 1.04], 1.03, False, "undecided"),
        ([1.03, 1.04, 1.05], 1.03, False, "undecided"),
        ([1.04, 1.05, 1.06], 1.03, False, "missed"),
        ([10.0, 11.0, 12.0], 10.0, True, "met"),
        ([9.0, 11.0, 12.0], 10.0, True, "undecided"),
        ([8.0, 9.0, 10.0], 10.0, True, "undecided"),
        ([8.0, 9.0, 9.9], 10.0, True, "missed"),
        ([1.0, 2.0, 3.0], None, False, ""),
    ],
)
def test_the_verdict(values: list[float], goal: float | None, at_least: bool, verdict: str) -> None:
    ratio = Ratio("r", values, goal, at_least)
    assert ratio.verdict == verdict
    assert str(ratio).endswith(f"{'>=' if at_least else '<='} {goal:g}: {verdict}" if goal else "of 3 pairs")


# Files and processes.


def test_results_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(measure.RESULTS, str(tmp_path))
    monkeypatch.setenv(measure.BUSY, "0.25")
    measure.save("loops", [Ratio("r", (1 / 3, 2.0), 1.0, note="n")], ["A line."])
    about, ratios, lines = measure.from_json((tmp_path / "loops.json").read_text(encoding="utf-8"))
    assert about.keys() == MACHINE.keys()
    assert about["cores"] == os.cpu_count() and about["busy"] == 0.25 and about["date"] == time.strftime("%Y-%m-%d")
    assert (ratios, lines) == ([Ratio("r", [0.33333, 2.0], 1.0, note="n")], ["A line."])
    printed = "r: 1.167 [0.333, 2.000] of 2 pairs; goal <= 1: undecided (n)\nA line.\n"
    assert capsys.readouterr().out == printed
    monkeypatch.delenv(measure.RESULTS)
    measure.save("sweep", [])
    assert [path.name for path in tmp_path.iterdir()] == ["loops.json"]


def test_a_process_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU time includes that of the processes it waited for; the environment is that of users."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    child = "import time\nwhile time.process_time() < 0.2: pass"
    code = (
        f"import os, subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); print(os.getcwd(), os.environ)"
    )
    seconds, cpu, output = measure.run_process([sys.executable, "-c", code], tmp_path, HELLO="there")
    assert 0.2 <= cpu and 0.2 <= seconds
    assert str(tmp_path) in output and "'HELLO': 'there'" in output and "PYTHONDONTWRITEBYTECODE" not in output
    with pytest.raises(SystemExit, match="exit code 3\nwhy\n$"):
        measure.run_process([sys.executable, "-c", "print('why'); raise SystemExit(3)"], tmp_path)


def test_a_program_that_fails_keeps_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make speed ONLY="loops sweep"`: the others stay as they are; the page is written nevertheless."""
    (tmp_path / "loops.py").write_text(
        f"import sys\nsys.path.append({str(SPEED)!r})\nimport measure\nmeasure.save('loops', [], ['New.'])\n"
    )
    (tmp_path / "sweep.py").write_text("raise SystemExit(1)")
    page, folder = tmp_path / "speed.md", tmp_path / "speed"
    page.write_text(PAGE, encoding="utf-8")
    folder.mkdir()
    for program in ("sweep", "frozen"):
        (folder / f"{program}.json").write_text(measure.as_json(MACHINE, [], [f"Old {program}."]), encoding="utf-8")
    for name, value in {"HERE": tmp_path, "PAGE": page, "FOLDER": folder, "SAMPLED_SECONDS": 0.05}.items():
        monkeypatch.setattr(write_docs, name, value)
    monkeypatch.setattr(sys, "argv", ["write_docs.py", "--run", "sweep", "loops"])
    with pytest.raises(SystemExit, match="^failed: sweep; the page has its figures from before$"):
        write_docs.main()
    text = page.read_text(encoding="utf-8")
    assert all(f"\n{line}\n" in text for line in ("New.", "Old sweep.", "Old frozen."))


def test_mammoth_needs_a_checkout(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(write_docs, "write", lambda: None)
    monkeypatch.setattr(sys, "argv", ["write_docs.py", "--mammoth=", "--run", "mammoth"])
    write_docs.main()
    assert capsys.readouterr().out == "--- mammoth: left out; it needs a checkout: make speed MAMMOTH=PATH\n"


def test_mammoth_runs_without_clip(tmp_path: Path) -> None:
    """Its modules that import a missing CLIP are empty; its main.py is the main module, with its own folder on the path."""
    assert mammoth.find_spec("open_clip") is None
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "seq_dtd.py").write_text("import os\nimport open_clip\n")
    (tmp_path / "datasets" / "seq_mnist.py").write_text("NAME = 'import open_clip'\n")
    (tmp_path / "main.py").write_text(
        "import sys\nfrom datasets import seq_dtd, seq_mnist\n"
        "assert __name__ == '__main__' and not hasattr(seq_dtd, 'os') and seq_mnist.NAME\n"
        "assert '--buffer_size=200' in sys.argv and '--seed=7' in sys.argv, sys.argv\n"
        "print('Accuracy for 5 task(s): \\t [Class-IL]: 78.19 % \\t [Task-IL]: 97.84 %')\n"
    )
    assert mammoth.without_clip(tmp_path) == ["datasets.seq_dtd"]
    seconds, cpu, accuracy = mammoth.run_mammoth(tmp_path, None, tmp_path / "data", 7)
    assert accuracy == pytest.approx(0.7819) and min(seconds, cpu) > 0

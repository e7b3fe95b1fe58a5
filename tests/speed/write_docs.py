"""Write the figures in docs/speed.md from docs/speed/*.json, which the programs here write; run the programs first if asked.

    uv run python tests/speed/write_docs.py                      only write the page
    uv run python tests/speed/write_docs.py --run                run all programs (`make speed`)
    uv run python tests/speed/write_docs.py --run loops frozen   these only: the others' figures stay, with their own date

The page's text is written by hand; each program has a section for its figures, between two comments.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from measure import BUSY, RESULTS, Ratio, from_json, interval, table

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "speed.md"
FOLDER = PAGE.with_suffix("")
PROGRAMS = (
    "startup",
    "loops",
    "sweep",
    "short_trials",
    "search",
    "mammoth",
    "safety",
    "many_files",
    "augmentation",
    "prepare",
    "frozen",
    "probes",
)
START, END = "<!-- figures of {}: written by make speed -->\n", "<!-- end -->"
SAMPLED_SECONDS = 2.0  # in which the work of other processes is measured before a program starts
NOT_MEASURED = "Not measured yet."


def number(value: float) -> str:
    """Return a ratio with three decimals, or one if it is 10 or more."""
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def cells(ratio: Ratio) -> list[str]:
    """Return a row of the table of ratios."""
    low, high = interval(ratio.values)
    has_goal = ratio.goal is not None
    return [
        ratio.name,
        f"{number(ratio.median)} [{number(low)}, {number(high)}]",
        str(len(ratio.values)),
        f"{'≥' if ratio.at_least else '≤'} {ratio.goal:g}" if has_goal else "",
        "**missed**" if ratio.verdict == "missed" else ratio.verdict,
        ratio.note,
    ]


def ratio_table(ratios: Sequence[Ratio]) -> str:
    """Return the table of ratios in Markdown, without columns that are empty in all rows."""
    rows = [[cell.replace("|", "\\|") for cell in cells(ratio)] for ratio in ratios]
    head = ["", "median [95 % interval]", "pairs", "goal", "is it met?", "details"]
    kept = [i for i in range(len(head)) if i == 0 or any(row[i] for row in rows)]
    return table([head[i] for i in kept], [[row[i] for i in kept] for row in rows])


def machine_line(about: Mapping[str, Any]) -> str:
    """Return the sentence on the machine."""
    busy = "" if about["busy"] is None else f" (other processes used {about['busy']:.1f} cores)"
    return (
        f"{about['date']}, {about['processor']}, {about['cores']} cores, load {about['load']:.1f}{busy} at the start; "
        f"Python {about['python']}, torch {about['torch']}; it took {about['minutes']:.0f} minutes."
    )


def figures(text: str) -> str:
    """Return a program's figures in Markdown, from the text of its JSON file."""
    about, ratios, lines = from_json(text)
    tables = [ratio_table(ratios)] if ratios else []
    return "\n\n".join([machine_line(about), *tables, *lines])


def render(page: str, results: Mapping[str, str]) -> str:
    """Return the page with the programs' figures.

    Args:
        page: the page's text.
        results: the text of each program's JSON file; programs without one have not been run.

    Raises:
        ValueError: the page has no section for one of the programs.
    """
    for program in PROGRAMS:
        start = START.format(program)
        pattern = re.compile(re.escape(start) + ".*?" + re.escape(END), re.DOTALL)
        if len(pattern.findall(page)) != 1:
            raise ValueError(f"{PAGE.name}: must have one section of figures for {program}: {start.strip()} ... {END}")
        text = figures(results[program]) if program in results else NOT_MEASURED
        page = pattern.sub(lambda _, start=start, text=text: f"{start}\n{text}\n\n{END}", page)
    return page


def results_of(folder: Path) -> dict[str, str]:
    """Return the text of each JSON file of results, by program."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.json"))}


def write() -> None:
    """Bring the page up to date."""
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8"), results_of(FOLDER)), encoding="utf-8")


def run(program: str, arguments: Sequence[str]) -> bool:
    """Run a program and keep its results; return whether it succeeded."""
    busy = psutil.cpu_percent(interval=SAMPLED_SECONDS) / 100 * (os.cpu_count() or 1)
    started = time.perf_counter()
    print(f"--- {program}: {busy:.1f} cores are busy", flush=True)
    FOLDER.mkdir(exist_ok=True)
    environment = os.environ | {RESULTS: str(FOLDER), BUSY: f"{busy:.2f}"}
    ended = subprocess.run([sys.executable, str(HERE / f"{program}.py"), *arguments], env=environment)
    print(
        f"--- {program}: exit code {ended.returncode}, {(time.perf_counter() - started) / 60:.1f} minutes", flush=True
    )
    return ended.returncode == 0


def main() -> None:
    """Run programs if asked, and write the page after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--run", nargs="*", choices=PROGRAMS, metavar="NAME", help="run these first; without names: all"
    )
    parser.add_argument(
        "--mammoth", default="", metavar="ARGUMENTS", help="arguments of mammoth.py: 'PATH [--packages FOLDER]'"
    )
    chosen = parser.parse_args()
    failed = []
    for program in chosen.run or (PROGRAMS if chosen.run is not None else ()):
        if program == "mammoth" and not chosen.mammoth:
            print("--- mammoth: left out; it needs a checkout: make speed MAMMOTH=PATH", flush=True)
        elif not run(program, shlex.split(chosen.mammoth) if program == "mammoth" else []):
            failed.append(program)
        write()
    write()
    if failed:
        sys.exit(
            f"failed: {', '.join(failed)}; the page has {'its' if len(failed) == 1 else 'their'} figures from before"
        )


if __name__ == "__main__":
    main()

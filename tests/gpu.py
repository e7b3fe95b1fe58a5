"""Check and measure retain on a GPU, in one call of a few minutes: `make gpu`.

    python tests/gpu.py [--minutes 8] [--only NAME ...] [--output FILE] [--strategies NAME ...]
    python tests/gpu.py --wheels          # where there is a network: fetch the packages that a GPU machine may lack

It needs torch and the packages in NEEDED, and neither Ray, Avalanche, W&B, torchvision, scipy nor a network. What of NEEDED is
missing is taken from the wheels in build/gpu/wheels, if they were fetched there beforehand and carried along. It runs from a
checkout, installed or not. The results are printed as a table and written to docs/gpu.json.

Without a GPU it says so, checks on the CPU what it can with small sizes, and leaves docs/gpu.json as it is. The exit code is 0 if
nothing failed.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WHEELS = ROOT / "build" / "gpu" / "wheels"
NEEDED = {  # module -> distribution, of what a lean trial imports besides torch and numpy
    "annotated_types": "annotated-types",
    "filelock": "filelock",
    "omegaconf": "omegaconf",
    "psutil": "psutil",
    "pydantic": "pydantic",
    "pydantic_core": "pydantic-core",
    "safetensors": "safetensors",
    "typing_extensions": "typing-extensions",
    "typing_inspection": "typing-inspection",
    "yaml": "pyyaml",
}
_MARGIN = 20  # seconds before the end in which nothing new is begun
_LONG = {"inductor": 90, "trials at once": 60, "speed": 30}  # seconds that a check may need


def fetch_wheels() -> None:
    """Fetch wheels of the versions that are installed here, for Python 3.12 on Linux (x86-64)."""
    if importlib.util.find_spec("pip") is None:
        raise SystemExit("pip is not installed here; `make gpu-wheels` brings it along")
    WHEELS.mkdir(parents=True, exist_ok=True)
    platforms = [f"--platform=manylinux{each}_x86_64" for each in ("_2_28", "_2_17", "2014", "_2_12", "2010", "1")]
    wanted = [f"{name}=={version(name)}" for name in NEEDED.values()]
    options = ["--no-deps", "--only-binary=:all:", "--python-version=3.12", "--implementation=cp", *platforms]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, "--dest", str(WHEELS), *wanted], check=True)
    print(f"{len(list(WHEELS.glob('*.whl')))} wheels are in {WHEELS.relative_to(ROOT)}")


def prepare_path(folder: Path) -> None:
    """Make `retain` and what it needs importable, here and in processes that are started."""
    paths = []
    missing = [module for module in NEEDED if importlib.util.find_spec(module) is None]
    wheels = sorted(WHEELS.glob("*.whl"))
    if missing and wheels:
        for wheel in wheels:  # all of them: they fit each other
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder / "site")
        paths.append(folder / "site")
    elif missing:
        print(f"missing packages: {', '.join(missing)}; fetch their wheels where there is a network: make gpu-wheels")
        raise SystemExit(2)
    if importlib.util.find_spec("retain") is None:  # the checkout is the package, in a folder of any name
        (folder / "link").mkdir()
        (folder / "link" / "retain").symlink_to(ROOT)
        paths.append(folder / "link")
    for path in map(str, paths):
        sys.path.insert(0, path)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [path, os.environ.get("PYTHONPATH")]))
    importlib.invalidate_caches()


class Report:
    """Runs checks and prints a line for each.

    Attributes:
        rows: (name, state, seconds, detail) so far.
        failed: names of those that failed.
    """

    def __init__(self, only: list[str], end: float) -> None:
        self.only, self.end = only, end
        self.rows: list[dict[str, Any]] = []

    @property
    def failed(self) -> list[str]:
        return [row["name"] for row in self.rows if row["state"] == "failed"]

    def run(self, name: str, check: Callable[[], Any], seconds: float = 0.0) -> Any:
        """Run a check unless it is not asked for, or too little time is left; return its result."""
        if self.only and not any(name.startswith(each) for each in self.only):
            return None
        if time.monotonic() + seconds + _MARGIN > self.end:
            return self._add(name, "not run", 0.0, "no time is left: raise --minutes")
        from retain.platform.contract.errors import NotApplicable

        started, result = time.monotonic(), None
        try:
            result = check()
            state, detail = "passed", result if isinstance(result, str) else _shown(result)
        except NotApplicable as reason:
            state, detail = "not applicable", str(reason)
        except Exception as error:  # whatever it is, the other checks go ahead
            traceback.print_exc()
            state, detail = "failed", f"{type(error).__name__}: {error}"
        self._add(name, state, time.monotonic() - started, detail)
        return result if state == "passed" else None

    def _add(self, name: str, state: str, seconds: float, detail: str) -> None:
        self.rows.append({"name": name, "state": state, "seconds": round(seconds, 1), "detail": detail})
        print(f"{name:<34} {state:<15} {seconds:6.1f} s  {detail}", flush=True)


def _shown(result: dict[str, Any]) -> str:
    """Return the figures of a measurement in a line."""
    words = {
        "ratio": "{:.3f} of the bare loop's time",
        "samples_per_second": "{:,.0f} samples/s",
        "speed_up": "{:.2f} times as fast",
    }
    return ", ".join(text.format(result[key]) for key, text in words.items() if key in result)


def check_all(bench: Any, report: Report) -> dict[str, Any]:
    """Run all checks and measurements; return the figures."""
    from helpers import gpu_checks as checks
    from helpers import gpu_speed as speed

    for name in bench.strategies:
        report.run(f"laws of {name}", lambda name=name: checks.laws(bench, name))
    report.run("killed and resumed", lambda: checks.killed_and_resumed(bench), 60)
    report.run("CPU and GPU", lambda: checks.cpu_and_gpu(bench))
    report.run("no waiting", lambda: checks.no_waiting(bench))
    report.run("non-finite loss", lambda: checks.nonfinite_loss(bench))
    report.run("out of memory", lambda: checks.out_of_memory(bench))
    report.run("precision", lambda: checks.precision(bench))
    report.run("graph", lambda: checks.graph(bench))
    report.run("graph in a trial", lambda: checks.graph_in_a_trial(bench))
    sizes = speed.Sizes() if bench.is_gpu else speed.TINY
    networks = list(speed.NETWORKS) if bench.is_gpu else ["mlp", "small_cnn"]
    stream = speed.stream_of(sizes)
    figures: dict[str, Any] = {"bare_loop": [], "variants": []}
    for network in networks:
        work = speed.Work(network, stream, bench.device, sizes)
        row = report.run(f"bare loop: {network}", lambda work=work: speed.against_bare_loop(work), _LONG["speed"])
        figures["bare_loop"] += [row] if row else []
    at_once = report.run("trials at once", lambda: speed.trials_at_once(bench.device, sizes), _LONG["trials at once"])
    figures["trials_at_once"] = at_once
    report.run("inductor", lambda: checks.inductor(bench), _LONG["inductor"])
    for text, settings in speed.VARIANTS.items():
        for network in networks:
            if bench.is_gpu or not {"tf32", "compile"} & settings.keys():
                if "channels_last" in settings and network == "mlp":
                    continue  # it has no convolution
                work = speed.Work(network, stream, bench.device, sizes, settings)
                name, needed = f"speed: {network}, {text}", _LONG["inductor" if text == "inductor" else "speed"]
                row = report.run(name, lambda work=work: speed.variant(work), needed)
                figures["variants"] += [{**row, "variant": text}] if row else []
    return figures


def run_trial(config: str, folder: str) -> None:
    """Run or resume a trial in this process, which `killed and resumed` has started."""
    from retain import load_config, run

    run(load_config(config), Path(folder))


def main(arguments: list[str] | None = None) -> int:
    """Run; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="nothing is begun that would end later")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="checks whose names begin like this")
    parser.add_argument("--strategies", nargs="+", metavar="NAME", help="for the laws, graphs and waiting; default: 12")
    parser.add_argument("--output", type=Path, help="default: docs/gpu.json if there is a GPU, else nothing is written")
    parser.add_argument("--wheels", action="store_true", help="fetch wheels into build/gpu/wheels, and end")
    parser.add_argument("--trial", nargs=2, metavar=("CONFIG", "FOLDER"), help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.wheels:
        fetch_wheels()
        return 0
    started = time.monotonic()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before the first product: for deterministic ones
    with tempfile.TemporaryDirectory(prefix="retain-gpu-") as folder:
        prepare_path(Path(folder))
        if chosen.trial:
            run_trial(*chosen.trial)
            return 0
        return _run_checks(chosen, Path(folder), started)


def _run_checks(chosen: argparse.Namespace, folder: Path, started: float) -> int:
    import torch
    from helpers import gpu_checks as checks

    has_gpu = torch.cuda.is_available()
    names = tuple(chosen.strategies or checks.STRATEGIES)
    if unknown := set(names) - set(checks.STRATEGIES):
        print(f"--strategies {' '.join(sorted(unknown))}: must be among {', '.join(checks.STRATEGIES)}")
        return 2
    (folder / "trials").mkdir()
    bench = checks.Bench(torch.device("cuda", 0) if has_gpu else torch.device("cpu"), folder / "trials", names)
    if not has_gpu:
        torch.set_num_threads(1)
        print(
            "There is no GPU (torch.cuda.is_available() is false): this checks on the CPU what it can, with small sizes."
        )
    environment = checks.environment(bench)
    print(", ".join(f"{key} {value}" for key, value in environment.items()))
    report = Report(chosen.only, started + 60 * chosen.minutes)
    figures = check_all(bench, report)
    output = chosen.output or (ROOT / "docs" / "gpu.json" if has_gpu else None)
    seconds = time.monotonic() - started
    if output is not None:
        content = {"machine": environment | {"date": time.strftime("%Y-%m-%d")}, "seconds": round(seconds)}
        content |= {"checks": report.rows, "figures": figures}
        output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    count = {state: sum(row["state"] == state for row in report.rows) for state in ("passed", "failed", "not run")}
    print(", ".join(f"{number} {state}" for state, number in count.items()), f"in {seconds:.0f} s;", end=" ")
    print(f"written to {output}" if output else "nothing written, since there is no GPU")
    return 1 if report.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())

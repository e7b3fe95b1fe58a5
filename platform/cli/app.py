"""The command `retain`: subcommands, options, exit codes (0 done, 1 a trial failed, 2 wrong input, 130 Ctrl-C, 143 SIGTERM).

Nothing heavy is imported at the top, so ``--help`` and a wrong key answer at once.
"""

import gc
import os
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..config.dotted_paths import module_path
from ..config.load import load_config
from ..config.user_code import user_line
from ..disk_errors import unwritable_reason
from ..errors import UserError
from ..ledger.writer import SweepLedger, TrialLedger
from ..run_folders import is_run_folder, new_folder
from .dry_run import has_open_search, print_dry_run
from .existing_runs import commands as existing_runs
from .exit_report import print_resume_hint, report_prepared_meanwhile, show_results
from .terminal import Terminal, one_line, prepare_streams, print_error, several_lines, terminal
from .unsent import print_unsent, warn_about_wandb

app = typer.Typer(
    name="retain",
    help="Continual-learning experiments: train networks on new classes and domains, and see what they forget.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
console = Terminal()
errors = Terminal(stderr=True)


def _renamed_to_output(old: str) -> Any:
    """A hidden option that refuses the old name of --output."""

    def refuse(value: str | None) -> None:
        if value is not None:
            raise UserError(f"{old} was renamed to --output.")

    return typer.Option(old, hidden=True, is_eager=True, callback=refuse)


_Config = Annotated[str, typer.Argument(metavar="CONFIG", help="A shipped config's name, or the path of a YAML file.")]
_Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[key=value]...", help="Settings to change, e.g. training.epochs=5.")
]
_NewFolder = Annotated[
    Path | None, typer.Option("--output", "-o", help="The new folder to write (default: runs/NAME-TIME).")
]
_OldFolder = Annotated[str | None, _renamed_to_output("--folder")]
_OldOut = Annotated[str | None, _renamed_to_output("--out")]


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Continual-learning experiments: train networks on new classes and domains, and see what they forget."""
    if version:
        from ... import __version__

        console.print(f"retain {__version__}")
        raise typer.Exit


@app.command()
def run(
    config: _Config, overrides: _Overrides = None, output: _NewFolder = None, old_folder: _OldFolder = None
) -> None:
    """Run one trial in this process, without Ray."""
    experiment = load_config(config, overrides or [])
    _refuse_occupied(output, TrialLedger)
    with new_folder(output, experiment.output, experiment.name) as folder:
        from ..reporting.projector import projector_process
        from ..reporting.wandb_account import check_wandb
        from ..trial.run import run as run_trial
        from .progress import ProgressDisplay  # imported late: a trial's imports take seconds

        check_wandb(experiment.wandb)
        with print_resume_hint(folder, errors), ProgressDisplay(folder, terminal()):
            run_trial(experiment, folder)
        with projector_process(folder, experiment):
            pass  # on exit, the projector sends the finished trial
        with print_unsent(folder, errors):
            show_results(folder, console, errors)


@app.command()
def sweep(
    config: _Config,
    overrides: _Overrides = None,
    output: _NewFolder = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the trials, estimate time and disk in 20 s, start nothing.")
    ] = False,
    no_estimate: Annotated[
        bool, typer.Option("--no-estimate", help="With --dry-run: check all trials, estimate nothing.")
    ] = False,
    old_folder: _OldFolder = None,
) -> None:
    """Run all trials of a config on Ray: streams x variants x seeds x search space."""
    started = time.monotonic()
    experiment = load_config(config, overrides or [])
    from ..reporting.wandb_account import check_wandb
    from .search_lines import start_lines

    check_wandb(experiment.wandb)
    for parts in start_lines(experiment):
        console.print(one_line(*parts), soft_wrap=True)
    if dry_run:
        print_dry_run(experiment, console, None if no_estimate else started)
        return
    _refuse_occupied(output, SweepLedger)
    with new_folder(output, experiment.output, experiment.name) as folder:
        from ..sweep.ray_cluster import ray_ends_meanwhile
        from ..sweep.run import sweep as run_sweep
        from .progress import ProgressDisplay

        console.print(one_line("sweep ", (experiment.name, "bold"), f" -> {folder}"), soft_wrap=True)
        console.print(one_line(f"If it ends early, continue with: retain resume {folder}"), style="dim", soft_wrap=True)
        with ray_ends_meanwhile():
            with print_resume_hint(folder, errors), report_prepared_meanwhile(folder):
                run_sweep(experiment, folder, watch=ProgressDisplay(folder, terminal()))
            with print_unsent(folder, errors):
                show_results(folder, console, errors)


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of a sweep or of a trial.")],
    failed: Annotated[
        bool, typer.Option("--failed", help="Run only the trials that have failed (default: all that are not done).")
    ] = False,
) -> None:
    """Resume a sweep or a trial that was stopped: all trials that are not done, failed ones too, from their checkpoints.

    Completed trials are kept, unless one of their files is damaged. Failed trials of a search are results, which its suggestions
    depend on: they run again only with --failed; the search then chooses once more when it is resumed.
    """
    from ..ledger.reader import trials_of, unfinished_trials
    from .exit_report import resumption_lines

    trials = trials_of(folder)
    pending = unfinished_trials(trials, only_failed=failed)
    for text in resumption_lines(folder, trials, [each for each, _ in pending], only_failed=failed):
        console.print(one_line(text), soft_wrap=True)
    for trial, damage in pending:
        if damage is not None:
            advice = "it resumes from its newest valid checkpoint"
            errors.print(one_line(("damaged", "yellow"), f" {trial.id}: {damage}; {advice}"), soft_wrap=True)
    is_open = bool(pending) or (not failed and has_open_search(folder))
    if is_open:
        from ..sweep.ray_cluster import ray_ends_meanwhile
        from ..sweep.run import resume as resume_run
        from .progress import ProgressDisplay

        warn_about_wandb(folder, errors)
        console.print(one_line(f"If it ends early, continue with: retain resume {folder}"), style="dim", soft_wrap=True)
        with ray_ends_meanwhile():
            with print_resume_hint(folder, errors), report_prepared_meanwhile(folder):
                resume_run(folder, watch=ProgressDisplay(folder.absolute(), terminal()), only_failed=failed)
            with print_unsent(folder, errors):
                show_results(folder, console, errors)
    else:
        show_results(folder, console, errors)


@app.command()
def prepare(
    name: Annotated[
        str, typer.Argument(metavar="BENCHMARK|CONFIG", help="A benchmark, or a config: all of its benchmarks.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value]...", help="The benchmark's settings, e.g. data=cifar100.")
    ] = None,
) -> None:
    """Prepare a benchmark's data in the cache: find, decode and resize it once, for all trials."""
    from .prepare import prepared_lines

    for line in prepared_lines(name, overrides or [], console):
        console.print(one_line(line), soft_wrap=True)


@app.command()
def check(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The dotted path of your own module, or the name of a shipped one.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value]...", help="Its settings, e.g. weight=2.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--kind", help="strategy, network, benchmark, probe or data_set (default: inferred).")
    ] = None,
) -> None:
    """Check a strategy, network, benchmark, probe or data set against its contract, in short trials."""
    from .check import check as check_module

    try:
        passed = check_module(name, overrides or [], kind, console)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if not passed:
        raise typer.Exit(1)


@app.command()
def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="Folders of sweeps or trials, compared on one page.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The page (default: report.html in the first folder).")
    ] = None,
    old_out: _OldOut = None,
) -> None:
    """Write one HTML page with the forgetting curves; it opens from disk, without a network."""
    from ..reporting.html_report import report as write_report

    console.print(one_line(str(write_report(folders, output))), soft_wrap=True)


@app.command()
def ensemble(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Folders of finished sweeps or trials.")],
) -> None:
    """Ensemble the finished seeds of each variant: the accuracy of each seed and of their mean probabilities."""
    from .ensemble import ensembles, left_out, table

    for result in ensembles(folders):
        console.print(table(result))
    for line in left_out(folders):
        errors.print(one_line(line), soft_wrap=True)


@app.command()
def show(
    config: _Config,
    overrides: _Overrides = None,
    images: Annotated[
        bool, typer.Option("--images", help="Draw training pictures and their augmented versions instead.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The picture that --images draws (default: NAME-augmentation.png)."),
    ] = None,
    old_out: _OldOut = None,
) -> None:
    """Print the whole resolved config, or that of a run's folder, or draw what the network is trained on."""
    from ..config.load import to_dict
    from ..config.yaml_files import dump_yaml
    from ..ledger.reader import run_config
    from ..trial.resolve import resolve_experiment

    folder = Path(config)
    data = run_config(folder) if os.path.isdir(folder) and is_run_folder(folder) else config
    resolved = resolve_experiment(load_config(data, overrides or []))
    if images or output is not None:
        from .image_sheet import write_image_sheet

        console.print(one_line(str(write_image_sheet(resolved, output))), soft_wrap=True)
        return
    console.print(several_lines(dump_yaml(to_dict(resolved.experiment))), soft_wrap=True, end="")


@app.command(name="list")
def list_(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="[KIND]", help="strategies, benchmarks, datasets, models, augmentation, probes or configs."
        ),
    ] = None,
) -> None:
    """List names and settings, each with a summary line."""
    from ..errors import nearest
    from .listing import KINDS, list_entries

    if kind == "networks":
        raise UserError("list networks: networks was renamed to models.")
    if kind is not None and kind not in KINDS:
        raise UserError(f"list {kind}: there is no such kind.{nearest(kind, KINDS)} Known: {', '.join(KINDS)}.")
    for listed_kind in KINDS if kind is None else [kind]:
        console.print(one_line((listed_kind, "bold")))
        for entry in list_entries(listed_kind):
            console.print(one_line("  ", (entry.name, "cyan"), f"  {entry.line}"), soft_wrap=True)
            for setting in entry.settings:
                console.print(one_line(f"      {setting}"), soft_wrap=True)


@app.command()
def sync(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of a sweep or of a trial.")],
) -> None:
    """Send new results to Weights & Biases, and write TensorBoard's files if the config asks for them."""
    from ..ledger.reader import run_config, trials_of
    from ..reporting.projector import project, settings_for
    from ..reporting.wandb_account import has_valid_key

    absolute = folder.absolute()
    trials_of(absolute)
    settings = settings_for(absolute, load_config(run_config(absolute)))
    mode = "online" if has_valid_key() else settings.mode
    project(
        absolute, replace(settings, mode=mode)
    )  # without a key: what a projector that failed has left to be written
    if mode is None or (mode == "disabled" and not settings.tensorboard):
        raise UserError(f"sync {folder}: no W&B key is set. Run `wandb login`, or set WANDB_API_KEY.")
    places = {"online": ["on W&B"], "offline": [f"in {folder / 'wandb'}, offline"]}.get(str(mode), [])
    places += ["in TensorBoard's files"] * settings.tensorboard
    console.print(one_line(f"{folder}: all trials are {' and '.join(places)}"), soft_wrap=True)


app.registered_commands += existing_runs.registered_commands


def _refuse_occupied(output: Path | None, ledger: type[TrialLedger] | type[SweepLedger]) -> None:
    """Raise UserError, before anything is computed, for a folder that holds a run or other files."""
    if output is not None and is_run_folder(output):
        raise UserError(f"{output} is occupied: resume it (retain resume {output}) or choose another with --output.")
    if output is not None:
        ledger.refuse_occupied(output)


def main() -> None:
    """Run the command line; a UserError is printed in one sentence and ends with exit code 2.

    All messages are printed here, also those of typer and of exceptions that nobody expected: they may quote a hostile name.
    """
    prepare_streams(errors)
    sys.path[:] = module_path(sys.path)  # for the user's strategies, named by dotted path
    try:
        code = app(standalone_mode=False)
    except UserError as error:
        print_error(errors, error)
        sys.exit(2)
    except typer.Abort:
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - the interpreter would print it too, but with the escape sequences in it
        sys.exit(_print_exception(error))
    if (
        "ray" in sys.modules and "triton" not in sys.modules
    ):  # after a sweep; triton complains about objects that are left
        gc.freeze()  # on exit, the interpreter would search all of torch's and Plotly's objects for cycles
    sys.exit(code if isinstance(code, int) else 0)


def _print_exception(error: Exception) -> int:
    """Print an error of the user's code or of the command's arguments in one line; return the exit code.

    Any other exception is printed with its traceback.
    """
    if line := user_line(error):  # the user's own strategy, network, ...: the rest of the traceback does not help
        print_error(errors, f"{line}: {type(error).__name__}: {error}")
        return 2
    if reason := unwritable_reason(error):  # of the standard output, for example
        print_error(errors, f"{getattr(error, 'filename', None) or 'the output'} cannot be written: {reason}")
        return 2
    if not hasattr(error, "format_message"):  # the errors of typer, and of click in its older versions, have it
        errors.print(several_lines("".join(traceback.format_exception(error))), soft_wrap=True, end="")
        return 1
    message = error.format_message().removesuffix(".")
    if message:  # without any argument, typer has printed the help already
        path = getattr(getattr(error, "ctx", None), "command_path", app.info.name)
        errors.print(one_line(("error:", "red"), f" {message} (see: {path} --help)"), soft_wrap=True)
    return int(getattr(error, "exit_code", 2))

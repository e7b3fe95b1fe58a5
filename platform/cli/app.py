"""The command `retain`: subcommands, options, exit codes (0 done, 1 a trial failed, 2 wrong input, 130 Ctrl-C, 143 SIGTERM).

Nothing heavy is imported at the top, so ``--help`` and a wrong key answer at once.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from ..config.dotted_paths import module_path
from ..config.load import load_config
from ..config.schema import Experiment
from ..errors import UserError
from ..run_folders import outside_run_folders
from .exit_report import print_resume_hint, show_results

app = typer.Typer(
    name="retain",
    help="Continual-learning experiments: train networks on new classes and domains, and see what they forget.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


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
    from ..sweep.run import default_folder

    folder = (output or default_folder(experiment)).absolute()
    _check_new_folder(folder)
    from ..reporting.projector import projector_process
    from ..reporting.wandb_runs import resolve_mode
    from ..trial.run import run as run_trial
    from .progress import ProgressDisplay  # imported late: a trial's imports take seconds

    resolve_mode(experiment.wandb.mode)
    with print_resume_hint(folder, errors), ProgressDisplay(folder, console):
        run_trial(experiment, folder)
    with projector_process(folder, experiment):
        pass  # on exit, the projector sends the finished trial
    show_results(folder, console, errors)


@app.command()
def sweep(
    config: _Config,
    overrides: _Overrides = None,
    output: _NewFolder = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the trials, estimate time and disk, start nothing.")
    ] = False,
    old_folder: _OldFolder = None,
) -> None:
    """Run all trials of a config on Ray: streams x variants x seeds x search space."""
    experiment = load_config(config, overrides or [])
    if dry_run:
        _dry_run(experiment)
        return
    from ..sweep.run import default_folder
    from ..sweep.run import sweep as run_sweep
    from .progress import ProgressDisplay

    folder = (output or default_folder(experiment)).absolute()
    _check_new_folder(folder)
    console.print(f"sweep [bold]{escape(experiment.name)}[/] -> {escape(str(folder))}", soft_wrap=True)
    with print_resume_hint(folder, errors):
        run_sweep(experiment, folder, watch=ProgressDisplay(folder, console))
    show_results(folder, console, errors)


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of a sweep or of a trial.")],
) -> None:
    """Resume a sweep or a trial that was stopped. Completed trials are kept, unless one of their files is damaged."""
    from ..ledger.reader import trials_of, unfinished_trials

    trials = trials_of(folder)
    pending = unfinished_trials(trials)
    console.print(f"{len(trials) - len(pending)} of {len(trials)} trials are done, {len(pending)} to go")
    for trial, damage in pending:
        if damage is not None:
            errors.print(
                f"[yellow]damaged[/] {escape(trial.id)}: {escape(damage)}; it resumes from its newest valid checkpoint",
                soft_wrap=True,
            )
    if pending:
        from ..sweep.run import resume as resume_run
        from .progress import ProgressDisplay

        with print_resume_hint(folder, errors):
            resume_run(folder, watch=ProgressDisplay(folder.absolute(), console))
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
        console.print(escape(line), soft_wrap=True)


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

    console.print(str(write_report(folders, output)), soft_wrap=True)


@app.command()
def ensemble(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Folders of finished sweeps or trials.")],
) -> None:
    """Ensemble the finished seeds of each variant: the accuracy of each seed and of their mean probabilities."""
    from .ensemble import ensembles, table

    for result in ensembles(folders):
        console.print(table(result))


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
    """Print the whole resolved config, or draw what the network is trained on."""
    import yaml

    from ..config.load import to_dict
    from ..trial.resolve import resolve_experiment

    resolved = resolve_experiment(load_config(config, overrides or []))
    if images or output is not None:
        from .image_sheet import write_image_sheet

        console.print(escape(str(write_image_sheet(resolved, output))), soft_wrap=True)
        return
    typer.echo(yaml.safe_dump(to_dict(resolved.experiment), sort_keys=False), nl=False)


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
        console.print(f"[bold]{listed_kind}[/]")
        for entry in list_entries(listed_kind):
            console.print(f"  [cyan]{escape(entry.name)}[/]  {escape(entry.line)}", soft_wrap=True)
            for setting in entry.settings:
                console.print(f"      {escape(setting)}", soft_wrap=True)


@app.command()
def sync(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of a sweep or of a trial.")],
) -> None:
    """Send new results to Weights & Biases."""
    from ..config.load import from_dict
    from ..ledger.reader import run_config, trials_of
    from ..reporting.projector import project, settings_for

    absolute = folder.absolute()
    trials_of(absolute)
    with outside_run_folders():  # W&B reads settings from the working folder, which must not be a run's
        settings = settings_for(absolute, from_dict(run_config(absolute)))
        project(absolute, replace(settings, mode="online", tensorboard=False), follow=False)
    console.print(f"{escape(str(folder))}: all trials are on W&B")


def _dry_run(experiment: Experiment) -> None:
    """Plan, check, list the trials and print the estimate."""
    from ..sweep.estimate import estimate
    from ..sweep.plan import check_trials, plan
    from .tables import dry_run_table, duration

    trials = plan(experiment)
    check_trials(trials)
    console.print(dry_run_table([trial.identity for trial in trials]))
    cost = estimate(trials)
    console.print(
        f"{len(trials)} trials; about {duration(cost.seconds)} on this machine's {os.cpu_count()} cores (without what the "
        f"strategies add) and {cost.disk / 2**20:.0f} MB in {escape(experiment.output)}. Nothing was started."
    )


def _check_new_folder(folder: Path) -> None:
    """Raise UserError, before anything is computed, for a folder that cannot be written or has a run."""
    parent = next(path for path in (folder, *folder.parents) if path.exists())
    if not parent.is_dir():
        raise UserError(f"{folder}: {parent} is a file, not a folder.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: cannot be written; choose another with --output or output=PATH.")
    if (folder / "trials.json").exists() or (folder / "trial.json").exists():
        raise UserError(f"{folder} is occupied: resume it (retain resume {folder}) or choose another with --output.")


def main() -> None:
    """Run the command line; a UserError is printed in one sentence and ends with exit code 2."""
    sys.path[:] = module_path(sys.path)  # for the user's strategies, named by dotted path
    try:
        app()
    except UserError as error:
        errors.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(2)

"""The command line: what the user types, what is printed, how it ends (0 done, 1 a trial failed, 2 the user's input).

Nothing heavy is imported at the top: ``--help`` and a wrong key answer at once.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

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

_Config = Annotated[str, typer.Argument(metavar="CONFIG", help="A shipped config's name, or the path of a YAML file.")]
_Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[key=value]...", help="Settings to change, e.g. training.epochs=5.")
]
_Folder = Annotated[Path | None, typer.Option("--folder", "-o", help="Where to write (default: runs/NAME-TIME).")]


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Continual-learning experiments: train networks on new classes and domains, and see what they forget."""
    if version:
        from ... import __version__

        console.print(f"retain {__version__}")
        raise typer.Exit


@app.command()
def run(config: _Config, overrides: _Overrides = None, folder: _Folder = None) -> None:
    """Run one trial in this process, without Ray."""
    experiment = load_config(config, overrides or [])
    from ..sweep.run import default_folder

    where = (folder or default_folder(experiment)).absolute()
    _writable(where)
    from ..reporting.projector import projector_process
    from ..reporting.wandb_runs import resolve_mode
    from ..trial.run import run as run_trial
    from .progress import ProgressDisplay  # now: a trial's imports take seconds

    resolve_mode(experiment.wandb.mode)
    with print_resume_hint(where, errors), ProgressDisplay(where, console):
        run_trial(experiment, where)
    with projector_process(where, experiment):
        pass  # W&B and TensorBoard get the trial as it has ended
    show_results(where, console, errors)


@app.command()
def sweep(
    config: _Config,
    overrides: _Overrides = None,
    folder: _Folder = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the trials, estimate time and disk, start nothing.")
    ] = False,
) -> None:
    """Run all trials of a config on Ray: streams x variants x seeds x search space."""
    experiment = load_config(config, overrides or [])
    if dry_run:
        _dry_run(experiment)
        return
    from ..sweep.run import default_folder
    from ..sweep.run import sweep as run_sweep
    from .progress import ProgressDisplay

    where = (folder or default_folder(experiment)).absolute()
    _writable(where)
    console.print(f"sweep [bold]{escape(experiment.name)}[/] -> {escape(str(where))}", soft_wrap=True)
    with print_resume_hint(where, errors):
        run_sweep(experiment, where, watch=ProgressDisplay(where, console))
    show_results(where, console, errors)


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of a sweep or of a trial.")],
) -> None:
    """Go on with a sweep or a trial that was stopped; what is done stays as it is, unless a file of it is damaged."""
    from ..ledger.reader import trials_of, unfinished_trials

    trials = trials_of(folder)
    pending = unfinished_trials(trials)
    console.print(f"{len(trials) - len(pending)} of {len(trials)} trials are done, {len(pending)} to go")
    for trial, damage in pending:
        if damage is not None:
            errors.print(
                f"[yellow]damaged[/] {escape(trial.id)}: {escape(damage)}; it goes on from what is whole",
                soft_wrap=True,
            )
    if pending:
        from ..sweep.run import resume as go_on
        from .progress import ProgressDisplay

        with print_resume_hint(folder, errors):
            go_on(folder, watch=ProgressDisplay(folder.absolute(), console))
    show_results(folder, console, errors)


@app.command()
def prepare(
    name: Annotated[
        str, typer.Argument(metavar="BENCHMARK|CONFIG", help="A benchmark's name, or a config for all of its.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value]...", help="The benchmark's settings, e.g. data=cifar100.")
    ] = None,
) -> None:
    """Bring a benchmark's data into the cache that all trials map: found, decoded, resized once."""
    from .prepare import prepared_lines

    for line in prepared_lines(name, overrides or [], console):
        console.print(escape(line), soft_wrap=True)


@app.command()
def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="Folders of sweeps or trials, compared on one page.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="The page (default: report.html in the first folder).")
    ] = None,
) -> None:
    """Write one HTML page with the forgetting curves; it opens from disk, without a network."""
    from ..reporting.html_report import report as write_report

    console.print(str(write_report(folders, out)), soft_wrap=True)


@app.command()
def ensemble(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Folders of finished sweeps or trials.")],
) -> None:
    """Let the seeds of each variant vote: accuracy of their mean probabilities beside that of each."""
    from .ensemble import ensembles, table

    for found in ensembles(folders):
        console.print(table(found))


@app.command()
def show(
    config: _Config,
    overrides: _Overrides = None,
    images: Annotated[
        bool, typer.Option("--images", help="Draw training pictures instead, and what augmentation makes of them.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="The picture that --images draws (default: NAME-augmentation.png).")
    ] = None,
) -> None:
    """Print the whole resolved config, or draw what the network is trained on."""
    import yaml

    from ..config.load import to_dict
    from ..trial.resolve import check_plugins

    experiment = check_plugins(load_config(config, overrides or []))
    if images or out is not None:
        from .image_sheet import write_image_sheet

        console.print(escape(str(write_image_sheet(experiment, out))), soft_wrap=True)
        return
    typer.echo(yaml.safe_dump(to_dict(experiment), sort_keys=False), nl=False)


@app.command(name="list")
def list_(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="[KIND]", help="strategies, benchmarks, datasets, networks, augmentation, probes or configs."
        ),
    ] = None,
) -> None:
    """List what there is: each with one line and its settings."""
    from ..errors import nearest
    from .listing import KINDS, list_entries

    if kind is not None and kind not in KINDS:
        raise UserError(f"list {kind}: there is no such kind.{nearest(kind, KINDS)} Known: {', '.join(KINDS)}.")
    for one in KINDS if kind is None else [kind]:
        console.print(f"[bold]{one}[/]")
        for entry in list_entries(one):
            console.print(f"  [cyan]{escape(entry.name)}[/]  {escape(entry.line)}", soft_wrap=True)
            for setting in entry.settings:
                console.print(f"      {escape(setting)}", soft_wrap=True)


@app.command()
def sync(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of a sweep or of a trial.")],
) -> None:
    """Send to Weights & Biases what has not been sent yet."""
    from ..config.load import from_dict
    from ..ledger.reader import run_config, trials_of
    from ..reporting.projector import project, settings_for

    where = folder.absolute()
    trials_of(where)
    with outside_run_folders():  # W&B reads settings from the working folder: none of a run's
        settings = settings_for(where, from_dict(run_config(where)))
        project(where, replace(settings, mode="online", tensorboard=False), follow=False)
    console.print(f"{escape(str(folder))}: all trials are on W&B")


def _dry_run(experiment: Experiment) -> None:
    """Plan, check and estimate."""
    from ..sweep.estimate import estimate
    from ..sweep.plan import check_trials, plan
    from .tables import dry_run_table, duration

    trials = plan(experiment)
    check_trials(trials)
    console.print(dry_run_table([trial.identity for trial in trials]))
    guess = estimate(trials)
    console.print(
        f"{len(trials)} trials; about {duration(guess.seconds)} on this machine's {os.cpu_count()} cores (without what the "
        f"strategies add) and {guess.disk / 2**20:.0f} MB in {escape(experiment.output)}. Nothing was started."
    )


def _writable(folder: Path) -> None:
    """Refuse a folder that cannot be written before anything is computed."""
    parent = next(path for path in (folder, *folder.parents) if path.exists())
    if not parent.is_dir():
        raise UserError(f"{folder}: {parent} is a file, not a folder.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: cannot be written; choose another with --folder or output=PATH.")
    if (folder / "trials.json").exists() or (folder / "trial.json").exists():
        raise UserError(f"{folder} is occupied: resume it (retain resume {folder}) or choose another with --folder.")


def main() -> None:
    """Entry point: the user's mistakes end in one sentence and exit code 2."""
    sys.path[:] = module_path(sys.path)  # the user's own strategies, named by dotted path
    try:
        app()
    except UserError as error:
        errors.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(2)

"""Commands on existing runs, added to `app`: watch, stop, extend and compare them."""

from pathlib import Path
from typing import Annotated

import typer

from .terminal import Terminal, one_line, several_lines

commands = typer.Typer()
console = Terminal()
errors = Terminal(stderr=True)


@commands.command()
def status(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of a sweep or of a trial.")],
    watch: Annotated[
        bool, typer.Option("--watch", help="Show the progress until the run ends; Ctrl-C ends only the display.")
    ] = False,
) -> None:
    """Show how far a run is: trials in each state, running and failed ones, time left. It may run in another terminal."""
    from .status import show_status, watch_status

    if watch:
        watch_status(folder, console)
    else:
        show_status(folder, console)


@commands.command()
def stop(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of a sweep or of a trial.")],
) -> None:
    """Stop a run in another terminal: its running trials write a checkpoint and end, as after SIGTERM."""
    from .status import request_stop

    request_stop(folder)
    text = f"{folder} was asked to stop; its running trials write a checkpoint first. Continue later with: retain resume {folder}"
    console.print(one_line(text), soft_wrap=True)


@commands.command()
def compare(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="Folders of sweeps or trials, compared together.")
    ],
    format_name: Annotated[str, typer.Option("--format", help="table, csv, parquet or latex.")] = "table",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The file to write (default: print).")] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric", help="A metric, such as forgetting_max; may be repeated (default: depends on --format)."
        ),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="The variant to compare with (default: naive, or the first one).")
    ] = None,
    test: Annotated[str, typer.Option("--test", help="The paired test of the p values: t or wilcoxon.")] = "t",
) -> None:
    """Compare variants over their seeds: means, interquartile means, paired differences, intervals, p values."""
    from .compare import write_comparison

    write_comparison(
        folders,
        console,
        errors,
        format_name=format_name,
        output=output,
        metric_names=metric or (),
        baseline=baseline,
        test_name=test,
    )


@commands.command()
def best(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of a sweep with a search.")],
    variant: Annotated[str | None, typer.Option("--variant", help="Only this variant (default: all).")] = None,
    stream: Annotated[str | None, typer.Option("--stream", help="Only this stream (default: all).")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A folder to write STREAM-VARIANT.yaml files to (default: print)."),
    ] = None,
) -> None:
    """Print the configuration that a search has chosen for each variant, as YAML for `retain run` and `retain sweep`."""
    from ..files import write_text
    from .best import best_configs

    configs = best_configs(folder, variant, stream)
    if output is None:
        for number, text in enumerate(configs.values()):
            console.print(several_lines(("---\n" if number else "") + text), soft_wrap=True, end="")
        return
    output.mkdir(parents=True, exist_ok=True)
    for name, text in configs.items():
        write_text(output / name, text)
        console.print(one_line(str(output / name)), soft_wrap=True)


@commands.command()
def add(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of a sweep, finished or stopped.")],
    overrides: Annotated[
        list[str], typer.Argument(metavar="key=value...", help="What to add, e.g. 'sweep.seeds=[0,1,2,3,4]'.")
    ],
) -> None:
    """Add seeds, variants, streams, points or samples to a sweep and run only what is missing."""
    from ..sweep.run import add as add_to_sweep
    from .exit_report import print_resume_hint, show_results
    from .progress import ProgressDisplay
    from .terminal import terminal
    from .unsent import print_unsent

    with print_resume_hint(folder, errors):
        add_to_sweep(folder, overrides, watch=ProgressDisplay(folder.absolute(), terminal()))
    with print_unsent(folder, errors):
        show_results(folder, console, errors)

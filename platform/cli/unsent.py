"""What a command says about W&B and TensorBoard: before trials are resumed, and after trials have run."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ..errors import UserError
from .terminal import one_line


def warn_about_wandb(folder: Path, errors: Console) -> None:
    """Print what W&B would refuse of a folder whose trials are resumed: they can be sent later, so they are not stopped."""
    from ..config.load import load_config
    from ..ledger.reader import run_config
    from ..reporting.wandb_account import check_wandb

    config = load_config(run_config(folder)).wandb
    try:
        check_wandb(config)
    except UserError as error:
        advice = f"The trials resume; send them later with: retain sync {folder}"
        errors.print(one_line(("W&B", "yellow"), f" {error}. {advice}"), soft_wrap=True)


@contextmanager
def print_unsent(folder: Path, errors: Console) -> Iterator[None]:
    """A context that prints, at its end, how many trials W&B or TensorBoard do not have, and the command that sends them."""
    try:
        yield
    finally:
        try:
            for line in _unsent_lines(folder):
                errors.print(line, soft_wrap=True)
        except UserError as error:  # a damaged projector.json
            errors.print(one_line(("not sent", "yellow"), f" {error}"), soft_wrap=True)


def _unsent_lines(folder: Path) -> Iterator[Text]:
    """Yield a line for each of W&B and TensorBoard that does not have all trials."""
    from ..config.load import load_config
    from ..ledger.reader import run_config, trials_of
    from ..reporting.projector import num_unsent, settings_for

    settings, total = settings_for(folder, load_config(run_config(folder))), len(trials_of(folder))
    unsent = {
        "W&B": num_unsent(folder, replace(settings, tensorboard=False)),
        "TensorBoard's files": num_unsent(folder, replace(settings, mode="disabled")),
    }
    for place, count in unsent.items():
        if count:
            counts = f" {count} of {total} trials are not completely in {place}."
            yield one_line(("not sent", "yellow"), f"{counts} Send them with: retain sync {folder}")
    log = folder / "projector.log"
    if any(unsent.values()) and log.exists():
        lines = log.read_text(encoding="utf-8", errors="backslashreplace").splitlines()
        reasons = [line for line in lines if line.strip() and "`retain sync" not in line] or [""]
        yield one_line(f"The end of {log}: {reasons[-1]}")

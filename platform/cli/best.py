"""Print the chosen configurations of a sweep's searches as YAML that can be run."""

from collections.abc import Sequence
from pathlib import Path

from ..config.load import load_config, plain_data
from ..config.schema import Data
from ..config.yaml_files import dump_yaml
from ..errors import UserError, comma_separated, nearest
from ..ledger.reader import Trial, is_sweep, run_config, trials_of
from ..reporting.search_results import SearchResult, searches_of
from ..run_folders import folder_name


def best_configs(folder: Path, variant: str | None, stream: str | None) -> dict[str, str]:
    """Return a file's name -> its YAML, for each variant and stream with a chosen configuration.

    Args:
        folder: the sweep's.
        variant: only this one; None: all.
        stream: only this one; None: all.

    Raises:
        UserError: the sweep has no search, or none of that name has chosen.
    """
    listed = trials_of(folder)
    searches = searches_of(folder)
    if not searches and is_sweep(folder) and load_config(run_config(folder)).sweep.objective is not None:
        raise UserError(_not_chosen(folder))
    if not searches:
        raise UserError(f"{folder}: its sweep has no search: set sweep.objective, such as validation.average_accuracy.")
    _check_name("variant", variant, [each.variant for each in searches])
    trials = [trial for trial in listed if trial.role == "reported" and "configuration" in trial.identity]
    _check_name("stream", stream, [trial.stream for trial in trials] or [each.stream for each in searches])
    by_variant = {each.variant: each for each in searches}
    by_place = {(each.stream, each.variant): each for each in searches}
    seeds = load_config(run_config(folder)).sweep.seeds
    configs: dict[str, str] = {}
    for trial in trials:
        if (variant, stream) in {(a, b) for a in (None, trial.variant) for b in (None, trial.stream)}:
            search = by_place.get((trial.stream, trial.variant)) or by_variant.get(trial.variant)
            name = folder_name(f"{trial.stream}-{trial.variant}") + ".yaml"
            if search is not None and search.chosen == trial.identity["configuration"] and name not in configs:
                configs[name] = _yaml(trial, search, seeds)
    if not configs:
        raise UserError(_not_chosen(folder))
    return configs


def _not_chosen(folder: Path) -> str:
    return f"{folder}: no configuration is chosen yet. Continue the search with: retain resume {folder}"


def _check_name(what: str, name: str | None, known: Sequence[str]) -> None:
    if name is not None and name not in known:
        raise UserError(
            f"--{what} {name}: was not searched.{nearest(name, known)} Here: {comma_separated(set(known))}."
        )


def _yaml(trial: Trial, search: SearchResult, seeds: Sequence[int]) -> str:
    """Return a reported trial's config with the reporting seeds, and comments on how it was chosen."""
    config = trial.config()
    config["name"] = f"{config['name']}-{trial.variant}"
    if config.get("data") == plain_data(Data()) or _is_default_data(config):
        config.pop("data", None)
    best = search.best
    values = "" if best is None else ", ".join(f"{key} {value:.4g}" for key, value in best.values.items())
    number = len(search.configurations)
    comments = (
        f"# {trial.variant} on {trial.stream}: configuration {search.chosen} of {number} ({values}).",
        f"# Protocol {search.protocol_text}: {search.looks_at}.",
    )
    plain = {key: value for key, value in config.items() if key not in ("seed", "published")}
    text = dump_yaml({**plain, "sweep": {"seeds": list(seeds)}})
    return "\n".join(" ".join(line.split()) for line in comments) + "\n" + text


def _is_default_data(config: dict[str, object]) -> bool:
    """Return whether the data folders are those that the environment names: a file for another machine must not name them."""
    from ..data.cache import DataFolders

    data = config.get("data")
    root = data.get("root") if isinstance(data, dict) else None
    default = DataFolders.of(None, None).root
    return root is not None and default is not None and Path(str(root)) == default

"""What a user probably meant by an unknown key, an unindented block, or a folder given as a config."""

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_origin

from ..errors import UserError, nearest
from ..run_folders import is_run_folder
from ..visible_text import shortened
from . import registry
from .interpolations import MISSING
from .plain_dataclass import section_of, type_hints
from .renamed import hint
from .repairs import mapping_advice
from .schema import Experiment
from .yaml_files import flow_yaml
from .yaml_overrides import KINDS, MANY_NAMES, nest_key

_CLOSE = 0.8  # difflib's ratio of names that differ in a letter or two


def suggestion(where: str, key: str, known: list[str], root: Mapping[str, Any]) -> str:
    """Return what an unknown key may have meant, as `` Did you mean 'x'?``; an empty text if nothing is near.

    Args:
        where: the key's full path.
        key: its last part.
        known: the keys that are known in its section.
        root: the whole config, in whose strategies, network, ... the key may belong; empty: not looked at.
    """
    name, colon, _ = key.partition(":")
    if colon and name in known:
        return f" Put a space after the colon of '{name}:'."
    if renamed := hint(where):
        return renamed
    if "." in key and key.partition(".")[0] in known:
        return f" Dots do not nest keys in a file: write {flow_yaml(nest_key(key, 'VALUE'))}."
    close = difflib.get_close_matches(key.lower(), known, n=1, cutoff=_CLOSE)
    schema = list(_schema_paths(Experiment, ""))
    matches = close + [path for path in schema if path.rpartition(".")[2] == key]
    matches = matches or [f"{part}.{key}" for part, kind in KINDS.items() if key in registry.names(kind)]
    matches = matches or [path for path in _plugin_paths(root) if path.rpartition(".")[2] == key]
    if not matches and not (here := nearest(key, known)):
        last = {path.rpartition(".")[2]: path for path in reversed(schema)}
        matches = [last[each] for each in difflib.get_close_matches(key.lower(), last, n=1, cutoff=_CLOSE)]
    elif not matches:
        return here
    return f" Did you mean {' or '.join(repr(match) for match in matches[:3])}?" if matches else ""


def _schema_paths(cls: Any, prefix: str) -> Iterator[str]:
    """Yield the full path of each key in the schema; plugins' settings are not part of it."""
    hints = type_hints(cls)
    for name, annotation in [(field.name, hints[field.name]) for field in fields(cls) if field.repr]:
        yield f"{prefix}{name.rstrip('_')}"  # `from_` is a keyword's field: see load.field_name
        if is_dataclass(section_of(annotation)):
            yield from _schema_paths(section_of(annotation), f"{prefix}{name}.")


def _plugin_paths(root: Mapping[str, Any]) -> Iterator[str]:
    """Yield the paths of the settings of the shipped plugins that a config names."""
    for section, kind in KINDS.items():
        value = root.get(section)
        for name in [value] if isinstance(value, str) else value if isinstance(value, Mapping) else ():
            yield from (f"{section}.{name}.{setting}" for setting in _settings_of(kind, name))


def _settings_of(kind: registry.Kind, name: str) -> list[str]:
    """Return the names of a shipped plugin's settings; importing its module may take seconds."""
    module = registry.resolve(kind, name) if name in registry.names(kind) else None
    return [field.name for field in fields(module.Config)] if module else []


def refuse_unindented(data: Mapping[str, Any], cls: Any = Experiment, path: str = "") -> None:
    """Refuse an empty section whose content follows it, without the indentation that would make it its content."""
    known = type_hints(cls)
    unknown = [key for key in data if key not in known]
    for key in [key for key, value in data.items() if value is None and key in known]:
        belongs = [other for other in unknown if _belongs(other, data[other], key, known[key])]
        if belongs:
            form = flow_yaml({key: {other: data[other] for other in belongs}})
            raise UserError(
                f"{path}{key}: is empty, and '{belongs[0]}' is not indented under it. Indent it by two spaces more than "
                f"'{key}:', or write {shortened(form, 200)}."
            )
    for key, value in data.items():
        section = section_of(known.get(key))
        if is_dataclass(section) and isinstance(value, Mapping):
            refuse_unindented(value, section, f"{path}{key}.")


def _belongs(key: str, value: Any, section: str, annotation: Any) -> bool:
    """Return whether an unknown key next to an empty section is one of the section's."""
    if section in KINDS:
        return key in registry.names(KINDS[section]) or "." in key
    inner = section_of(annotation)
    if is_dataclass(inner):
        return key in type_hints(inner)
    return get_origin(inner) is Mapping and isinstance(value, Mapping | None)


def named_settings(key: str, value: Any) -> dict[str, Any]:
    """Return a mapping of plugins' names to settings: ``benchmark: split_digits`` means ``benchmark: {split_digits: {}}``.

    Raises:
        UserError: it is neither a name nor such a mapping; the message shows the right form.
    """
    if value == MISSING or (isinstance(value, Mapping) and MISSING in value):
        raise UserError(f"{key}={MISSING}: has no value yet; set it.")
    if isinstance(value, str) and (key == "model" or not mapping_advice(value)):  # model: torchvision:resnet18
        return {value: {}}
    if not isinstance(value, Mapping):
        advice = mapping_advice(value, names=True)
        if value is None and key in MANY_NAMES:
            advice += f"; {{{key}: {{NAME: null}}}} removes one in an override"
        raise UserError(f"{key}={value!r:.200}: must be a name, or a mapping of a name to its settings{advice}.")
    for name, settings in value.items():
        if settings is not None and not isinstance(settings, Mapping):
            raise UserError(f"{key}.{name}={settings!r:.200}: {_no_settings(key, value, name)}.")
    return {str(name): dict(settings or {}) for name, settings in value.items()}


def _no_settings(key: str, section: Mapping[str, Any], name: str) -> str:
    """Return what is wrong with `name`, whose value in a section of plugins is no mapping of settings."""
    kind, value = KINDS[key], section[name]
    if name in registry.names(kind):
        settings = _settings_of(kind, name)
        example = "weight" if "weight" in settings else next(iter(settings), "")
        known = f": {', '.join(settings)}; e.g. {key}.{name}.{example}=VALUE" if settings else ""
        return f"must be a mapping of settings{mapping_advice(value) or known}"
    if empty := next((other for other, settings in section.items() if settings is None), None):
        form = flow_yaml({key: {empty: {name: value}}})
        return f"is not indented under '{empty}': indent it by two spaces more, or write {shortened(form, 200)}"
    return f"must be a mapping of settings; if '{name}' is a setting, its key is {key}.NAME.{name}"


def refuse_number_of_seeds(data: Mapping[str, Any]) -> None:
    """Refuse ``seeds: 3`` and ``seeds: [0, 1]``, which are meant for the sweep, and a number where it has a list."""
    seeds, sweep = data.get("seeds"), data.get("sweep")
    if isinstance(seeds, int | list | tuple):
        raise UserError(
            f"seeds={seeds!r:.200}: must be a mapping with class_order, initialisation and data. "
            f"For a sweep over seeds, write sweep: {{seeds: [0, 1, 2]}} or sweep.seeds=[0,1,2]."
        )
    number = sweep.get("seeds") if isinstance(sweep, Mapping) else None
    if type(number) is int:
        several = list(range(number if 1 < number <= 20 else 3))
        raise UserError(
            f"sweep.seeds={number}: must be a list of seeds: write {several} for {len(several)} seeds, [{number}] for one."
        )


def not_a_config(name: str, path: Path) -> str:
    """Return why a path is no config's file, for one that exists but is none, such as a folder; an empty text for others."""
    if os.path.isdir(path) and is_run_folder(path):
        file = path / ("experiment.yaml" if (path / "trials.json").exists() else "config.yaml")
        return (
            f"config '{name}': is the folder of a run. `retain resume {name}` continues it, `retain show {name}` prints its "
            f"config, and {file} as CONFIG starts a new run with it."
        )
    if os.path.isdir(path):
        files = sorted(file.name for file in path.glob("*.y*ml"))
        inside = f" It has {', '.join(files[:5])}{', ...' if len(files) > 5 else ''}." if files else ""
        return f"config '{name}': is a folder: give the path of a YAML file.{inside}"
    if os.path.islink(path):
        return f"config '{name}': is a link to {os.readlink(path)}, which is no file."
    return f"config '{name}': is no regular file." if os.path.exists(path) else ""

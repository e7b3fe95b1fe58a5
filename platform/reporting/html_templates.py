"""Fill the report's templates (templates/*.jinja) with Jinja2. Every value is escaped, so that a name from YAML stays text."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..visible_text import visible

_FOLDER = Path(__file__).with_name("templates")


def render(template: str, **values: Any) -> str:
    """Fill a template.

    Args:
        template: the file's name, such as "report.html.jinja".
        values: what the template names. It escapes text, and writes figures as JSON that cannot close a script element
            (the filter `tojson`); numpy arrays become lists.

    Returns:
        HTML.

    Raises:
        jinja2.UndefinedError: the template names a value that is not given.
        ValueError: a figure holds NaN or infinity, which JSON does not know.
    """
    return _environment().get_template(template).render(values)


def compile_templates() -> None:
    """Compile all templates, which `render` does for each that it needs first."""
    for name in _environment().list_templates():
        _environment().get_template(name)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # keys keep their order, as in the figure
    environment.policies["json.dumps_kwargs"] = {"default": _plain, "separators": (",", ":"), "allow_nan": False}
    return environment


def _finalize(value: Any) -> Any:
    """Escape what cannot be seen in a text, such as marks that would reorder the page; line breaks are blanks in HTML."""
    return visible(value, keep="\n\t") if isinstance(value, str) and not hasattr(value, "__html__") else value


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written into a chart")

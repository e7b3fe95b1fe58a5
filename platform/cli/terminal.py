"""The terminal: everything that the command line prints goes through a `Terminal`, so no text from outside can act on it.

Only this module knows rich's markup and `Text`: other modules of `cli` build lines with `one_line` and print them.
"""

import io
import logging
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from ..visible_text import shortened, visible

_MAX_PART = 4000  # characters of a part of a line
_MAX_CELL = 200  # characters of a table's cell
Part = str | tuple[str, str]  # a text, or a text and its style, such as "bold red"


class Terminal(Console):
    """A rich console that shows text literally: no markup, no emoji codes, and invisible characters escaped.

    What a terminal cannot encode is escaped too, rather than raising UnicodeEncodeError (`prepare_streams`).
    """

    def __init__(self, **options: Any) -> None:
        """Write to standard output, or as rich's `Console` options say."""
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Render a string, of a table's cell too, as one line."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render anything; whatever its text holds, only rich's own control codes reach the terminal."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(visible(text, keep="\n"), style)


def terminal() -> Terminal:
    """Return a console that keeps writing to the present standard output while a trial redirects that to its log."""
    return Terminal(file=sys.stdout)


def one_line(*parts: Part) -> Text:
    """Return a line of parts, each a text or (text, style); line breaks in them are escaped."""
    pairs = ((part, "") if isinstance(part, str) else part for part in parts)
    return Text.assemble(*((shortened(visible(text), _MAX_PART), style) for text, style in pairs))


def cell(text: str, style: str = "") -> Text:
    """Return a table's cell; a very long text is cut in the middle."""
    return Text(shortened(visible(text), _MAX_CELL), style=style)


def several_lines(text: str, indent: str = "") -> Text:
    """Return a text with its line breaks; lines after the first start with `indent`."""
    return Text(visible(text, keep="\n").replace("\n", f"\n{indent}"))


def plain_table(*headings: str, title: str = "") -> Table:
    """Return a table without lines; the columns after the first are numbers, which stay whole in a narrow terminal."""
    table = Table(title=cell(title, "bold") if title else None, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for index, heading in enumerate(headings):
        table.add_column(
            cell(heading),
            justify="right" if index else "left",
            no_wrap=index > 0,
            overflow="ellipsis" if index else "fold",
        )
    return table


def print_error(errors: Console, error: BaseException | str) -> None:
    """Print an error's message; a message of several lines is indented, so that no text in it looks like another message."""
    message = "\n".join(shortened(line, _MAX_PART) for line in str(error).split("\n"))
    errors.print(Text.assemble(("error:", "red"), " ", several_lines(message, "       ")), soft_wrap=True)


def prepare_streams(errors: Console) -> None:
    """Let standard output and error escape what they cannot encode, and show warnings of `retain`'s modules as lines."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logger = logging.getLogger("retain.platform")
    if not any(isinstance(handler, _LinesOfWarnings) for handler in logger.handlers):
        logger.addHandler(_LinesOfWarnings(errors))


class _LinesOfWarnings(logging.Handler):
    """Prints log records of level WARNING and above, which may name somebody else's files."""

    def __init__(self, errors: Console) -> None:
        super().__init__(logging.WARNING)
        self._errors = errors

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record as one line."""
        self._errors.print(one_line(("warning:", "yellow"), f" {record.getMessage()}"), soft_wrap=True)

"""Parts of the report's HTML: cards, charts, the summary table, accuracy matrices, downloads.

Names come from users' YAML and are escaped here. Shapes: T experiences; an accuracy matrix is (T + 1, T), see `metrics`.
"""

import base64
import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from ..ledger.documents import to_json
from ..metrics import TITLES, Array
from .charts import Figure, VariantStyle
from .results import COLUMNS, VIEW_TITLES, ComparedTrial, TableRow, best_variants, format_cell

_HEADS = {
    "average_accuracy": "Average accuracy (ACC)",
    "average_incremental_accuracy": "Average incremental accuracy",
    "forgetting_max": "Forgetting (max over past − final)",
    "learning_accuracy": "Learning accuracy",
    "backward_transfer": "Backward transfer (BWT)",
}
_TABLE_NOTE = "In %, mean ± 95 % Student t interval over seeds. Marked: the best mean, bounds left out."


def card(title: str, body: str, note: str = "") -> str:
    """Return a box with a title, a note and a body; all three are HTML."""
    subtitle = f'<p class="note">{note}</p>' if note else ""
    return f'<div class="card"><h3>{title}</h3>{subtitle}{body}</div>'


def side_by_side(cards: Sequence[str]) -> str:
    """Return cards side by side where the page is wide enough."""
    return f'<div class="pair">{"".join(cards)}</div>' if cards else ""


def plot(figure: Figure, height: int) -> str:
    """Return a container for a chart, `height` pixels high, with its data; the page's script draws it."""
    data = f'<script type="application/json">{script_json(figure)}</script>'
    return f'<div class="plot" style="--height:{height}px">{data}</div>'


def script_json(data: Mapping[str, Any]) -> str:
    """Return JSON that is safe inside a script element: no name can close the element."""
    return json.dumps(data, default=_plain, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written into a chart")


def legend_key(look: VariantStyle) -> str:
    """Return a square in a variant's colour, or a bound's dashed line."""
    if look.bound:
        return f'<i class="key bound {look.dash}"></i>'
    return f'<i class="key" style="background:{look.colour}"></i>'


def summary_table(rows: Sequence[TableRow], title: str, style: Mapping[str, VariantStyle]) -> str:
    """Return a card with the rows of one stream and view as a table, in per cent, best values marked."""
    winners = {metric: best_variants(rows, metric) for metric in COLUMNS}
    heads = "".join(f'<th title="{escape(TITLES[m])}"><button>{_HEADS[m]}</button></th>' for m in COLUMNS)
    head = f"<tr><th><button>Variant</button></th>{heads}<th><button>Seeds</button></th></tr>"
    body = "".join(_row(row, winners, style[row.variant]) for row in rows)
    data = f'<table class="data" data-table="{rows[0].view}"><thead>{head}</thead><tbody>{body}</tbody></table>'
    return card(title, f'<div class="scroll">{data}</div>', _TABLE_NOTE)


def _row(row: TableRow, winners: Mapping[str, set[str]], look: VariantStyle) -> str:
    cells = []
    for metric in COLUMNS:
        mean, half, seeds = row.metrics[metric]
        cells.append(f"<td{' class=best' if row.variant in winners[metric] else ''}>{format_cell(mean, half)}</td>")
    cells.append(f"<td>{seeds}</td>")
    kind = ' class="bound"' if row.bound else ""
    return f"<tr{kind}><th>{legend_key(look)}{escape(row.variant)}</th>{''.join(cells)}</tr>"


def accuracy_matrix_table(label: str, seeds: Sequence[ComparedTrial], view: str) -> str:
    """Return the mean accuracy matrix over seeds as a coloured HTML table, which needs no script and copies as numbers."""
    mean: Array = np.mean([result.views[view] for result in seeds], axis=0)
    columns = range(1, mean.shape[1] + 1)
    lines = ["<tr><th></th>" + "".join(f"<th>{j}</th>" for j in columns) + "</tr>"]
    for i in (i for i in range(len(mean)) if np.isfinite(mean[i]).any()):
        squares = "".join(_square(mean[i, j - 1], i, j) for j in columns)
        lines.append(f"<tr><th>{i}</th>{squares}</tr>")
    dense = " dense" if len(columns) > 10 else ""
    table = f'<div class="scroll"><table class="heat{dense}">{"".join(lines)}</table></div>'
    return f"<figure><figcaption><b>{escape(label)}</b></figcaption>{table}</figure>"


def _square(value: float, row: int, column: int) -> str:
    if math.isnan(value):
        return '<td class="none">·</td>'
    high = ' class="high"' if value > 0.65 else ""
    title = f"after {row}, on {column}: {value:.1%}"
    return f'<td{high} style="--v:{value:.3f}" title="{title}">{100 * value:.0f}</td>'


def trials_table(results: Sequence[ComparedTrial]) -> str:
    """Return a table of all trials with their states and folders."""
    head = "<tr><th>Variant</th><th>Stream</th><th>Seed</th><th>State</th><th>Folder</th></tr>"
    lines = [
        f'<tr><th>{escape(result.label)}</th><td class="text">{escape(result.stream)}</td><td>{result.seed}</td>'
        f"<td>{escape(result.status.status)}</td>"
        f'<td class="text"><code>{escape(result.trial.folder.name)}</code></td></tr>'
        for result in results
    ]
    return f'<table class="data"><thead>{head}</thead><tbody>{"".join(lines)}</tbody></table>'


def downloads(rows: Sequence[TableRow], results: Sequence[ComparedTrial]) -> str:
    """Return links that hold their data: the table as CSV, and all accuracy matrices as JSON."""
    trials = [
        {"variant": result.label, "stream": result.stream, "seed": result.seed, "experiences": result.experiences}
        | {"sizes": result.sizes.tolist()}
        | {view: result.views[view].tolist() for view in VIEW_TITLES}
        for result in results
        if result.views
    ]
    matrices = _link("matrices.json", "application/json", to_json({"trials": trials}))
    return f"{_link('summary.csv', 'text/csv', _csv(rows))} · {matrices}"


def _csv(rows: Sequence[TableRow]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["stream", "view", "variant", "metric", "mean", "half_width_95", "seeds"])
    for row in rows:
        for metric, (mean, half, seeds) in row.metrics.items():
            numbers = ["" if math.isnan(value) else value for value in (mean, half)]
            writer.writerow([row.stream, row.view, row.variant, metric, *numbers, seeds])
    return text.getvalue()


def _link(name: str, kind: str, text: str) -> str:
    data = base64.b64encode(text.encode()).decode()
    return f'<a download="{name}" href="data:{kind};base64,{data}">{name}</a>'

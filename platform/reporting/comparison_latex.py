r"""Comparisons as LaTeX tables for booktabs: one for each stream and view, variants by metrics.

Bold is the best value of a metric if its difference to each other variant, paired by seed, has a 95 % interval that excludes
0. If the best cannot be told from the second, nothing is bold.
"""

import math
import re
from collections.abc import Sequence

from ..metrics import VALIDATION
from ..visible_text import visible
from .comparison import Comparison, VariantStatistics, is_maximized
from .comparison_text import interval_text, p_text
from .results import VIEW_TITLES, format_cell, seeds_text
from .statistics import Estimate

_HEADS = {
    "average_accuracy": "ACC",
    "average_incremental_accuracy": "Avg. incr. acc.",
    "learning_accuracy": "Learning acc.",
    "backward_transfer": "BWT",
    "forward_transfer": "FWT",
    "forgetting_max": "Forgetting (max)",
    "forgetting_max_incl_last": "Forgetting (max incl. last)",
    "forgetting_last": "Forgetting (last)",
    "forgetting_running": "Forgetting (running)",
}
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
} | {char: f"\\{char}" for char in "{}$&#%_"}
_SPECIAL |= {char: f"{{{char}}}" for char in "-'`\""}  # two of them would become a dash or other quotation marks
_GREEK = {
    letter: rf"$\{name}$"
    for letter, name in zip(
        "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΥΦΨΩ",
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi omega "
        "Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega".split(),
        strict=True,
    )
}
_SIGNS = {"→": r"$\to$", "×": r"$\times$", "±": r"$\pm$", "≤": r"$\leq$", "≥": r"$\geq$", "∞": r"$\infty$", "−": "$-$"}
_ESCAPES = str.maketrans(_SPECIAL | _GREEK | _SIGNS)


def escape(text: str) -> str:
    """Return a text that LaTeX prints as it is. Greek letters become mathematics; other scripts need XeLaTeX or LuaLaTeX."""
    return visible(text).translate(_ESCAPES)


def to_latex(comparisons: Sequence[Comparison]) -> str:
    """Return a table for each stream and view: a column for each metric, and the differences to the baseline in the first."""
    groups: dict[tuple[str, str], list[Comparison]] = {}
    for comparison in comparisons:
        groups.setdefault((comparison.stream, comparison.view), []).append(comparison)
    tables = [_table(members, number) for number, members in enumerate(groups.values(), 1)]
    return "% Needs \\usepackage{booktabs}.\n" + "\n".join(tables)


def _table(comparisons: Sequence[Comparison], number: int) -> str:
    first = comparisons[0]
    others = any(row.difference is not None for row in first.variants)
    counts = {seeds_text(len(row.values), row.planned) for row in first.variants}
    heads = ["Variant", *(["Seeds"] if len(counts) > 1 else []), *(_head(each) for each in comparisons)]
    heads += [f"Difference to {escape(str(first.baseline))} [95\\,\\%]", "$p$"] if others else []
    lines = []
    for index, row in enumerate(first.variants):
        if row.bound and index and not first.variants[index - 1].bound:
            lines.append(r"\midrule")
        cells = [escape(row.variant)]
        cells += [seeds_text(len(row.values), row.planned)] if len(counts) > 1 else []
        cells += [_cell(each, each.variants[index]) for each in comparisons]
        cells += _difference_cells(row) if others else []
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            f"\\caption{{{_caption(comparisons, counts)}}}",
            f"\\label{{tab:{_label(first)}-{number}}}",
            f"\\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
            r"\toprule",
            " & ".join(heads) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _head(comparison: Comparison) -> str:
    arrow = r"\uparrow" if is_maximized(comparison.metric) else r"\downarrow"
    return f"{_name(comparison.metric)} ${arrow}$"


def _name(metric: str) -> str:
    name = _HEADS[metric.removeprefix(VALIDATION)]
    return f"Validation {name}" if metric.startswith(VALIDATION) else name


def _cell(comparison: Comparison, row: VariantStatistics) -> str:
    """A mean and the half width of its interval in per cent; bold if it is the best."""
    text = format_cell(row.mean.value, row.mean.high - row.mean.value).replace("± ", r"\pm ")
    if text == "-":
        return "--"
    return f"$\\mathbf{{{text}}}$" if row.variant == comparison.best else f"${text}$"


def _difference_cells(row: VariantStatistics) -> list[str]:
    if row.difference is None or math.isnan(row.difference.mean):
        return ["--", "--"]
    pair = row.difference
    text = interval_text(Estimate(pair.mean, pair.low, pair.high), sign=True).replace(" [", r"\;[")
    return [f"${text}$", _p(row.adjusted_p)]


def _p(p: float) -> str:
    text = p_text(p)
    return "--" if text == "-" else f"${text}$"


def _caption(comparisons: Sequence[Comparison], counts: set[str]) -> str:
    first = comparisons[0]
    view = "" if first.is_only_view else f", {escape(VIEW_TITLES[first.view].lower())}"
    seeds = f"{counts.pop()} seeds" if len(counts) == 1 else "the finished seeds"
    text = (
        f"{escape(first.stream)}{view}: mean $\\pm$ half width of the 95\\,\\% Student $t$ interval over {seeds}, in \\%. "
        "Bold: the best mean, if the 95\\,\\% interval of its difference to each other variant, paired by seed, excludes 0."
    )
    if any(row.bound for row in first.variants):
        text += " Below the rule: upper bounds, trained on the data of all experiences so far, which are not compared."
    if any(row.difference is not None for row in first.variants):
        test = "$t$ test" if first.test == "t" else "Wilcoxon signed-rank test"
        text += f" Differences are in {_name(first.metric)}; $p$: paired {test}, with Holm's correction."
    return text


def _label(comparison: Comparison) -> str:
    name = comparison.stream if comparison.is_only_view else f"{comparison.stream}-{comparison.view}"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")

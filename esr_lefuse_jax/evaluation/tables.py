"""Tables of an evaluation: terminal, Markdown, LaTeX, CSV."""

import csv
import io
from collections.abc import Callable

from esr_lefuse_jax.evaluation.results import NOT_DEFINED, STAGES, Column, Results

_LATEX = str.maketrans(
    {
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
    }
)


def terminal(results: Results) -> str:
    """Means for reading on a terminal; the best of each column is marked with `*`."""
    blocks = []
    for stage, columns in results.columns.items():
        rows = [["method", *(column.title + _arrow(column) for column in columns)]]
        rows += _mean_rows(results, stage, columns, lambda text: text + "*")
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = []
        for row in rows:
            cells = [row[0].ljust(widths[0])]
            cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            lines.append("  ".join(cells).rstrip())
        lines.insert(1, "-" * max(map(len, lines)))
        blocks.append("\n".join([_caption(results, stage), *lines]))
    return "\n\n".join(blocks)


def markdown(results: Results) -> str:
    """Means as Markdown tables, best in bold, with the conventions below."""
    blocks = []
    for stage, columns in results.columns.items():
        header = ["method", *(column.title + _arrow(column) for column in columns)]
        lines = [_markdown_row(header), "|" + " --- |" + " ---: |" * len(columns)]
        lines += [_markdown_row(r) for r in _mean_rows(results, stage, columns, lambda text: f"**{text}**")]
        blocks.append("\n".join([f"### {_caption(results, stage)}", "", *lines]))
    seen = {column.key: column for columns in results.columns.values() for column in columns}
    notes = [f"- {column.title} (`{column.key}`): {column.convention}" for column in seen.values()]
    return "\n\n".join([*blocks, "Conventions:\n\n" + "\n".join(notes)]) + "\n"


def latex(results: Results) -> str:
    """Means as booktabs tables, best in bold; rows can be pasted into a paper's own table."""
    blocks = []
    for stage, columns in results.columns.items():
        header = ["Method"]
        for column in columns:
            arrow = r"\uparrow" if column.higher_is_better else r"\downarrow"
            header.append(f"{column.title.translate(_LATEX)} ${arrow}$")
        body = _mean_rows(results, stage, columns, lambda text: rf"\textbf{{{text}}}", _latex_text)
        lines = [
            f"% {_caption(results, stage)}",
            rf"\begin{{tabular}}{{l{'r' * len(columns)}}}",
            r"\toprule",
            " & ".join(header) + r" \\",
            r"\midrule",
            *(" & ".join(row) + r" \\" for row in body),
            r"\bottomrule",
            r"\end{tabular}",
        ]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def per_image_csv(results: Results) -> str:
    """One line per image, stage and method; full precision; `not defined` where a metric is not."""
    columns = list(dict.fromkeys(c.key for stage in results.columns.values() for c in stage))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["image", "stage", "method", *columns])
    for row in results.rows:
        applicable = {column.key for column in results.columns[row.stage]}
        cells = [
            (repr(row.values[key]) if key in row.values else NOT_DEFINED) if key in applicable else ""
            for key in columns
        ]
        writer.writerow([row.stem, row.stage, row.method, *cells])
    return stream.getvalue()


def means_csv(results: Results) -> str:
    """One line per stage, method and metric: mean, deviation, count and total."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["stage", "method", "metric", "mean", "deviation", "count", "total"])
    for stage, columns in results.columns.items():
        for method in results.stage_methods(stage):
            for column in columns:
                mean = results.mean(stage, method, column.key)
                known = [NOT_DEFINED] * 2 if mean.value is None else [repr(mean.value), repr(mean.deviation)]
                writer.writerow([stage, method, column.key, *known, mean.count, mean.total])
    return stream.getvalue()


def _mean_rows(
    results: Results,
    stage: str,
    columns: tuple[Column, ...],
    emphasise: Callable[[str], str],
    escape: Callable[[str], str] = str,
) -> list[list[str]]:
    best = {column.key: results.best(stage, column) for column in columns}
    rows = []
    for method in results.stage_methods(stage):
        cells = [escape(method)]
        for column in columns:
            mean = results.mean(stage, method, column.key)
            text = escape(column.text(mean.value))
            if method in best[column.key]:
                text = emphasise(text)
            if 0 < mean.count < mean.total:
                text += f" ({mean.count}/{mean.total})"
            cells.append(text)
        rows.append(cells)
    return rows


def _caption(results: Results, stage: str) -> str:
    count = len(results.common[stage])
    return f"{STAGES[stage].capitalize()}: means over {count} image{'s' if count != 1 else ''}"


def _arrow(column: Column) -> str:
    return " ↑" if column.higher_is_better else " ↓"


def _markdown_row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _latex_text(text: str) -> str:
    return text.translate(_LATEX)

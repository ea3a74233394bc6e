"""The report of a classifier: one HTML file with embedded figures, and the same numbers in a JSON file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from alerce_spark.pages import page
from alerce_spark.training import figures
from alerce_spark.training.figures import Agreement
from alerce_spark.training.metrics import Binned, Calibration, Estimate, Level, Sky, Verdict


@dataclass(frozen=True)
class Published:
    """A number from the literature: `quantity` is one of metrics.SCORES, or a class whose recall it is."""

    level: str
    quantity: str
    value: float
    source: str


@dataclass(frozen=True)
class Sheet:
    """An additional table of numbers, such as figures of real objects; a cell may be an Estimate."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Report:
    """Contents of a report. `recall` is of the classes of the last of `levels`; empty parts are left out.

    `about` says where model and data come from; `importances` are weights of features by forest; `published` numbers
    are shown next to ours, marked as measured on other data.
    """

    title: str
    about: Mapping[str, str]
    levels: tuple[Level, ...]
    recall: tuple[Binned, ...] = ()
    calibration: Mapping[str, Calibration] = field(default_factory=dict)
    sky: Sky | None = None
    agreement: Agreement | None = None
    importances: Mapping[str, Sequence[tuple[str, float]]] = field(default_factory=dict)
    verdict: Verdict | None = None
    sheets: tuple[Sheet, ...] = ()
    published: tuple[Published, ...] = ()


_SPLIT = "single split of the ZTF training set of 2020-09-16"
_RECALLS = {
    "SNIa": 0.70, "SNIbc": 0.56, "SNII": 0.46, "SLSN": 0.75,
    "QSO": 0.87, "AGN": 0.84, "Blazar": 0.72, "YSO": 0.82, "CV/Nova": 0.71,
    "LPV": 0.97, "E": 0.74, "DSCT": 0.84, "RRL": 0.86, "CEP": 0.70, "Periodic-Other": 0.67,
}  # fmt: skip
#: Light-curve classifier of Sánchez-Sáez et al. 2021 and its notebooks; levels `top` and `class`.
PUBLISHED_LIGHT_CURVE = (
    Published("top", "accuracy", 0.9874, _SPLIT),
    Published("top", "balanced_accuracy", 0.9846, _SPLIT),
    Published("top", "f1", 0.971, "20 splits of the training set of 2020-07-14"),
    *(
        Published("class", name, value, _SPLIT)
        for name, value in (
            ("accuracy", 0.83),
            ("balanced_accuracy", 0.75),
            ("precision", 0.56),
            ("recall", 0.75),
            ("f1", 0.59),
            *_RECALLS.items(),
        )
    ),
)
#: Stamp classifier of Carrasco-Davis et al. 2021; level `class`.
PUBLISHED_STAMP = (
    Published("class", "accuracy", 0.944, "mean of five runs, 100 test objects a class"),
    *(
        Published("class", name, value, "Förster et al. 2020, Fig. 4")
        for name, value in {"AGN": 0.93, "SN": 0.88, "VS": 0.97, "asteroid": 0.98, "bogus": 0.96}.items()
    ),
)


def write(report: Report, out: Path) -> Path:
    """Write the report as HTML to `out`, and its numbers to the same name with suffix .json; returns `out`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(_page(report), encoding="utf-8")
    text = json.dumps(numbers(report), indent=1, ensure_ascii=False, allow_nan=False)
    out.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    return out


def numbers(report: Report) -> dict[str, Any]:
    """Every number of the report as plain JSON values; undefined ones are null."""
    found: dict[str, Any] = {"title": report.title, "about": dict(report.about)}
    found["levels"] = {level.name: _level_numbers(level) for level in report.levels}
    if report.recall:
        classes = report.levels[-1].classes
        found["recall"] = {b.quantity: _binned_numbers(b, classes) for b in report.recall}
    if report.calibration:
        found["calibration"] = {
            label: {"objects": int(c.counts.sum()), "ece": c.ece, "boast": c.boast, "excess": c.excess}
            for label, c in report.calibration.items()
        }
    if report.sky is not None:
        found["sky"] = {
            "objects": dict(zip(report.sky.classes, report.sky.counts.tolist(), strict=True)),
            "findings": [{"holds": f.holds, "text": f.text} for f in report.sky.findings],
        }
    if report.agreement is not None:
        a = report.agreement
        found["agreement"] = {
            row: dict(zip(a.columns, counts, strict=True))
            for row, counts in zip(a.rows, a.counts.tolist(), strict=True)
        }
    if report.importances:
        found["importances"] = {name: dict(weights) for name, weights in report.importances.items()}
    if report.verdict is not None:
        found["verdict"] = {"promote": report.verdict.promote, "reasons": list(report.verdict.reasons)}
    if report.sheets:
        found["sheets"] = {s.title: [dict(zip(s.header, row, strict=True)) for row in s.rows] for s in report.sheets}
    if report.published:
        found["published_measured_on_other_data"] = [vars(p) for p in report.published]
    return dict(_plain(found))


def _level_numbers(level: Level) -> dict[str, Any]:
    by_class = zip(level.classes, level.counts.sum(axis=1), level.precision, level.recall, level.f1, strict=True)
    return {
        "scores": level.scores,
        "classes": {name: {"objects": int(n), "precision": p, "recall": r, "f1": f} for name, n, p, r, f in by_class},
        "confusion": level.counts.tolist(),
    }


def _binned_numbers(binned: Binned, classes: Sequence[str]) -> dict[str, Any]:
    return {
        name: {
            label: {"objects": int(n), "recall": float(r)}
            for label, n, r in zip(binned.labels, binned.counts[k], binned.recall[k], strict=True)
        }
        for k, name in enumerate(classes)
    }


def _plain(value: Any) -> Any:
    """JSON values only: estimates as objects, NaN as null."""
    if isinstance(value, Estimate):
        return _plain(vars(value))
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _page(report: Report) -> str:
    parts = [_table("", ("", ""), report.about.items())]
    if report.verdict is not None:
        parts += _verdict(report.verdict)
    for level in report.levels:
        parts += _level(level, [p for p in report.published if p.level == level.name])
    classes = report.levels[-1].classes if report.levels else ()
    for binned in report.recall:
        parts += _section(f"Recall against {binned.quantity}", figures.recall(binned, classes))
    if report.calibration:
        parts += _section("Calibration", figures.calibration(report.calibration))
        parts.append(
            "<p class=note>Title: objects; expected calibration error; excess = mean confidence − share right, "
            "above 0 the classifier is surer than it is right. Groups by number of detections.</p>"
        )
    if report.sky is not None:
        parts += _section("Predicted classes on the unlabelled sky", figures.sky(report.sky))
        parts.append(_findings(report.sky))
    if report.agreement is not None:
        a = report.agreement
        parts += _section(f"{a.row_title} against {a.column_title}", figures.agreement(a))
    if report.importances:
        parts += _section("Feature importance", figures.importances(report.importances))
    for sheet in report.sheets:
        parts += [f"<h2>{escape(sheet.title)}</h2>", _table("", sheet.header, sheet.rows), _note(sheet.note)]
    return page(report.title, "\n".join(parts))


def _verdict(verdict: Verdict) -> list[str]:
    word = "promoted" if verdict.promote else "not promoted"
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in verdict.reasons)
    return [f"<h2>Gate: <span class={'yes' if verdict.promote else 'no'}>{word}</span></h2><ul>{reasons}</ul>"]


def _findings(sky: Sky) -> str:
    marks = (
        f"<li>{'holds' if f.holds else '<span class=no>fails</span>'}: {escape(f.text)}</li>" for f in sky.findings
    )
    return f"<ul>{''.join(marks)}</ul>"


def _level(level: Level, published: Sequence[Published]) -> list[str]:
    known = {p.quantity: f"{p.value:.3g}" for p in published}
    extra = ("published*",) if published else ()

    def row(name: str, *cells: Any) -> tuple[Any, ...]:
        return (name, *cells, *((known.get(name, ""),) if published else ()))

    scores = _table(
        "All classes", ("score", "value [95 %]", *extra), (row(key, value) for key, value in level.scores.items())
    )
    by_class = zip(level.classes, level.counts.sum(axis=1), level.precision, level.f1, level.recall, strict=True)
    classes = _table(
        "By class", ("class", "objects", "precision", "F1", "recall", *extra), (row(*values) for values in by_class)
    )
    sources = "; ".join(sorted({p.source for p in published}))
    note = _note(f"* measured on other data, and not a target for these: {sources}. Macro scores.") if published else ""
    matrix = figures.as_html(figures.confusion(level), f"confusion matrix, {level.name}")
    caption = _note("Percent of the true class, with the distance to the bounds of the 95 % bootstrap interval.")
    return [f"<h2>Level: {escape(level.name)}</h2>", scores, classes, note, matrix, caption]


def _section(title: str, figure: Figure) -> list[str]:
    return [f"<h2>{escape(title)}</h2>", figures.as_html(figure, title)]


def _note(text: str) -> str:
    return f"<p class=note>{escape(text)}</p>" if text else ""


def _table(caption: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    top = f"<tr>{''.join(f'<th>{escape(h)}</th>' for h in header)}</tr>" if any(header) else ""
    body = "".join(f"<tr>{''.join(f'<td>{escape(_cell(c))}</td>' for c in row)}</tr>" for row in rows)
    return f"<table>{title}{top}{body}</table>"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if math.isfinite(value) else "–"
    if isinstance(value, Estimate) and not math.isfinite(value.value):
        return "–"
    return str(value)

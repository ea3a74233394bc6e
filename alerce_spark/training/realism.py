"""Comparison of the simulation with real data: survey, packets, features, and a classifier that separates the two.

Real data come from the project's data folder; of the published feature rows only the development half (even
positions) is used. Features of the supernova model differ by design: upstream's fit stops early
(docs/differences.md D14), so they are marked, and left out of figures of realism.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pyarrow import csv
from scipy import stats

from alerce_spark.alerts.avro import decode
from alerce_spark.features.extract import extract
from alerce_spark.features.names import FEATURES
from alerce_spark.pages import page
from alerce_spark.simulation import survey
from alerce_spark.simulation.curves import light_curves
from alerce_spark.simulation.night import simulate
from alerce_spark.simulation.packets import SURVEY
from alerce_spark.simulation.traits import Traits
from alerce_spark.training.figures import as_html

Float = NDArray[np.float64]
Samples = Mapping[str, Float]

#: Features whose published values come from another algorithm.
DIFFERENT_BY_DESIGN = tuple(name for name in FEATURES if name.startswith("SPM_"))
#: First and last night of the alerts behind the published features, and of the release's light curves.
FEATURE_NIGHTS, RELEASE_NIGHTS = (58194, 59030), (58197, 59029)
#: Simulated objects per real one of a class, and the least number per class.
_MADE_PER_REAL, _MADE_LEAST = 10, 40
_NULL = -999.0


def compare(real: Samples, simulated: Samples, group: str) -> pa.Table:
    """One row for each quantity that both `real` and `simulated` have, with some finite values in both.

    Columns: group, quantity, numbers of values and of nulls, quartiles of both, shift of the medians in units of the
    real spread (half the distance between the 16 and 84 % points; of both together where the real one is 0), and the
    two-sample Kolmogorov-Smirnov distance with its probability.
    """
    rows = []
    for quantity, values in real.items():
        if quantity not in simulated:
            continue
        a, b = (np.asarray(v, np.float64) for v in (values, simulated[quantity]))
        x, y = a[np.isfinite(a)], b[np.isfinite(b)]
        if not (x.size and y.size):
            continue
        spread = np.diff(np.quantile(x, [0.16, 0.84]))[0] / 2 or np.diff(np.quantile(np.r_[x, y], [0.16, 0.84]))[0] / 2
        ks = stats.ks_2samp(x, y)
        rows.append(
            {
                "group": group,
                "quantity": quantity,
                "n_real": x.size,
                "n_made": y.size,
                "null_real": 1.0 - x.size / a.size,
                "null_made": 1.0 - y.size / b.size,
                **{f"real_{q}": float(np.quantile(x, q / 100)) for q in (25, 50, 75)},
                **{f"made_{q}": float(np.quantile(y, q / 100)) for q in (25, 50, 75)},
                "shift": float((np.median(y) - np.median(x)) / spread) if spread else 0.0,
                "ks": float(ks.statistic),
                "p": float(ks.pvalue),
            }
        )
    return pa.Table.from_pylist(rows)


# ---- survey ----------------------------------------------------------------------------------------------------------


def release_samples(data_dir: Path) -> tuple[dict[str, Float], Float, Float]:
    """Cadence of the data release's light curves (all programmes), and the ra, dec [deg] of their fields."""
    rows = pl.read_parquet(data_dir / "calibration" / "ztf_dr_286_lightcurves.parquet")
    exposures = rows.group_by("field", "filtercode", pl.col("mjd").round(5)).agg(
        pl.col("ra", "dec", "limitmag", "airmass").median()
    )
    exposures = exposures.with_columns(
        fid=pl.col("filtercode").replace_strict({"zg": 1, "zr": 2, "zi": 3}, return_dtype=pl.Int64)
    )
    fields = rows.group_by("field").agg(pl.col("ra", "dec").median()).sort("field")
    return _cadence(exposures), fields["ra"].to_numpy(), fields["dec"].to_numpy()


def visit_samples(seed: int, ra: Float, dec: Float) -> dict[str, Float]:
    """Cadence of the simulated survey (its public part) in the fields at ra, dec [deg]."""
    fields = np.unique(survey.field_of(ra, dec)[0])
    visits = survey.Survey(seed).visits(fields, *RELEASE_NIGHTS)
    at = visits.field - 1
    hour_angle = _hour_angle(visits.mjd, survey.CENTRE_RA[at])
    exposures = pl.DataFrame(
        {
            "field": visits.field,
            "fid": visits.fid,
            "mjd": visits.mjd,
            "ra": survey.CENTRE_RA[at],
            "dec": survey.CENTRE_DEC[at],
            "limitmag": visits.limit,
            "airmass": survey.airmass(hour_angle, survey.CENTRE_DEC[at]),
        }
    )
    return _cadence(exposures)


def _hour_angle(mjd: Float, ra: Float) -> Float:
    night = np.floor(mjd)
    away = (mjd - night - survey.transit(ra, night)) * 360.98565
    return np.asarray((away + 180.0) % 360.0 - 180.0)


def _cadence(exposures: pl.DataFrame) -> dict[str, Float]:
    ordered = exposures.sort("field", "fid", "mjd")
    mjd, ra = ordered["mjd"].to_numpy(), ordered["ra"].to_numpy()
    step = np.diff(mjd)
    same = np.diff(ordered["field"].to_numpy() * 8 + ordered["fid"].to_numpy()) == 0
    nights = step[same & (step > 0.5)]
    depth = ordered.with_columns(typical=pl.col("limitmag").median().over("field", "fid"))
    counts = ordered.group_by("field", "fid").len()
    found = {
        "hour of the night (UT)": 24.0 * (mjd % 1.0),
        "hour angle (h)": _hour_angle(mjd, ra) / 15.0,
        "elongation in right ascension (deg)": (ra - (mjd - survey.SUN_AT_EQUINOX) * 360.0 / survey.YEAR) % 360.0,
        "airmass": ordered["airmass"].to_numpy(),
        "nights between visits in a band, within a season": nights[nights < 60.0],
        "seasonal gap (d)": nights[nights >= 60.0],
        "limit about its field's median (mag)": (depth["limitmag"] - depth["typical"]).to_numpy(),
    }
    for fid, name in ((1, "g"), (2, "r")):
        found[f"visits of a field in {name}"] = counts.filter(pl.col("fid") == fid)["len"].to_numpy()
    return {name: np.asarray(values, np.float64) for name, values in found.items()}


# ---- packets ---------------------------------------------------------------------------------------------------------


def real_packets(data_dir: Path) -> list[bytes]:
    """The real alerts of the data folder."""
    packets = [path.read_bytes() for path in sorted((data_dir / "ztf").rglob("*.avro"))]
    return [packet for packet in packets if packet.startswith(b"Obj")]


def made_packets(seed: int) -> list[bytes]:
    """Simulated alerts of several nights in all seasons and phases of the moon."""
    packets: list[bytes] = []
    for k in range(8):
        start = 58700.0 + 97 * k
        packets += simulate(seed + k, objects=60, start_mjd=start, stamps=False, traits=Traits.like_ztf()).packets
    return packets


def packet_samples(packets: Sequence[bytes]) -> dict[str, Float]:
    """Quantities of alerts: magnitudes, errors, limits, scores, positions, lengths of histories."""
    decoded = decode(packets, SURVEY)
    alerts = _floats(decoded.alerts, ("magpsf", "sigmapsf", "diffmaglim", "rb", "drb", "sgscore1", "distpsnr1", "fid"))
    previous = _floats(decoded.previous, ("magpsf", "diffmaglim", "fid"))
    is_limit = np.isnan(previous["magpsf"]) & (previous["diffmaglim"] > 0)
    above = alerts["diffmaglim"] - alerts["magpsf"]
    snr = 2.5 / np.log(10.0) / alerts["sigmapsf"]
    carrier = decoded.previous["alert"].to_numpy()
    found = {
        "magpsf": alerts["magpsf"],
        "magpsf above the limit": above,
        "upper limit in g": previous["diffmaglim"][is_limit & (previous["fid"] == 1)],
        "upper limit in r": previous["diffmaglim"][is_limit & (previous["fid"] == 2)],
        "entries of a history": np.bincount(carrier, minlength=len(decoded.alerts)).astype(np.float64),
        "upper limits of a history": np.bincount(carrier[is_limit], minlength=len(decoded.alerts)).astype(np.float64),
        "PS1 score within 1.4 arcsec": alerts["sgscore1"][(alerts["distpsnr1"] >= 0) & (alerts["distpsnr1"] < 1.4)],
    }
    for low, high in ((-1.0, 0.5), (0.5, 1.5), (1.5, 2.5), (2.5, 3.5), (3.5, 6.0)):
        inside = (above >= low) & (above < high)
        found[f"sigmapsf {low:g} to {high:g} mag above the limit"] = alerts["sigmapsf"][inside]
    for low, high in ((3.0, 7.0), (7.0, 12.0), (12.0, 25.0), (25.0, 1e3)):
        found[f"rb at S/N {low:g} to {high:g}"] = alerts["rb"][(snr >= low) & (snr < high)]
    found["drb"] = alerts["drb"]
    return found


def _floats(table: pa.Table, names: Iterable[str]) -> dict[str, Float]:
    return {name: table[name].cast(pa.float64()).to_numpy() for name in names}


# ---- features --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FeatureRows:
    """Features (n, 152) in the order of FEATURES, NaN where null, and the class of each row."""

    matrix: Float
    label: NDArray[np.str_]


def development_rows(data_dir: Path) -> FeatureRows:
    """The development half of the published feature rows: even positions. The other half is a test set."""
    folder = data_dir / "lightcurves"
    table = csv.read_csv(folder / "100_objects_features.csv")
    table = table.take(np.arange(0, table.num_rows, 2))
    labels = csv.read_csv(folder / "100_objects_labels.csv")
    label_of = dict(zip(labels["objectId"].to_pylist(), labels["classALeRCE"].to_pylist(), strict=True))
    matrix = np.column_stack([table[name].cast(pa.float64()).to_numpy() for name in FEATURES])
    label = np.array([label_of[oid] for oid in table["objectId"].to_pylist()])
    return FeatureRows(np.where(np.isfinite(matrix) & (matrix != _NULL), matrix, np.nan), label)


def made_rows(seed: int, label: NDArray[np.str_]) -> FeatureRows:
    """Features of simulated objects of the classes of `label` in its proportions, over the nights of the real ones."""
    classes, counts = np.unique(label, return_counts=True)
    counts_by_class = {str(c): max(_MADE_LEAST, _MADE_PER_REAL * int(n)) for c, n in zip(classes, counts, strict=True)}
    first, last = FEATURE_NIGHTS
    days = last - first
    curves = light_curves(seed, counts_by_class, start_mjd=first, survey_days=days, span_days=(days, days))
    return FeatureRows(extract(curves.objects()), curves.label)


def compare_features(real: FeatureRows, simulated: FeatureRows) -> pa.Table:
    """`compare` of every feature in every class, and in all classes together; `by_design` marks SPM features."""
    tables = [compare(_columns(real.matrix), _columns(simulated.matrix), "all")]
    for name in np.unique(real.label):
        tables.append(
            compare(
                _columns(real.matrix[real.label == name]),
                _columns(simulated.matrix[simulated.label == name]),
                str(name),
            )
        )
    table = pa.concat_tables([t for t in tables if t.num_rows])
    by_design = np.isin(table["quantity"].to_pylist(), [*DIFFERENT_BY_DESIGN])
    return table.append_column("by_design", pa.array(by_design))


def _columns(matrix: Float, told: Discrimination | None = None) -> dict[str, Float]:
    """Columns of a feature matrix by name; with `told`, only the 24 that separate best."""
    names = FEATURES if told is None else [name for name, _ in told.importance[:24]]
    return {name: matrix[:, FEATURES.index(name)] for name in names}


@dataclass(frozen=True)
class Discrimination:
    """How well a classifier separates real feature rows from simulated ones: 0.5 is chance, 1 is perfect.

    `auc` is that of out-of-fold scores with the spread over repetitions; `importance` (feature, weight) best first.
    """

    auc: float
    auc_spread: float
    importance: tuple[tuple[str, float], ...]


def discriminate(real: FeatureRows, simulated: FeatureRows, seed: int, *, repeats: int = 3) -> Discrimination:
    """Train a forest to separate `real` from `simulated`, five-fold, on all features except SPM.

    Simulated rows are weighted to the class mixture of the real ones, so that the mixture gives no hint.
    """
    from sklearn.ensemble import RandomForestClassifier  # noqa: PLC0415  only training needs it
    from sklearn.metrics import roc_auc_score  # noqa: PLC0415
    from sklearn.model_selection import StratifiedKFold  # noqa: PLC0415

    used = [k for k, name in enumerate(FEATURES) if name not in DIFFERENT_BY_DESIGN]
    matrix = np.nan_to_num(np.vstack([real.matrix, simulated.matrix])[:, used], nan=_NULL)
    is_real = np.arange(len(matrix)) < len(real.label)
    label = np.concatenate([real.label, simulated.label])
    weight = np.ones(len(matrix))
    for name in np.unique(label):
        members = ~is_real & (label == name)
        weight[members] = np.sum(is_real & (label == name)) / np.sum(members)
    score = np.zeros(len(matrix))
    aucs, importance = [], np.zeros(len(used))
    for repeat in range(repeats):
        folds = StratifiedKFold(5, shuffle=True, random_state=seed + repeat)
        for train, test in folds.split(matrix, is_real):
            forest = RandomForestClassifier(300, min_samples_leaf=2, random_state=seed + repeat)
            forest.fit(matrix[train], is_real[train], weight[train])
            score[test] = forest.predict_proba(matrix[test])[:, 1]
            importance += forest.feature_importances_
        aucs.append(roc_auc_score(is_real, score, sample_weight=weight))
    importance /= importance.sum()
    order = np.argsort(-importance)
    ranked = tuple((FEATURES[used[k]], float(importance[k])) for k in order)
    return Discrimination(float(np.mean(aucs)), float(np.std(aucs)), ranked)


# ---- page ------------------------------------------------------------------------------------------------------------


def distributions(real: Samples, simulated: Samples, title: str) -> Figure:
    """Cumulative distributions of each common quantity, real in black and simulated in red."""
    names = [
        name
        for name in real
        if name in simulated and np.isfinite(real[name]).any() and np.isfinite(simulated[name]).any()
    ]
    across = 4
    down = max(1, -(-len(names) // across))
    page = Figure(figsize=(3.2 * across, 2.4 * down), layout="constrained")
    page.suptitle(title)
    panels = page.subplots(down, across, squeeze=False).ravel()
    for panel, name in zip(panels, names, strict=False):
        for values, colour, what in ((real[name], "black", "real"), (simulated[name], "#d73027", "simulated")):
            finite = np.sort(values[np.isfinite(values)])
            panel.plot(finite, (np.arange(finite.size) + 0.5) / finite.size, color=colour, label=what)
        panel.set_title(name, fontsize=8)
        panel.tick_params(labelsize=7)
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    if names:
        panels[0].legend(fontsize=7)
    return page


def realism_page(out: Path, data_dir: Path, seed: int) -> Path:
    """Write `out`, an HTML file with tables and figures of every comparison; takes about a minute."""
    release, ra, dec = release_samples(data_dir)
    visits = visit_samples(seed, ra, dec)
    packets, simulated = packet_samples(real_packets(data_dir)), packet_samples(made_packets(seed))
    real = development_rows(data_dir)
    made = made_rows(seed, real.label)
    features = compare_features(real, made)
    separation = discriminate(real, made, seed)
    worst = pl.DataFrame(pl.from_arrow(features)).filter(~pl.col("by_design")).sort("p").head(60)
    parts = [
        "<h2>Survey: exposures of the data release (all programmes) and ours (public part)</h2>",
        _table(compare(release, visits, "survey")),
        _drawn(release, visits, "Survey"),
        "<h2>Packets</h2>",
        _table(compare(packets, simulated, "packets")),
        _drawn(packets, simulated, "Packets"),
        f"<h2>Features</h2><p>{len(real.label)} real rows. A forest tells them from ours with an AUC of "
        f"{separation.auc:.3f} ± {separation.auc_spread:.3f}, the SPM features (another algorithm) left out. "
        "It looks at:</p>",
        _table(pa.Table.from_pylist([{"feature": f, "importance": w} for f, w in separation.importance[:25]])),
        _drawn(_columns(real.matrix, separation), _columns(made.matrix, separation), "Features that tell most"),
        "<h3>Least likely pairs of distributions, by class</h3>",
        _table(worst.to_arrow()),
    ]
    about = f"<p>Seed {seed}. Shifts of medians are in units of the real spread.</p>"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page("Simulation and reality", about + "\n".join(parts)))
    return out


def _drawn(real: Samples, simulated: Samples, title: str) -> str:
    return f"<p>{as_html(distributions(real, simulated, title), title, dpi=80)}</p>"


def _table(table: pa.Table) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.column_names)
    body = "".join(
        "<tr>" + "".join(f"<td>{_cell(v)}</td>" for v in row.values()) + "</tr>" for row in table.to_pylist()
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else escape(str(value))

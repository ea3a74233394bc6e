"""Parts of dashboards: panels of one query or more, each with its legend."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries, trend
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

#: Whoever opens a dashboard chooses the Prometheus that it asks.
_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_HEIGHT, _WIDTH = 8, 24

#: PromQL and the legend of its lines.
Query = tuple[str, str]
Panel = timeseries.Panel | trend.Panel | stat.Panel
P = TypeVar("P", timeseries.Panel, trend.Panel, stat.Panel)


def lines(title: str, unit: str, *queries: Query, about: str = "") -> timeseries.Panel:
    """Lines over time."""
    targets = [_query(expression, legend, k) for k, (expression, legend) in enumerate(queries)]
    return _panel(timeseries.Panel(), title, unit, about).targets(targets).legend(_legend()).min(0)


def number(title: str, unit: str, expression: str, about: str = "") -> stat.Panel:
    """The newest value."""
    newest = common.ReduceDataOptions().calcs(["lastNotNull"])
    return _panel(stat.Panel(), title, unit, about).targets([_query(expression, "", 0)]).reduce_options(newest)


def distribution(title: str, histogram: str, by: str, about: str = "") -> trend.Panel:
    """Cumulative distributions of a histogram over the time that is shown, a line for each value of a label."""
    reached = f'sum by ({by}, le) (increase({histogram}_bucket{{le!="+Inf"}}[$__range]))'
    everything = f"sum by ({by}) (increase({histogram}_count[$__range]))"
    query = _query(f"{reached} / ignoring (le) group_left () {everything}", "", 0).instant()
    column = f"le\\{by}"  # what Grafana calls the first column of such a matrix
    changes: list[tuple[str, dict[str, Any]]] = [
        ("groupingToMatrix", {"rowField": "le", "columnField": by, "valueField": "Value"}),
        ("convertFieldType", {"conversions": [{"targetField": column, "destinationType": "number"}], "fields": {}}),
        ("sortBy", {"sort": [{"field": column}]}),
    ]
    steps = [DataTransformerConfig(id_val=name, options=options) for name, options in changes]
    panel = _panel(trend.Panel(), title, "percentunit", about).targets([query.format(PromQueryFormat.TABLE)])
    panel = panel.transformations(steps).x_field(column).legend(_legend())
    # Limits of the axis of shares alone: x has the same options but for what is set by its name.
    panel = panel.axis_soft_min(0).axis_soft_max(1)
    return panel.override_by_name(column, [DynamicConfigValue("unit", "s")])


def board(title: str, uid: str, rows: Mapping[str, Sequence[Panel]]) -> str:
    """A dashboard as JSON; the panels of a row share its width."""
    made = (
        dashboard.Dashboard(title)
        .uid(uid)
        .tags(["alerce_spark"])
        .refresh("30s")
        .time("now-6h", "now")
        .timezone("utc")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").type("prometheus").label("Prometheus"))
    )
    for name, panels in rows.items():
        made = made.with_row(dashboard.Row(name))
        for panel in panels:
            made = made.with_panel(panel.span(_WIDTH // len(panels)).height(_HEIGHT))
    return json.dumps(made.build(), cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def _query(expression: str, legend: str, number: int) -> prometheus.Dataquery:
    made = prometheus.Dataquery().expr(expression).ref_id("ABCDEFGH"[number])
    return made.legend_format(legend) if legend else made


def _panel(panel: P, title: str, unit: str, about: str) -> P:
    made = panel.title(title).unit(unit).datasource(_SOURCE)
    return made.description(about) if about else made


def _legend() -> common.VizLegendOptions:
    options = common.VizLegendOptions().show_legend(True)
    return options.display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)

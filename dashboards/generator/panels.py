"""Panels with what every panel must have: title, description, unit, a data source that is a variable."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

from grafana_foundation_sdk.builders import bargauge, common, dashboard, logs, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders import loki as loki_builder
from grafana_foundation_sdk.builders import prometheus as prometheus_builder
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model

from generator import links
from generator.queries import PROMETHEUS, Query

Panel = Builder[model.Panel]
# One colour for each severity, as a log record spells it, and for each observer: the same on every dashboard.
COLOURS = {
    "{{severity_text}}": {"FATAL": "dark-red", "ERROR": "red", "WARN": "orange", "INFO": "blue", "DEBUG": "text"},
    "{{observer}}": {"network": "blue", "container": "purple", "storage": "orange", "node": "green"},
}
GREEN, ORANGE, RED, BLUE, GREY = "green", "orange", "red", "blue", "text"


def source(kind: str) -> model.DataSourceRef:
    """The data source that the dashboard's variable names."""
    return model.DataSourceRef(type_val=kind, uid=f"${{{kind}}}")


def _target(query: Query, letter: str) -> Any:
    if query.source == PROMETHEUS:
        metrics = prometheus_builder.Dataquery().expr(query.expression).legend_format(query.legend)
        metrics = metrics.instant() if query.instant else metrics.range()
        return metrics.ref_id(letter).datasource(source(query.source))
    records = loki_builder.Dataquery().expr(query.expression).legend_format(query.legend)
    records = records.query_type("instant" if query.instant else "range")
    return records.ref_id(letter).datasource(source(query.source))


def _fill(panel: Any, title: str, description: str, queries: Sequence[Query], width: int, height: int) -> Any:
    panel.title(title).description(description).span(width).height(height)
    panel.datasource(source(queries[0].source))
    for letter, query in zip(string.ascii_uppercase, queries, strict=False):
        panel.with_target(_target(query, letter))
    return panel


def _steps(*steps: tuple[float | None, str]) -> dashboard.ThresholdsConfig:
    thresholds = [model.Threshold(value=value, color=colour) for value, colour in steps]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(thresholds)


def number(
    title: str,
    description: str,
    unit: str,
    query: Query,
    *,
    bad_from: float | None = 1,
    warn_from: float | None = None,
    bad_below: float | None = None,
    width: int = 4,
) -> Panel:
    """One number: green, orange from `warn_from`, red from `bad_from` or below `bad_below`; without any of them blue.

    Blue is for what every cluster has, such as exits with a code: coloured as faults, they would hide faults.
    """
    panel = _fill(stat.Panel(), title, description, [query], width, 4).unit(unit).decimals(0)
    plain = bad_from is None and warn_from is None and bad_below is None
    steps: list[tuple[float | None, str]] = [(None, BLUE if plain else GREEN if bad_below is None else RED)]
    steps += [
        (value, colour)
        for value, colour in ((bad_below, GREEN), (warn_from, ORANGE), (bad_from, RED))
        if value is not None and not (bad_below is not None and colour == RED)
    ]
    panel.thresholds(_steps(*steps)).color_mode(common_model.BigValueColorMode.BACKGROUND)
    panel.graph_mode(common_model.BigValueGraphMode.NONE)
    return panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))  # type: ignore[no-any-return]


def lines(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    stacked: bool = False,
    bars: bool = False,
    width: int = 12,
    height: int = 8,
    top: float | None = None,
) -> Panel:
    """Lines or bars over time."""
    panel = _fill(timeseries.Panel(), title, description, queries, width, height).unit(unit).min(0)
    if top is not None:
        panel.max(top)
    panel.line_width(1).fill_opacity(80 if bars else 20 if stacked else 5)
    panel.show_points(common_model.VisibilityMode.AUTO)
    if bars:
        panel.draw_style(common_model.GraphDrawStyle.BARS)
    if stacked:
        panel.stacking(common.StackingConfig().mode(common_model.StackingMode.NORMAL))
    panel.tooltip(common.VizTooltipOptions().mode(common_model.TooltipDisplayMode.MULTI))
    legend = common.VizLegendOptions().display_mode(common_model.LegendDisplayMode.LIST)
    panel.legend(legend.placement(common_model.LegendPlacement.BOTTOM).show_legend(True).calcs([]))
    for name, colour in COLOURS.get(queries[0].legend, {}).items():
        panel.override_by_name(name, [model.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": colour})])
    return panel  # type: ignore[no-any-return]


def ranking(
    title: str,
    description: str,
    unit: str,
    query: Query,
    *,
    link: dashboard.DashboardLink | None = None,
    width: int = 8,
    height: int = 8,
) -> Panel:
    """A bar for each of the worst, the worst first."""
    panel = _fill(bargauge.Panel(), title, description, [query], width, height).unit(unit).min(0).decimals(0)
    panel.orientation(common_model.VizOrientation.HORIZONTAL).display_mode(common_model.BarGaugeDisplayMode.BASIC)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"])).thresholds(_steps((None, ORANGE)))
    return panel.data_links([link]) if link else panel  # type: ignore[no-any-return]


def states(
    title: str, description: str, *queries: Query, good: str, bad: str, width: int = 12, height: int = 6
) -> Panel:
    """Bands over time, green where the value is 1, red where it is 0, grey where it is 2."""
    panel = _fill(statetimeline.Panel(), title, description, queries, width, height).unit("bool")
    panel.mappings(
        [
            model.ValueMap(
                options={
                    "1": model.ValueMappingResult(text=good, color=GREEN, index=0),
                    "0": model.ValueMappingResult(text=bad, color=RED, index=1),
                    "2": model.ValueMappingResult(text="not available", color=GREY, index=2),
                }
            )
        ]
    )
    return panel.show_value(common_model.VisibilityMode.NEVER)  # type: ignore[no-any-return]


def records(title: str, description: str, query: Query, *, height: int = 9) -> Panel:
    """Log lines as they come, the newest first."""
    panel = _fill(logs.Panel(), title, description, [query], 24, height)
    panel.show_time(True).enable_log_details(True).wrap_log_message(True)
    panel.dedup_strategy(common_model.LogsDedupStrategy.NONE)
    return panel.sort_order(common_model.LogsSortOrder.DESCENDING)  # type: ignore[no-any-return]


def rows(
    title: str,
    description: str,
    query: Query,
    columns: dict[str, str],
    *,
    units: dict[str, str] | None = None,
    width: int = 24,
    height: int = 9,
) -> Panel:
    """Log records as a table. `columns`: the label, field or `Time`, to its heading, from left to right.

    A pod's name leads to its own logs, a node's name to its dashboard.
    """
    panel = _fill(table.Panel(), title, description, [query], width, height).unit("none").filterable(True)
    transformations: list[tuple[str, dict[str, object]]] = [
        ("extractFields", {"source": "labels", "format": "auto", "keepTime": True, "replace": False}),
        ("filterFieldsByName", {"include": {"names": list(columns)}}),
        ("organize", {"renameByName": columns, "indexByName": {name: at for at, name in enumerate(columns)}}),
    ]
    for name, options in transformations:
        panel.with_transformation(model.DataTransformerConfig(id_val=name, options=options))
    for name, unit in (units or {}).items():
        # What came out of a record is text.
        panel.override_by_name(columns[name], [model.DynamicConfigValue("unit", unit)])
    for name, ways in links.OF_COLUMNS.items():
        if name in columns:
            panel.override_by_name(columns[name], [model.DynamicConfigValue("links", ways)])
    return panel  # type: ignore[no-any-return]

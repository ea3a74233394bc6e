"""Other people's ids and names where people read them: terminal, figures, file names."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from feature_curves import noise, objects
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from alerce_spark.cli import common, outliers, texts
from alerce_spark.features import plot
from alerce_spark.lightcurves import plot as light_curves
from alerce_spark.text import file_name, printable

ODD = [
    "[/bold]",
    "[red]",
    ":star:",
    "$x^2$",
    r"$\frac$",
    "a$b",
    "../../etc/x",
    "/etc/x",
    "=1+1",
    "<b>",
    "é✨",
    "x" * 64,
]


@given(st.text(max_size=300))
def test_what_is_shown_is_one_short_line(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown) <= 100
    if text.isprintable() and len(text) <= 100:
        assert shown == text


@given(st.text(min_size=1, max_size=200))
def test_a_file_name_stays_in_its_folder(text: str) -> None:
    name = file_name(text)
    assert Path("folder", name).parts == ("folder", name)
    assert not name.startswith(".")
    assert name.isascii()
    assert len(f"{name}.png") <= 255


def test_usual_names_stay_as_they_are() -> None:
    for name in ("ZTF18abcdefg", "1157521010115010034", "SN 2018e10", "a_b-c.d+e"):
        assert file_name(name) == name


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Output of the commands, on a wide terminal."""
    seen = io.StringIO()
    options = {"file": seen, "width": 400, "force_terminal": False}
    console = Console(**options, markup=common.console._markup, emoji=common.console._emoji)  # type: ignore[arg-type]
    for module in (common, outliers, texts):
        monkeypatch.setattr(module, "console", console)
    return seen


def test_ids_on_the_terminal_are_no_markup(terminal: io.StringIO) -> None:
    outliers._show(pl.DataFrame({"oid": ODD, "class": ["[bold]"] * len(ODD)}), None)
    said = terminal.getvalue()
    assert all(oid in said for oid in ODD)
    assert said.count("[bold]") == len(ODD)
    table = Table("[blink]")
    table.add_row(texts.plain("\x1b[2J\nb\x07"))
    common.console.print(table)
    assert "\x1b" not in terminal.getvalue()
    assert r"\x1b[2J" in terminal.getvalue()
    assert "[blink]" in terminal.getvalue()


def test_what_gave_no_packet_is_said_and_counted(terminal: io.StringIO) -> None:
    from alerce_spark.alerts.files import OTHER

    unread = [(f"{k}[/bold].avro", "gzip is cut off") for k in range(25)] + [("readme", OTHER)] * 3
    assert texts.say_unread(unread) == 25
    said = terminal.getvalue()
    assert "not read 0[/bold].avro: gzip is cut off" in said
    assert "… and 5 more" in said
    assert "3 other files" in said


@pytest.mark.parametrize("oid", ["$x^2$", r"$\frac$", "a$b$", "[/bold]", "x" * 64])
def test_ids_in_figures_are_no_mathematics(oid: str) -> None:
    curve = noise(np.random.default_rng(3), 8)
    one = objects([curve])
    one.oid[0] = oid
    drawn = plot.figure(one, 0)
    rows = {"oid": [oid], "mjd": [59000.0], "fid": [1], "corrected": [False], "magpsf": [18.0], "sigmapsf": [0.1]}
    limits = pl.DataFrame(schema={"oid": pl.String, "mjd": pl.Float64, "fid": pl.Int64, "diffmaglim": pl.Float64})
    panels = light_curves.figure(pl.DataFrame(rows), limits, [oid])
    for figure in (drawn, panels):
        figure.savefig(io.BytesIO(), format="png", dpi=30)
    assert oid[:25] in drawn.get_suptitle()
    assert oid[:25] in panels.axes[0].get_title(loc="left")

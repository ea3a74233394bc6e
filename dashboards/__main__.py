"""Writes the dashboards to conf/grafana."""

from __future__ import annotations

from dashboards.boards import FOLDER, boards

for name, text in boards().items():
    (FOLDER / name).write_text(text)

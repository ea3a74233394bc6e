"""Dashboards of Grafana as code; `python -m dashboards` writes conf/grafana."""

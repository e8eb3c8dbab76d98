"""Makes the JSON files of dashboards/grafana. `make dashboards` runs it; nothing of it is needed at run time."""

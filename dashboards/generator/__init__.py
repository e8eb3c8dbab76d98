"""Makes the JSON files of dashboards/. `make dashboards` runs it; nothing of it is needed at run time."""

"""Parts that several tests use: a running agent, scratch cgroups, faults."""

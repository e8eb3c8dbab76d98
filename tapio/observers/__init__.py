"""From the records of one batch to anomalies: one module for each observer."""

from __future__ import annotations

from tapio.observers.base import Observer
from tapio.observers.container import ContainerObserver
from tapio.observers.node import NodeObserver

OBSERVERS: dict[str, type[Observer]] = {"container": ContainerObserver, "node": NodeObserver}

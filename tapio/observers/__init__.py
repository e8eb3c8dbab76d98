"""From the records of one batch to anomalies: one module for each observer."""

from __future__ import annotations

from tapio.observers.base import Observer
from tapio.observers.container import ContainerObserver
from tapio.observers.network import NetworkObserver
from tapio.observers.node import NodeObserver
from tapio.observers.storage import StorageObserver

OBSERVERS: dict[str, type[Observer]] = {
    "network": NetworkObserver,
    "container": ContainerObserver,
    "storage": StorageObserver,
    "node": NodeObserver,
}

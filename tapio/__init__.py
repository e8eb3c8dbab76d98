"""Tapio: an eBPF kernel observer for Kubernetes nodes."""

__version__ = "0.1.0"

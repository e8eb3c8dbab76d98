"""From a cgroup id to the pod, container and deployment that it belongs to. Nothing is guessed."""

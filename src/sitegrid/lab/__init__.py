"""A real multi-site Kubernetes on one Linux machine, each node a network namespace."""

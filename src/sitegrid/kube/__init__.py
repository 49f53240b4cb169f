"""A small, fast Kubernetes client: configuration, requests, reflector, store, work queue, leader election."""

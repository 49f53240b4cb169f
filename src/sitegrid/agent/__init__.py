"""The node agent: the API server of kube-proxy, CoreDNS and other endpoint consumers on one node."""

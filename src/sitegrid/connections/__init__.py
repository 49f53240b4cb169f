"""Ends connections that outlive a change of the node's units: a part of its own, since it needs CAP_NET_ADMIN."""

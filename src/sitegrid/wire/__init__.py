"""What travels between API server, agent and clients, without I/O: framing, protobuf spans, selectors, labels."""

"""What reading the wire costs: the protobuf span scanner against `json.loads` of the same objects."""

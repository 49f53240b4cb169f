"""The central controller: joins kube (I/O) to grid (planning).

`cluster` is what is observed, `triggers` turns its changes into keys of `queues`, `workloads`, `services` and
`slices` each work on one kind of key; for NodeUnits and NodeGroups `unittriggers`, `memberships` and `nodeunits` do
the same. `writer` carries out what they decide, `retries` spaces out what failed, `manager` runs it all while
leading, and `process` is the command: leader election, health and metrics around it.
"""

"""The tkeedge.io/v1 types, and the CustomResourceDefinitions made from them.

`meta` has what every object has, `grids` what all grids have and the ServiceGrid, `workloads` the workload grids,
`matchers` how they choose units, `status` what the controller reports, `schema` turns the types into CRDs.
`sitegrid.grid` plans on these types; nothing here does I/O.
"""

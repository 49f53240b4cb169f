"""Planning: from observed objects to wanted objects and a status, without I/O and without a clock of its own.

`units` finds the units of a key, `names` names children, `workload` and `service` make the wanted children, `slices`
the unit slices, `applied` tells whether a child still is what we applied, `removal` what becomes of a gone unit's
child, `plan` joins these into actions, and `status` into what users read. `sitegrid.controller` feeds it and carries
it out.
"""

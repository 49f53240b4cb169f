"""Measures speed and memory: ``python -m benchmarks`` runs all, ``python -m benchmarks.NAME`` one; see README.md.

Every figure is a ratio between two things measured in the same run on the same machine, or a limit of the product's
own; absolute values are for orientation only.
"""

"""Benchmarks: the solvers beside other libraries, and the papers' experiments.

Every benchmark is a list of runs in a fixed order. A finished run is one line of a file
in ``benchmarks/results``, from which the pages of ``docs/benchmarks`` are written.
"""

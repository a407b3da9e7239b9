"""Tools for ``<package>/paper/`` and benchmarks: README tables from result files, speed measurements, diagrams. User commands do not import it."""

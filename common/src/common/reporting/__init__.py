"""What ``<package>/paper/`` and benchmarks share: README tables from result files, benchmarks, drawings. No command of a user imports it."""

"""The tables of common's README; not part of the wheel."""

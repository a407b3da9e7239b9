"""The README's tables, and the published ones; not part of the wheel."""

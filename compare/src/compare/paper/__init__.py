"""The README's tables and pictures; not part of the wheel."""

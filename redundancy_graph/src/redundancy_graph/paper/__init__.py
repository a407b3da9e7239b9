"""Generated tables of the README and published results; not part of the wheel."""

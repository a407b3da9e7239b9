"""Tables and figures of the README; not part of the wheel."""

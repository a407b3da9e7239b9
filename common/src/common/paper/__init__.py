"""Tables of common's README. Not part of the wheel."""

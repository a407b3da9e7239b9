"""Descriptions of the files that this project writes, and of run folders, for ``python -m common.show``. No module imports torch at once."""

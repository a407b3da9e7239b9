"""Interruptions are tested in processes that inherit this one's handling of Ctrl-C, which a shell ignores for commands behind ``&``."""

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)

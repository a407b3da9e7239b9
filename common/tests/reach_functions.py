"""Functions that end in every way, for the tests of common.paper.limited_process; they do not import torch."""

import os
import time

from common.errors import UserError
from common.paper.limited_process import limit_cpu_time


def finishes(number, report):
    report(first=number)
    report(second=number + 1)


def takes_too_long(seconds, report):
    report(first=1)
    with limit_cpu_time(seconds):
        end = time.process_time() + 60
        while time.process_time() < end:
            pass
    report(second=2)


def allocates(gib, report):
    report(size=len(bytearray(int(gib * 2**30))))


def raises(kind, report):
    raise {"user": UserError("a.b: cannot be pruned"), "other": ValueError("first line\nsecond line")}[kind]


def exits(status, report):
    os._exit(status)

"""An interrupt stays an interrupt, whatever a library leaves behind."""

import os
import platform
import signal
import subprocess
import sys

import pytest

from vgse.pipeline import session


def interrupted_in_a_library():
    """A library that leaves its own handler behind and ends the process as if all were well."""

    def handler(number, frame):
        raise SystemExit(0)

    signal.signal(signal.SIGINT, handler)
    os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_stays_an_interrupt():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), session.own_interrupts():
        interrupted_in_a_library()
    assert signal.getsignal(signal.SIGINT) is before


_FREED_AND_TAKEN_AGAIN = """
import resource, sys
import numpy as np
from vgse.pipeline.session import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
for round in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    pieces = [np.ones(int(sys.argv[2]) // 8) for _ in range(4)]
    del pieces
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
@pytest.mark.parametrize("size", [2**24, 2**27], ids=["16 MiB", "128 MiB"])
def test_freed_memory_is_kept_for_the_next_batch(size):
    def faults(how: str) -> int:
        command = [sys.executable, "-c", _FREED_AND_TAKEN_AGAIN, how, str(size)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert faults("kept") < 100 < faults("given back")

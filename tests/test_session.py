"""An interrupt stays an interrupt, whatever a library leaves behind."""

import os
import signal

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

"""What the stages ask a cluster for, without starting one."""

import os
import signal

import pytest

from vgse.config import ResourcesConfig
from vgse.pipeline import session


@pytest.fixture
def cluster(monkeypatch):
    def of(**resources):
        monkeypatch.setattr(session.ray, "cluster_resources", lambda: resources)

    return of


@pytest.mark.parametrize(
    ("resources", "wish", "reading", "shape"),
    [
        ({"CPU": 2.0}, {}, False, (1, 2.0, 0)),
        ({"CPU": 2.0}, {}, True, (1, 1.0, 0)),
        ({"CPU": 2.0}, {"workers": 2}, True, (2, 0.5, 0)),
        ({"CPU": 1.0}, {}, True, (1, 0.5, 0)),
        ({"CPU": 64.0, "GPU": 4.0}, {}, True, (4, 4.0, 1)),
        ({"CPU": 64.0, "GPU": 4.0}, {}, False, (4, 16.0, 1)),
        ({"CPU": 64.0, "GPU": 4.0}, {"use_gpu": False}, False, (1, 16.0, 0)),
        ({"CPU": 64.0, "GPU": 4.0}, {"workers": 2, "cpus_per_worker": 3}, False, (2, 3.0, 1)),
    ],
)
def test_workers_never_take_every_cpu_from_the_readers(cluster, resources, wish, reading, shape):
    cluster(**resources)
    assert session.worker_shape(ResourcesConfig(**wish), reading=reading) == shape


@pytest.mark.parametrize(
    ("total", "workers", "each", "share"),
    [(2, 1, 1.0, 1.0), (2, 2, 0.5, 0.5), (64, 4, 4.0, 12.0), (2, 4, 0.25, 0.25), (2, 1, 2.0, 0.0)],
)
def test_what_the_workers_leave_is_shared_by_their_cutting_tasks(cluster, total, workers, each, share):
    cluster(CPU=float(total))
    assert session.cutting_cpus(workers, each) == share


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

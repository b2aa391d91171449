"""The model of the stages against cases that can be worked out by hand."""

import pytest

from benchmarks.scaling_model import Cluster, Training, Work, seconds, training_seconds


def test_one_slot_does_one_task_after_the_other():
    work = Work(100, 10, row_cpu_s=0.1, task_cpu_s=0.5, slot_cpu_s=2, before_s=3, task_requests=0)
    assert seconds(work, Cluster(1, 1)) == pytest.approx(3 + 2 + 10 * (1.0 + 0.5))


def test_tasks_fill_slots_in_rounds_and_no_more_slots_than_tasks_help():
    work = Work(100, 10, row_cpu_s=0.1, task_requests=0)
    assert [seconds(work, Cluster(nodes, 2)) for nodes in (1, 2, 4, 8, 64)] == pytest.approx([5, 3, 2, 1, 1])


def test_nodes_on_one_machine_share_its_cores():
    work = Work(80, 8, row_cpu_s=0.1, task_requests=0)
    alone = [seconds(work, Cluster(nodes, 1, cores=2)) for nodes in (1, 2, 4)]
    assert alone == pytest.approx([8, 4, 4])


def test_the_slowest_of_work_bytes_and_requests_decides():
    cluster = Cluster(1, 1, node_bytes_s=100, store_bytes_s=1000, store_requests_s=50, latency_s=0.1)
    assert seconds(Work(10, 1, 0.1, row_bytes=50, task_requests=0), cluster) == pytest.approx(5)
    assert seconds(Work(10, 1, 0.1, row_requests=20, at_once=4, task_requests=0), cluster) == pytest.approx(5)
    assert seconds(Work(10, 1, 0.1, row_requests=20, at_once=64, task_requests=0), cluster) == pytest.approx(4)


def test_the_store_serves_all_nodes_together():
    work = Work(64, 64, row_cpu_s=0.001, row_bytes=100, task_requests=0)
    times = [seconds(work, Cluster(nodes, 1, node_bytes_s=100, store_bytes_s=400)) for nodes in (1, 4, 16)]
    assert times == pytest.approx([64, 16, 16])


def test_the_driver_bounds_the_rate_of_tasks():
    work = Work(100, 100, row_cpu_s=0.01, launch_s=0.5, task_requests=0)
    assert seconds(work, Cluster(32, 8)) == pytest.approx(100 * 0.5 + 0.01)
    merged = Work(100, 100, row_cpu_s=0.01, merge_s=0.5, task_requests=0)
    assert seconds(merged, Cluster(100, 1)) == pytest.approx(0.01 + 100 * 0.5)


def test_training_is_bound_by_its_network_in_the_end():
    work = Training(1000, 2, 100, 0.01, 0, exchanged_bytes=1e6, gradient_bytes=0, before_s=10)
    one, many = (training_seconds(work, Cluster(nodes, 1, node_bytes_s=1e7)) for nodes in (1, 1000))
    assert one == pytest.approx(10 + 20 * 1.0)
    assert many > 10 + 20 * 0.0999

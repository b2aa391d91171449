"""What the stages ask a cluster for and whether its nodes can give it, without starting one."""

import pytest
import yaml

from vgse.config import ResourcesConfig
from vgse.config_loading import parse_config
from vgse.errors import ClusterError
from vgse.pipeline.capacity import GIB, Capacity, Node
from vgse.pipeline.fleet.cluster_file import fleet_of
from vgse.pipeline.fleet.growth import cluster_capacity
from vgse.pipeline.placement import (
    Ask,
    asks,
    cutting_cpus,
    fits_now,
    require,
    room,
    starving,
    worker_shape,
)
from vgse.receipts import STAGES


def cluster(*nodes, most_nodes=None):
    """A capacity of (cpus, gpus, now, most) each with 64 GiB."""
    return Capacity(tuple(Node(f"type{i}", *node[:2], 64 * GIB, *node[2:]) for i, node in enumerate(nodes)), most_nodes)


def config(**sections):
    base = {"run": "r", "data": {"images": "i", "classes": "c", "word_vectors": "w"}}
    return parse_config({**base, **sections}, "test")


ONE = cluster((2, 0, 1, 1))
GPUS = cluster((16, 1, 4, 4))


@pytest.mark.parametrize(
    ("nodes", "wish", "reading", "shape"),
    [
        (ONE, {}, False, (1, 2.0, 0)),
        (ONE, {}, True, (1, 1.0, 0)),
        (ONE, {"workers": 2}, True, (2, 0.5, 0)),
        (cluster((1, 0, 1, 1)), {}, True, (1, 0.5, 0)),
        (GPUS, {}, True, (4, 4.0, 1)),
        (GPUS, {}, False, (4, 16.0, 1)),
        (GPUS, {"use_gpu": False}, False, (1, 16.0, 0)),
        (GPUS, {"workers": 2, "cpus_per_worker": 3}, False, (2, 3.0, 1)),
        # No worker is given more CPUs than a node has, however many the cluster has.
        (cluster((2, 0, 4, 4)), {}, False, (1, 2.0, 0)),
        (cluster((3, 0, 2, 2)), {"workers": 3}, False, (3, 1.0, 0)),
        (cluster((32, 0, 8, 8), (4, 1, 2, 2)), {}, False, (2, 4.0, 1)),
        # A cluster that has yet to grow: GPUs that may come count, and an on-demand twin is not added to its spot type.
        (cluster((0, 0, 1, 1), (32, 0, 0, 16), (16, 1, 0, 4), (16, 1, 0, 4), most_nodes=21), {}, False, (4, 16.0, 1)),
    ],
)
def test_the_shape_of_workers(nodes, wish, reading, shape):
    assert worker_shape(ResourcesConfig(**wish), nodes, reading=reading) == shape
    workers, each, gpus = shape
    assert room(Ask("", "", each, gpus, 0, workers), nodes) >= workers


@pytest.mark.parametrize(
    ("total", "workers", "each", "share"),
    [(2, 1, 1.0, 1.0), (2, 2, 0.5, 0.5), (64, 4, 4.0, 12.0), (2, 4, 0.25, 0.25), (2, 1, 2.0, 0.0)],
)
def test_what_the_workers_leave_is_shared_by_their_cutting_tasks(total, workers, each, share):
    assert cutting_cpus(cluster((total, 0, 1, 1)), workers, each) == share


def test_the_limit_on_all_nodes_bounds_what_types_may_bring():
    nodes = cluster((0, 0, 1, 1), (32, 0, 0, 16), (32, 0, 0, 16), most_nodes=17)
    assert nodes.cpus == 16 * 32
    assert room(Ask("", "", 32, 0, 0, 1), nodes) == 16


@pytest.mark.parametrize("mode", ["frozen", "finetune"])
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_fits_a_laptop_and_a_cluster(stage, mode):
    values = config(cluster={"mode": mode})
    for nodes in (Capacity((Node("laptop", 2, 0, 8 * GIB, 1, 1),)), GPUS):
        asked = asks(stage, values, nodes)
        assert asked
        assert all(ask.stage == stage for ask in asked)
        require(asked, nodes, values.resources)
        assert all(fits_now(ask, nodes) for ask in asked)


@pytest.mark.parametrize(
    ("stage", "nodes", "sections", "told"),
    [
        ("crop", cluster((0, 0, 1, 1)), {}, ["crop asks for 1 tasks of 1 CPU", "resources.grows_to"]),
        ("cluster", cluster((2, 0, 4, 4)), {"resources": {"cpus_per_worker": 4}}, ["cluster asks", "2 CPUs"]),
        ("cluster", ONE, {"resources": {"workers": 4, "cpus_per_worker": 1}}, ["4 workers of 1 CPU"]),
        ("encode", Capacity((Node("small", 2, 0, GIB, 1, 1),)), {}, ["encode asks", "1.0 GiB", "encode.batch_size"]),
        ("evaluate", Capacity((Node("small", 2, 0, GIB, 1, 1),)), {}, ["evaluate asks", "more memory"]),
        ("encode", ONE, {"resources": {"use_gpu": True}}, ["use_gpu is true", "0 GPU"]),
        ("encode", GPUS, {"resources": {"workers": 8}}, ["resources.workers is 8", "4 GPU"]),
    ],
)
def test_what_no_node_can_give_is_an_error_that_says_so(stage, nodes, sections, told):
    values = config(**sections)
    with pytest.raises(ClusterError) as error:
        require(asks(stage, values, nodes), nodes, values.resources)
    for part in told:
        assert part in str(error.value)


def test_workers_that_leave_no_cpu_are_seen():
    values = config(cluster={"mode": "finetune"}, resources={"cpus_per_worker": 2})
    workers, cutting = asks("cluster", values, ONE)
    assert (workers.cpus, cutting.cpus) == (2, 0)
    (said,) = starving([workers, cutting])
    assert "resources.cpus_per_worker" in said
    assert starving(asks("cluster", config(cluster={"mode": "finetune"}), ONE)) == []


GROWS = """
max_workers: 3
head_node_type: head
available_node_types:
  head: {resources: {CPU: 0}}
  cpu: {max_workers: 3, resources: {CPU: 8, memory: 8589934592}}
  gpu: {max_workers: 2, resources: {CPU: 4, GPU: 1, memory: 8589934592}}
"""


def living(cpus, gpus=0, group="", head=False, alive=True):
    resources = {"CPU": cpus, "memory": 8.0 * GIB, **({"GPU": gpus} if gpus else {})}
    if head:
        resources["node:__internal_head__"] = 1
    return {"Alive": alive, "Resources": resources, "Labels": {"ray.io/node-group": group} if group else {}}


def test_a_cluster_counts_as_it_stands_unless_someone_says_what_it_grows_to():
    nodes = [living(0, head=True), living(8), living(8), living(4, alive=False)]
    stands = cluster_capacity(nodes, None)
    assert (stands.cpus, stands.gpus) == (16, 0)
    grows = cluster_capacity(nodes, fleet_of(yaml.safe_load(GROWS), "test"))
    assert (grows.cpus, grows.gpus) == (24, 2)
    assert {node.name: (node.now, node.most) for node in grows.nodes} == {"head": (1, 1), "cpu": (2, 3), "gpu": (0, 2)}
    ask = Ask("encode", "workers", 4, 1, 0, 2)
    assert room(ask, grows) == 2
    assert not fits_now(ask, grows)


def test_nodes_are_known_by_the_group_they_were_started_as():
    grows = cluster_capacity([living(0, head=True), living(4, 1, "gpu")], fleet_of(yaml.safe_load(GROWS), "test"))
    assert {node.name: node.now for node in grows.nodes} == {"head": 1, "gpu": 1, "cpu": 0}


def test_this_machine_says_how_much_memory_it_has():
    from vgse.pipeline.session import free_memory, machine_memory

    assert 0 < free_memory() <= machine_memory() * 1.05
    assert machine_memory() > GIB


def test_what_ray_up_left_on_the_head_is_found(tmp_path, monkeypatch):
    from vgse.pipeline.fleet.growth import growth

    monkeypatch.setenv("HOME", str(tmp_path))
    assert growth(None) is None
    (tmp_path / "ray_bootstrap_config.yaml").write_text(GROWS)
    grows = growth(None)
    assert {kind.name: kind.most for kind in grows.workers} == {"cpu": 3, "gpu": 2}
    with pytest.raises(ClusterError, match=r"no\.yaml does not exist"):
        growth("no.yaml")

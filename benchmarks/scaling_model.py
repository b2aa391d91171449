"""A discrete model of the stages: how long each takes on any number of nodes, from costs per row and per task.

A stage is a driver and a bag of tasks. The driver works alone first (plan, lists of rows, starting a pipeline), then
hands out tasks one by one as slots (CPUs or GPUs of the nodes) come free, and takes their results one by one. A task
works, reads and writes at the same time, since the stages read ahead: it ends when its processor time, its bytes and
its requests are all done. How fast these go at any moment depends on how many other tasks want the same: cores (where
nodes share them), the network of the node, the store's bandwidth and request rate. Time moves from one such change to
the next. Training is a loop of synchronous steps and has a formula instead (`training_seconds`).
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

_CPU, _BYTES, _REQUESTS = range(3)


@dataclass(frozen=True)
class Cluster:
    """What there is to work with.

    Attributes:
        nodes, slots: nodes, and tasks that a node takes at once.
        cores: cores that all nodes share, for several nodes on one machine; 0 where every slot has its own.
        node_bytes_s: network of one node, bytes a second.
        store_bytes_s, store_requests_s: what the object store gives to all together.
        latency_s: of one request.
    """

    nodes: int
    slots: int
    cores: float = 0.0
    node_bytes_s: float = 1.25e9
    store_bytes_s: float = 1e11
    store_requests_s: float = 5500.0
    latency_s: float = 0.03


@dataclass(frozen=True)
class Work:
    """A stage on a certain data set.

    Attributes:
        rows, tasks: rows in all, cut evenly into tasks.
        row_cpu_s, row_bytes, row_requests: of one row: processor seconds on one slot, bytes read and written,
            requests to the store.
        task_requests: requests per task beside those of its rows.
        at_once: requests that a task has under way at once.
        slot_cpu_s: processor seconds before a slot's first task (process, imports, compilation, network).
        first_node_saves_s: of these, what the slots of the first node save, where the driver has done it before them.
        task_cpu_s: processor seconds of every task beside its rows.
        before_s: the driver alone before the first task, and after the last.
        launch_s, merge_s: the driver for each task, and for each result.
    """

    rows: int
    tasks: int
    row_cpu_s: float
    row_bytes: float = 0.0
    row_requests: float = 0.0
    task_requests: float = 2.0
    at_once: int = 64
    slot_cpu_s: float = 0.0
    first_node_saves_s: float = 0.0
    task_cpu_s: float = 0.0
    before_s: float = 0.0
    launch_s: float = 0.0
    merge_s: float = 0.0


def seconds(work: Work, cluster: Cluster) -> float:
    """How long the stage takes, by simulation."""
    return _Simulation(work, cluster).run()


class _Simulation:
    def __init__(self, work: Work, cluster: Cluster) -> None:
        self.work, self.cluster = work, cluster
        slots = cluster.nodes * cluster.slots
        # Slots are filled node by node in turn, as tasks are spread.
        self.free = [(slot // cluster.nodes, slot % cluster.nodes) for slot in reversed(range(slots))]
        self.begun: set[tuple[int, int]] = set()
        self.now, self.driver_free = work.before_s, work.before_s
        self.launched = 0
        self.arriving: list[tuple[float, tuple[int, int]]] = []
        self.slot: list[tuple[int, int]] = []
        self.node = np.empty(0, np.int64)
        self.left = np.empty((0, 3))

    def run(self) -> float:
        """Seconds from the start of the driver to its last result."""
        while True:
            self._launch()
            if not self.slot and not self.arriving:
                return self.driver_free
            self._advance()

    def _launch(self) -> None:
        while self.free and self.launched < self.work.tasks:
            self.driver_free = max(self.driver_free, self.now) + self.work.launch_s
            heapq.heappush(self.arriving, (self.driver_free, self.free.pop()))
            self.launched += 1

    def _arrive(self) -> None:
        work = self.work
        share = work.rows / work.tasks
        while self.arriving and self.arriving[0][0] <= self.now + 1e-12:
            _, slot = heapq.heappop(self.arriving)
            start = 0.0 if slot in self.begun else work.slot_cpu_s - (slot[1] == 0) * work.first_node_saves_s
            cpu = share * work.row_cpu_s + work.task_cpu_s + start
            requests = share * work.row_requests + work.task_requests
            self.begun.add(slot)
            self.slot.append(slot)
            self.node = np.append(self.node, slot[1])
            self.left = np.vstack([self.left, [cpu, share * work.row_bytes, requests]])

    def _rates(self) -> np.ndarray:
        """What every task gets of each kind per second (A, 3)."""
        cluster, wants = self.cluster, self.left > 0
        counts = wants.sum(axis=0)
        rates = np.ones((len(self.left), 3))
        if cluster.cores and counts[_CPU]:
            rates[:, _CPU] = min(1.0, cluster.cores / counts[_CPU])
        if counts[_BYTES]:
            on_node = np.bincount(self.node[wants[:, _BYTES]], minlength=cluster.nodes)
            of_node = cluster.node_bytes_s / np.maximum(on_node[self.node], 1)
            rates[:, _BYTES] = np.minimum(of_node, cluster.store_bytes_s / counts[_BYTES])
        if counts[_REQUESTS]:
            alone = self.work.at_once / cluster.latency_s
            rates[:, _REQUESTS] = min(alone, cluster.store_requests_s / counts[_REQUESTS])
        return rates

    def _advance(self) -> None:
        """To the next moment at which something begins or ends."""
        rates = self._rates()
        ends = np.where(self.left > 0, self.left / rates, np.inf) if len(self.left) else np.empty(0)
        step = float(ends.min(initial=np.inf))
        if self.arriving:
            step = min(step, self.arriving[0][0] - self.now)
        step = max(step, 0.0)
        self.now += step
        if len(self.left):
            self.left = self.left - rates * step
            # What rounding leaves of a share is nothing.
            self.left[(self.left < 1e-9) | (ends <= step)] = 0.0
            done = ~(self.left > 0).any(axis=1)
            for number in np.flatnonzero(done):
                self.driver_free = max(self.driver_free, self.now) + self.work.merge_s
                self.free.append(self.slot[number])
            self.slot = [slot for slot, gone in zip(self.slot, done, strict=True) if not gone]
            self.node, self.left = self.node[~done], self.left[~done]
        self._arrive()


@dataclass(frozen=True)
class Training:
    """Training of the heads on cached features, one worker a node.

    Attributes:
        rows, epochs, batch: patches, passes over them, patches of a step over all workers.
        row_cpu_s: processor seconds of a patch on one core.
        cached_bytes: features, of which every worker reads all.
        exchanged_bytes: what a worker receives in a step from all others together (rows for the neighbour bank).
        gradient_bytes: averaged in every step.
        before_s: the driver and the start of the group.
    """

    rows: int
    epochs: int
    batch: int
    row_cpu_s: float
    cached_bytes: float
    exchanged_bytes: float
    gradient_bytes: float
    before_s: float


def training_seconds(work: Training, cluster: Cluster) -> float:
    """How long training takes: reading, then steps of computing, gathering rows and averaging gradients (ring)."""
    steps = work.epochs * -(-work.rows // work.batch)
    others = (cluster.nodes - 1) / cluster.nodes
    # Ring all-reduce: two passes of 1 / nodes of the gradient to the neighbour, and a hop's delay for each.
    hops = 2 * (cluster.nodes - 1)
    network = (work.exchanged_bytes + 2 * work.gradient_bytes) * others / cluster.node_bytes_s + hops * 1e-4
    computing = work.batch * work.row_cpu_s / (cluster.nodes * cluster.slots)
    reading = work.cached_bytes / min(cluster.node_bytes_s, cluster.store_bytes_s / cluster.nodes)
    return work.before_s + reading + steps * (computing + network)

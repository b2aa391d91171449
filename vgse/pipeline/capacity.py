"""What the nodes of a cluster offer, as they are and as they may become."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Node:
    """Nodes of one shape: what each of them offers, how many there are now, and how many there may be at most."""

    name: str
    cpus: float
    gpus: float = 0
    memory: int = 0
    now: int = 0
    most: int = 1

    def offers(self) -> str:
        """E.g. `cpu_worker: 32 CPU, 40.0 GiB (up to 16)`."""
        parts = [f"{self.cpus:g} CPU", *([f"{self.gpus:g} GPU"] if self.gpus else []), f"{self.memory / GIB:.1f} GiB"]
        count = f"{self.now} now, up to {self.most}" if self.most > self.now else f"{self.now}"
        return f"{self.name}: {', '.join(parts)} ({count})"


@dataclass(frozen=True)
class Capacity:
    """The nodes of a cluster as they are and as they may become; at most `most_nodes` of them at once.

    Nodes of a shape that cannot grow in number are there and stay; those of the others share what is left of the limit.
    """

    nodes: tuple[Node, ...]
    most_nodes: int | None = None

    @property
    def cpus(self) -> int:
        """Whole CPUs that the cluster has or may grow to, at least 1."""
        return max(1, int(self._total(lambda node: node.cpus)))

    @property
    def gpus(self) -> int:
        """GPUs that the cluster has, or that its best kind of node may bring. Kinds are not added up: an on-demand
        twin stands in for spot nodes that were not to be had, and does not come on top of them."""
        now = sum(node.now * node.gpus for node in self.nodes)
        return int(max([now, *(count * node.gpus for node, count in self.grown(lambda node: node.gpus))]))

    def _total(self, each: Callable[[Node], float]) -> float:
        total = sum(count * each(node) for node, count in self.grown(each))
        return max(total, sum(node.now * each(node) for node in self.nodes))

    def grown(self, worth: Callable[[Node], float]) -> list[tuple[Node, int]]:
        """The nodes and how many of each there are when the cluster has grown as far as it may, the best first."""
        there = [(node, node.now) for node in self.nodes if node.most <= node.now]
        left = 10**6 if self.most_nodes is None else self.most_nodes - sum(count for _, count in there)
        for node in sorted((n for n in self.nodes if n.most > n.now), key=worth, reverse=True):
            taken = max(0, min(node.most, left))
            there.append((node, taken))
            left -= taken
        return there

    def described(self) -> str:
        """One line per shape of node."""
        return "\n".join(f"     {node.offers()}" for node in self.nodes) or "     no nodes"

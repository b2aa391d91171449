"""Nodes that Ray's autoscaler starts on this machine (see local_nodes.py); bench_jobs.py names it to its head."""

import subprocess
from pathlib import Path
from typing import Any

from local_nodes import end_nodes, start_node
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider
from ray.autoscaler.tags import (
    NODE_KIND_WORKER,
    STATUS_UP_TO_DATE,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_NAME,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)


class GrownNodes(FakeMultiNodeProvider):
    """Ray's provider for its own tests, but for how nodes are started: as a cloud's are, by `ray start`.

    Ray's own would have all nodes share one folder for unpacked code, where one removes it under another's feet, and
    would refuse node types that state their memory as those of cluster.yaml do.
    """

    def _create_node_with_resources_and_labels(
        self, node_config: Any, tags: dict[str, str], count: int, resources: dict[str, float], labels: Any
    ) -> None:
        with self.lock:
            name = self._next_hex_node_id()
            environment = {
                "RAY_OVERRIDE_NODE_ID_FOR_TESTING": name, "RAY_CLOUD_INSTANCE_ID": name,
                "RAY_NODE_TYPE_NAME": tags[TAG_RAY_USER_NODE_TYPE],
            }  # fmt: skip
            arguments = [
                f"--address={self._gcs_address}", f"--num-cpus={resources.get('CPU', 0)}",
                f"--num-gpus={resources.get('GPU', 0)}", f"--memory={resources['memory']}",
            ]  # fmt: skip
            folder = Path(self.provider_config["folder"])
            node = start_node(arguments, folder / f"node-{self._next_node_id}", folder / "tmp", environment)
            known = {
                TAG_RAY_NODE_KIND: NODE_KIND_WORKER,
                TAG_RAY_NODE_NAME: name,
                TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE,
            }
            self._nodes[name] = {"tags": {**known, **tags}, "node": node}

    def _terminate_node(self, node: dict[str, subprocess.Popen[bytes]]) -> None:
        end_nodes([node["node"]])

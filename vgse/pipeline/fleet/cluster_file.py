"""Reading a cluster's file: cluster.yaml of `ray up` by Ray's own schema, a KubeRay manifest by models of its own."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import yaml

from vgse.errors import ClusterError
from vgse.pipeline.fleet.machines import Fleet, NodeType

_REMEDY = "mend the field named; cluster.yaml and jobs/rayjob.yaml of this repository are examples"


def read_fleet(path: str) -> Fleet:
    """The cluster that a file describes.

    Raises:
        ClusterError: no such file, not YAML, or not what Ray or KubeRay would accept.
    """
    values = read_yaml(path)
    if values.get("kind") in ("RayJob", "RayCluster"):
        from vgse.pipeline.fleet.kuberay import manifest_fleet

        return manifest_fleet(values, path)
    _accepted_by_ray(values, path)
    return fleet_of(values, path)


def read_yaml(path: str) -> dict[str, Any]:
    """A YAML file that holds a mapping."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ClusterError(f"cluster file {path} does not exist", "check the path") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ClusterError(f"cluster file {path} cannot be read: {error}", "give a readable YAML file") from None
    if not isinstance(values, dict):
        raise ClusterError(f"cluster file {path} holds no mapping but {type(values).__name__}", _REMEDY)
    return values


def _accepted_by_ray(values: dict[str, Any], path: str) -> None:
    """What `ray up` itself would say, without a cloud."""
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    if "available_node_types" not in values:
        raise ClusterError(f"{path}: available_node_types is missing", _REMEDY)
    try:
        # It would say on the way what it fills in.
        logging.getLogger("ray.autoscaler._private.util").setLevel(logging.ERROR)
        validate_config(prepare_config(copy.deepcopy(values)))
    except jsonschema.ValidationError as error:
        where = ".".join(str(part) for part in error.absolute_path) or "the file"
        raise ClusterError(f"{path}: {where}: {error.message}", _REMEDY) from None
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError, RuntimeError) as error:
        # Ray's preparation meets some mistakes before its schema does.
        raise ClusterError(f"{path} is not accepted by Ray: {type(error).__name__}: {error}", _REMEDY) from None


def fleet_of(values: dict[str, Any], source: str) -> Fleet:
    """The cluster of a configuration of `ray up` that Ray accepts."""
    docker = values.get("docker") or {}
    types = {name: _node_type(name, kind, values) for name, kind in values["available_node_types"].items()}
    head = types.pop(values["head_node_type"])
    return Fleet(
        source=source,
        image=docker.get("image") or docker.get("head_image") or "",
        head=head,
        workers=tuple(types.values()),
        most_workers=int(values.get("max_workers", sum(kind.most for kind in types.values()))),
    )


def _node_type(name: str, kind: dict[str, Any], values: dict[str, Any]) -> NodeType:
    config = kind.get("node_config") or {}
    disks = [int((disk.get("Ebs") or {}).get("VolumeSize", 0)) for disk in config.get("BlockDeviceMappings") or []]
    docker = {**(values.get("docker") or {}), **(kind.get("docker") or {})}
    return NodeType(
        name=name,
        resources={key: float(value) for key, value in (kind.get("resources") or {}).items()},
        least=int(kind.get("min_workers", 0)),
        # Ray's own default: as many as there may be nodes at all.
        most=int(kind.get("max_workers", values.get("max_workers", 0))),
        instance=str(config.get("InstanceType", "")),
        spot=(config.get("InstanceMarketOptions") or {}).get("MarketType") == "spot",
        disk_gb=sum(disks) or None,
        image=str(docker.get("worker_image") or docker.get("image") or docker.get("head_image") or ""),
        role=bool(config.get("IamInstanceProfile")),
    )

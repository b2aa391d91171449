"""KubeRay manifests (RayJob, RayCluster): the shape of the custom resources, and the cluster they describe."""

from __future__ import annotations

from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from vgse.errors import ClusterError
from vgse.pipeline.fleet.machines import Fleet, NodeType

_INSTANCE, _CAPACITY = "node.kubernetes.io/instance-type", "eks.amazonaws.com/capacityType"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class _Pod(BaseModel):
    """What is looked at in a pod; the rest is Kubernetes' matter."""

    model_config = ConfigDict(extra="allow", frozen=True)


class _Quantities(_Strict):
    limits: dict[str, str | int] = Field(min_length=1)
    requests: dict[str, str | int] = {}


class _Container(_Pod):
    name: str
    image: str
    resources: _Quantities


class _PodSpec(_Pod):
    containers: list[_Container] = Field(min_length=1)
    nodeSelector: dict[str, str] = {}
    serviceAccountName: str = ""
    volumes: list[dict[str, Any]] = []


class _Template(_Pod):
    spec: _PodSpec


class _HeadGroup(_Strict):
    rayStartParams: dict[str, str]
    template: _Template
    serviceType: str = "ClusterIP"
    enableIngress: bool = False
    labels: dict[str, str] = {}
    resources: dict[str, str] = {}


class _WorkerGroup(_Strict):
    groupName: str
    minReplicas: int = Field(ge=0)
    maxReplicas: int = Field(ge=1)
    replicas: int = Field(default=0, ge=0)
    numOfHosts: int = Field(default=1, ge=1)
    idleTimeoutSeconds: int | None = None
    priority: int = 0
    rayStartParams: dict[str, str]
    template: _Template
    labels: dict[str, str] = {}
    resources: dict[str, str] = {}
    suspend: bool = False

    @model_validator(mode="after")
    def _in_order(self) -> _WorkerGroup:
        if not self.minReplicas <= self.replicas <= self.maxReplicas:
            raise ValueError(
                f"{self.groupName}: minReplicas {self.minReplicas} <= replicas {self.replicas} <= maxReplicas "
                f"{self.maxReplicas} does not hold"
            )
        return self


class _AutoscalerOptions(_Pod):
    version: Literal["v1", "v2"] = "v1"
    idleTimeoutSeconds: int = Field(default=60, ge=0)
    upscalingMode: Literal["Default", "Aggressive", "Conservative"] = "Default"


class _ClusterSpec(_Strict):
    rayVersion: str
    enableInTreeAutoscaling: bool = False
    autoscalerOptions: _AutoscalerOptions = _AutoscalerOptions()
    headGroupSpec: _HeadGroup
    workerGroupSpecs: list[_WorkerGroup] = Field(min_length=1)
    headServiceAnnotations: dict[str, str] = {}
    gcsFaultToleranceOptions: dict[str, Any] = {}
    authOptions: dict[str, Any] = {}


class _JobSpec(_Strict):
    entrypoint: str = Field(min_length=1)
    rayClusterSpec: _ClusterSpec
    submissionMode: Literal["K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"] = "K8sJobMode"
    shutdownAfterJobFinishes: bool = False
    ttlSecondsAfterFinished: int = Field(default=0, ge=0)
    activeDeadlineSeconds: int | None = Field(default=None, ge=1)
    backoffLimit: int = Field(default=0, ge=0)
    runtimeEnvYAML: str = ""
    entrypointNumCpus: float = Field(default=0, ge=0)
    entrypointNumGpus: float = Field(default=0, ge=0)
    entrypointResources: str = ""
    metadata: dict[str, str] = {}
    jobId: str = ""
    suspend: bool = False

    @field_validator("runtimeEnvYAML")
    @classmethod
    def _is_yaml(cls, text: str) -> str:
        try:
            value = yaml.safe_load(text) if text else {}
        except yaml.YAMLError as error:
            raise ValueError(f"is not YAML: {error}") from None
        if not isinstance(value, dict):
            raise ValueError("must hold a mapping")
        return text

    @model_validator(mode="after")
    def _cleaned_up(self) -> _JobSpec:
        if self.ttlSecondsAfterFinished and not self.shutdownAfterJobFinishes:
            raise ValueError("ttlSecondsAfterFinished has no effect without shutdownAfterJobFinishes")
        return self


class _Named(_Pod):
    name: str = Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=47)
    namespace: str = "default"


class _Manifest(_Strict):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayJob", "RayCluster"]
    metadata: _Named
    spec: dict[str, Any]


def manifest_fleet(values: dict[str, Any], source: str) -> Fleet:
    """The cluster of a RayJob or RayCluster.

    Raises:
        ClusterError: a field is missing, unknown or of another type, or Ray cannot read the groups' resources.
    """
    try:
        manifest = _Manifest.model_validate(values)
        job = manifest.kind == "RayJob"
        spec = (
            _JobSpec.model_validate(manifest.spec).rayClusterSpec if job else _ClusterSpec.model_validate(manifest.spec)
        )
    except ValidationError as error:
        lines = [f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors(include_url=False)]
        raise ClusterError(f"{source} is no manifest that KubeRay accepts:\n  " + "\n  ".join(lines),
                           "mend the field(s) named above; jobs/rayjob.yaml is an example") from None  # fmt: skip
    raw = manifest.spec["rayClusterSpec"] if job else manifest.spec
    resources = _seen_by_ray(manifest, raw, source)
    workers = tuple(
        _node_type(
            group.groupName, group.template.spec, resources[group.groupName], group.minReplicas * group.numOfHosts,
            (group.maxReplicas if spec.enableInTreeAutoscaling else group.replicas) * group.numOfHosts,
        )
        for group in spec.workerGroupSpecs
    )  # fmt: skip
    pod = spec.headGroupSpec.template.spec
    head = _node_type("head", pod, resources["headgroup"], 0, 1)
    return Fleet(source, pod.containers[0].image, head, workers, sum(kind.most for kind in workers), spec.rayVersion)


def _seen_by_ray(manifest: _Manifest, raw: dict[str, Any], source: str) -> dict[str, dict[str, float]]:
    """The resources of every group as Ray's autoscaler reads them from the custom resource."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    resource = {"metadata": {"name": manifest.metadata.name, "namespace": manifest.metadata.namespace}, "spec": raw}
    try:
        types = _derive_autoscaling_config_from_ray_cr(resource)["available_node_types"]
    except Exception as error:
        raise ClusterError(f"{source}: Ray's autoscaler cannot read it: {type(error).__name__}: {error}",
                           "give every group CPU and memory limits in its first container") from None  # fmt: skip
    return {name: {key: float(value) for key, value in kind["resources"].items()} for name, kind in types.items()}


def _node_type(name: str, pod: _PodSpec, resources: dict[str, float], least: int, most: int) -> NodeType:
    limit = str(pod.containers[0].resources.limits.get("ephemeral-storage", ""))
    return NodeType(
        name=name,
        resources=resources,
        least=least,
        most=most,
        instance=pod.nodeSelector.get(_INSTANCE, ""),
        spot=pod.nodeSelector.get(_CAPACITY, "") == "SPOT",
        disk_gb=int(limit.removesuffix("Gi")) if limit.endswith("Gi") else None,
        image=pod.containers[0].image,
        role=bool(pod.serviceAccountName),
        memory_share=0.95,
    )

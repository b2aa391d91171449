"""What Ray's own validation of a cluster's file does not look at."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires

from vgse.pipeline.fleet.machines import Fleet, NodeType, PriceList, instance_problems

_TAG = re.compile(r":(?P<ray>\d+\.\d+\.\d+)(-py(?P<python>\d{2,3}))?(-(?P<kind>cpu|gpu|cu\d+))?$")


def problems(fleet: Fleet, prices: PriceList) -> list[str]:
    """Everything that would not work, or not as meant, one sentence each; empty where all is well."""
    return [*_counts(fleet), *_images(fleet), *_resources(fleet, prices), *_cloud(fleet)]


def pinned_ray() -> str | None:
    """The Ray version in this package's requirements."""
    try:
        lines = requires("vgse") or []
    except PackageNotFoundError:
        return None
    found = (re.match(r"ray(\[.*\])?==([\d.]+)", line) for line in lines)
    return next((match[2] for match in found if match), None)


def _counts(fleet: Fleet) -> Iterator[str]:
    for kind in fleet.workers:
        if kind.least > kind.most:
            yield f"{kind.name}: min_workers {kind.least} is above max_workers {kind.most}"
        if kind.most > fleet.most_workers:
            yield f"{kind.name}: max_workers {kind.most} is above the cluster's max_workers {fleet.most_workers}"
        if kind.most == 0:
            yield f"{kind.name}: max_workers is 0, so that none of it will ever start"
    least = sum(kind.least for kind in fleet.workers)
    if least > fleet.most_workers:
        yield f"min_workers of all types add up to {least}, above the cluster's max_workers {fleet.most_workers}"


def _images(fleet: Fleet) -> Iterator[str]:
    import ray

    wanted = {"the pinned": pinned_ray() or ray.__version__, "the installed": ray.__version__}
    if fleet.ray_version and fleet.ray_version not in wanted.values():
        yield f"rayVersion is {fleet.ray_version}, the installed Ray {ray.__version__}"
    by_image: dict[str, list[NodeType]] = {}
    for kind in (fleet.head, *fleet.workers):
        by_image.setdefault(kind.image, []).append(kind)
    for image, kinds in by_image.items():
        names = ", ".join(kind.name for kind in kinds)
        match = _TAG.search(image)
        if match is None:
            yield f"{names}: the image {image or '(none)'} has no tag such as :2.60.0-py311-gpu"
            continue
        for whose, version in wanted.items():
            if match["ray"] != version:
                yield f"{names}: the image {image} holds Ray {match['ray']}, {whose} version is {version}"
        here = f"{sys.version_info.major}{sys.version_info.minor}"
        # Jobs and tasks are pickled between here and there; a client of another Python is refused.
        if (match["python"] or "310") not in ("311", "312"):
            yield f"{names}: the image {image} is not Python 3.11 or 3.12 (this one is {here})"
        if any(kind.resources.get("GPU") for kind in kinds) and match["kind"] in (None, "cpu"):
            yield f"{names}: nodes with GPUs on {image}, which brings no CUDA"


def _resources(fleet: Fleet, prices: PriceList) -> Iterator[str]:
    if fleet.head.resources.get("CPU", 1) != 0:
        yield f"{fleet.head.name}: resources.CPU must be 0: no stage may run where the driver lives"
    for kind in (fleet.head, *fleet.workers):
        for name in ("CPU", "memory"):
            if name not in kind.resources and (name == "CPU" or kind is not fleet.head):
                yield f"{kind.name}: resources.{name} is not written out"
        yield from instance_problems(kind, prices)


def _cloud(fleet: Fleet) -> Iterator[str]:
    for kind in (fleet.head, *fleet.workers):
        if kind.disk_gb is None:
            yield f"{kind.name}: no disk size is given; the image's own is too small for features and spilling"
        if not kind.role:
            yield f"{kind.name}: no role for the bucket (IamInstanceProfile or serviceAccountName)"
    if fleet.head.spot:
        yield f"{fleet.head.name}: a head on spot ends the whole job when it is taken away"
    for kind in fleet.workers:
        if kind.spot and twin(kind, fleet) is None:
            yield f"{kind.name}: spot without an on-demand type of the same resources to fall back to"


def twin(kind: NodeType, fleet: Fleet) -> NodeType | None:
    """The on-demand type that stands in for a spot type."""
    return next((other for other in fleet.workers if not other.spot and other.resources == kind.resources), None)

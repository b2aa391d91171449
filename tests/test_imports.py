"""Imports run one way: no room but pipeline/, the command line and jobs/ loads ray; some load no torch either."""

import subprocess
import sys

import pytest

WITHOUT_RAY = ["vgse.config", "vgse.config_loading", "vgse.errors", "vgse.storage", "vgse.receipts", "vgse.cli",
               "vgse.data.manifest", "vgse.data.splits", "vgse.data.words", "vgse.data.demo_images", "vgse.patches",
               "vgse.clustering.training", "vgse.clustering.backbones", "vgse.relation", "vgse.zsl.protocol",
               "vgse.zsl.table", "vgse.zsl.standalone", "vgse.data.knowledge",
               "vgse.clustering.patch_order", "vgse.tuning.space", "vgse.tuning.journal",
               "vgse.report.tuning"]  # fmt: skip
WITHOUT_TORCH = [
    "vgse.relation",
    "vgse.data.splits",
    "vgse.data.knowledge",
    "vgse.zsl.metrics",
    "vgse.config_loading",
    "vgse.patches",
    "vgse.clustering.patch_order",
    "vgse.cli",
    "vgse.tuning.space",
    "vgse.report.tuning",
]


def loads(module: str, package: str) -> bool:
    code = f"import sys, {module}; sys.exit({package!r} in sys.modules)"
    return subprocess.run([sys.executable, "-c", code]).returncode != 0


@pytest.mark.parametrize("module", WITHOUT_RAY)
def test_loads_no_ray(module):
    assert not loads(module, "ray")


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_loads_no_torch(module):
    assert not loads(module, "torch")


def test_the_check_can_fail():
    assert loads("ray", "ray")

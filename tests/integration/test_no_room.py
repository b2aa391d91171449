"""A stage that the running cluster can never serve ends in an error at once, before anything is asked of Ray."""

import time
from types import SimpleNamespace

import pytest

from vgse.config_loading import parse_config
from vgse.errors import ClusterError
from vgse.pipeline.stage import _require_room
from vgse.receipts import STAGES


def plan(demo_values, tmp_path, **resources):
    return SimpleNamespace(config=parse_config(demo_values(tmp_path / "run", resources=resources), "test"))


def test_what_this_machine_can_never_give(ray_session, demo_values, tmp_path):
    started = time.monotonic()
    for resources, told in (({"cpus_per_worker": 4096}, "cluster asks for"), ({"use_gpu": True}, "use_gpu is true")):
        with pytest.raises(ClusterError, match=told):
            _require_room(plan(demo_values, tmp_path, **resources), "cluster")
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("stage", STAGES)
def test_this_machine_has_room_for_the_demo(ray_session, demo_values, tmp_path, stage, capsys):
    _require_room(plan(demo_values, tmp_path), stage)
    assert capsys.readouterr().out == ""

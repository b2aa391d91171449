"""What the driver alone does before the tasks of a stage can start: processor seconds, for a prepared run directory.

    uv run python benchmarks/driver_work.py CONFIG        # prints one JSON object

This is the serial part of every stage: it does not shrink with more nodes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from vgse.config_loading import load_config
from vgse.data.units import cut_units
from vgse.pipeline.accounts import committed_images
from vgse.pipeline.embed import shard_blocks as embed_blocks
from vgse.pipeline.encode import shard_blocks as encode_blocks
from vgse.pipeline.features import episode_rows, patch_features, patches_wanted, training_rows
from vgse.pipeline.plan import make_plan


def main() -> None:
    """Times the parts one after the other."""
    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        started = time.process_time()
        found = work()
        seconds[name] = round(time.process_time() - started, 2)
        return found

    plan = timed("plan", lambda: make_plan(load_config(sys.argv[1])))
    problems = list(plan.problems())
    timed("crop", lambda: cut_units(plan.manifest, plan.config.crop.rows_per_shard))
    frame = timed("committed_images", lambda: committed_images(plan))
    timed("encode", lambda: encode_blocks(frame.assign(wanted=patches_wanted(frame, plan))))
    timed("cluster", lambda: [_fit_inputs(plan, frame, problem) for problem in problems])
    timed("embed", lambda: embed_blocks(plan, frame, problems))
    timed("evaluate", lambda: [episode_rows(frame, problem, plan) for problem in problems])
    print(json.dumps(seconds))


def _fit_inputs(plan: Any, frame: Any, problem: Any) -> Any:
    chosen = training_rows(frame, problem, plan)
    label = {name: i for i, name in enumerate(problem.seen)}
    return patch_features(plan, frame, chosen), frame.class_name[chosen].map(label).to_numpy(np.int64)


if __name__ == "__main__":
    main()

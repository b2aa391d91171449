"""Which images train and which judge while choices are made."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from vgse.config_loading import parse_config
from vgse.pipeline.features import episode_rows, training_rows
from vgse.pipeline.problems import Problem

CHOICE = Problem(0, "choice", ("a", "b"), ("c",))
FRAME = pd.DataFrame(
    {
        "class_name": np.repeat(["a", "b", "c", "d"], 12),
        "role": np.tile(["train"] * 10 + ["test"] * 2, 4),
        "rank": np.tile([*range(10), 0, 1], 4),
    }
)


def plan(**evaluate):
    values = {"run": "r", "data": {"images": "i", "classes": "c", "word_vectors": "w"}, "evaluate": evaluate}
    return SimpleNamespace(config=parse_config(values, "test.yaml"))


def per_class(rows):
    return FRAME.class_name[rows].value_counts().to_dict()


@pytest.mark.parametrize(
    ("evaluate", "kept", "judged"),
    [
        ({"choice_held_out": 0.4}, 4, 10),
        ({"choice_held_out": 0.4, "choice_images": 3}, 3, 3),
        ({"choice_held_out": 0.4, "choice_images": 100}, 4, 10),
    ],
)
def test_choice_images_limits_both_sides_and_leaves_the_rest_to_training(evaluate, kept, judged):
    train, test_seen, test_unseen = episode_rows(FRAME, CHOICE, plan(**evaluate))
    assert per_class(test_seen) == {"a": kept, "b": kept}
    assert per_class(test_unseen) == {"c": judged}
    assert per_class(train) == {"a": 10 - kept, "b": 10 - kept}
    assert (FRAME.role[train | test_seen | test_unseen] == "train").all()
    assert not (train & test_seen).any()
    np.testing.assert_array_equal(train, training_rows(FRAME, CHOICE, plan(**evaluate)))


def test_choice_images_does_not_touch_the_final_problem():
    final = Problem(0, "final", ("a", "b", "c"), ("d",))
    for one, other in zip(*(episode_rows(FRAME, final, plan(**e)) for e in ({}, {"choice_images": 1})), strict=True):
        np.testing.assert_array_equal(one, other)

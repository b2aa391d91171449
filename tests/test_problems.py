"""Which problems a run solves, and what they are called."""

from vgse.config_loading import parse_config
from vgse.data.splits import ClassSplit
from vgse.pipeline.problems import rounds

SPLITS = (
    ClassSplit(("a", "b", "c", "d"), ("e",), ("f", "g")),
    ClassSplit(("c", "d", "e", "f"), ("g",), ("a", "b")),
)


def run_of(**changes):
    values = {"run": "r", "data": {"images": "i", "classes": "c", "word_vectors": "w"}, **changes}
    return list(rounds(parse_config(values, "test.yaml"), SPLITS))


def test_each_class_split_has_a_choice_and_a_final_problem():
    found = run_of()
    names = ["split-0-choice", "split-0-final", "split-1-choice", "split-1-final"]
    assert [problem.name for each in found for problem in each.problems] == names
    choice, final = found[0].problems
    assert (choice.seen, choice.unseen) == (("a", "b", "c", "d"), ("e",))
    assert (final.seen, final.unseen) == (("a", "b", "c", "d", "e"), ("f", "g"))
    assert final.seen_mask.tolist() == [True] * 5 + [False] * 2


def test_seeds_and_folds_multiply_and_names_stay_unique():
    found = run_of(seeds=2, evaluate={"folds": 3})
    assert len(found) == 4
    assert all(len(each.choices) == 3 for each in found)
    names = [problem.name for each in found for problem in each.problems]
    assert len(set(names)) == len(names) == 16
    assert {"split-0-choice", "split-0-choice-2", "split-1-seed-1-choice-1", "split-1-seed-1-final"} <= set(names)


def test_one_problem_is_the_main_one():
    problems = [problem for each in run_of(seeds=2, evaluate={"folds": 2}) for problem in each.problems]
    assert [problem.name for problem in problems if problem.main] == ["split-0-final"]

"""Class splits: reading, refusals, redrawing."""

import pytest

from vgse.data.splits import ClassSplit, check_classes_have_images, check_seen_classes_train, read_split
from vgse.errors import ConfigError, DataError
from vgse.storage import Storage

GOOD = "train: [ant, bee, cow]\nval: [dog]\nunseen: [eel, fox]\n"


@pytest.fixture
def write(tmp_path):
    def written(text):
        (tmp_path / "split.yaml").write_text(text)
        return str(tmp_path / "split.yaml")

    return written


def test_reads_the_three_lists(write):
    split = read_split(Storage(), write(GOOD))
    assert split.train == ("ant", "bee", "cow")
    assert split.seen == ("ant", "bee", "cow", "dog")
    assert split.all[-1] == "fox"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train: [ant]\nval: [ant]\nunseen: [fox]", "ant in train and val"),
        ("train: [ant, bee]\nval: [dog]\nunseen: [bee]", "bee in train and unseen"),
        ("train: [ant, ant]\nval: [dog]\nunseen: [bee]", "ant in train and train"),
        ("train: [ant]\nval: []\nunseen: [fox]", "non-empty lists"),
        ("train: [ant]\nunseen: [fox]", "non-empty lists"),
        ("train: [1]\nval: [dog]\nunseen: [fox]", "in quotes"),
        ("train: [ant\nval: ]:", "not valid YAML"),
    ],
)
def test_refusals(write, text, said):
    with pytest.raises(DataError, match=said):
        read_split(Storage(), write(text))


def test_a_class_without_images_is_named_with_its_nearest(write):
    split = read_split(Storage(), write(GOOD))
    with pytest.raises(DataError, match=r"cow \(did you mean cows\?\)"):
        check_classes_have_images(split, ["ant", "bee", "cows", "dog", "eel", "fox"])


def test_redrawn_splits_keep_sizes_and_classes(write):
    split = read_split(Storage(), write(GOOD))
    assert split.redrawn(0, 0) == split
    drawn = [split.redrawn(0, number) for number in range(1, 6)]
    for other in drawn:
        assert sorted(other.all) == sorted(split.all)
        assert [len(other.train), len(other.val), len(other.unseen)] == [3, 1, 2]
    assert len({other.unseen for other in drawn}) > 1
    assert split.redrawn(0, 3) == drawn[2]


# ---- folds
TEN = ClassSplit(tuple(f"t{i}" for i in range(10)), ("v0", "v1", "v2"), ("u0",))


def test_one_fold_is_train_and_val_as_given():
    assert TEN.folds(1, 0) == [(TEN.train, TEN.val)]


@pytest.mark.parametrize("count", [2, 3, 4, 11])
def test_folds_hold_out_disjoint_seen_classes_and_never_an_unseen_one(count):
    folds = TEN.folds(count, 0)
    assert len(folds) == count
    held = [name for _, pseudo_unseen in folds for name in pseudo_unseen]
    assert len(held) == len(set(held))
    assert set(held) <= set(TEN.seen)
    for seen, pseudo_unseen in folds:
        assert set(seen) | set(pseudo_unseen) == set(TEN.seen)
        assert not set(seen) & set(pseudo_unseen)
    assert folds[0] == (TEN.train, TEN.val)


def test_folds_are_as_large_as_val_or_share_train_evenly():
    assert [len(held) for _, held in TEN.folds(4, 0)] == [3, 3, 3, 3]
    assert [len(held) for _, held in TEN.folds(6, 0)] == [3, 2, 2, 2, 2, 2]


def test_folds_follow_the_seed():
    assert TEN.folds(4, 0) == TEN.folds(4, 0)
    assert TEN.folds(4, 0) != TEN.folds(4, 1)


def test_too_many_folds_are_refused():
    with pytest.raises(ConfigError, match=r"evaluate\.folds = 12"):
        TEN.folds(12, 0)


def test_a_seen_class_with_test_images_only_is_named():
    split = ClassSplit(("ant",), ("bee",), ("cow",))
    check_seen_classes_train([split], ["ant", "bee"])
    with pytest.raises(DataError, match=r"no training image of 1 class.*: bee"):
        check_seen_classes_train([split], ["ant", "cow"])

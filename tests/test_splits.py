"""Class splits: reading, refusals, redrawing."""

import pytest

from vgse.data.splits import check_classes_have_images, read_split
from vgse.errors import DataError
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

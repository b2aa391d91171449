"""Anyone's class embeddings on a benchmark: published splits with made features, every kind of file, every error."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.io import loadmat, savemat

from tests.made_benchmark import CLASSES, NAMES, PER_CLASS, UNSEEN, MadeBenchmark, cells, images_of
from vgse.cli import guarded
from vgse.errors import ConfigError, DataError
from vgse.storage import Storage
from vgse.zsl.benchmark_episodes import choice_episode, final_episode
from vgse.zsl.mode import AS_PUBLISHED_TITLE
from vgse.zsl.standalone import StandaloneConfig, arm_name, evaluate_files, standalone_main
from vgse.zsl.xlsa17_reader import read_benchmark

CONTROLS = ["one_hot", "random", "permuted", "oracle"]
FAST = ("prototype",)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def benchmark_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    return MadeBenchmark().write(folder)


def config(files, **more):
    return StandaloneConfig(**{"features": files[0], "splits": files[1], "models": FAST, **more})


def evaluate(files, **more):
    said: list[str] = []
    return evaluate_files(config(files, **more), say=said.append), said


def figures(summary, arm, model="prototype"):
    return summary["arms"][arm][model]


def verdicts(summary, arm, model="prototype", figure="T1"):
    found = [c for c in summary["comparisons"] if (c["arm"], c["model"], c["figure"]) == (arm, model, figure)]
    return {c["against"]: c["sentence"].split("]: ")[1].split(" (")[0] for c in found}


# ---- the published split files


def published_files(path: Path, folder: Path, counts: tuple[int, int, int]) -> tuple[str, str]:
    """Made features for a published split: its image numbers, classes and attributes, labels drawn to fit its parts."""
    content = loadmat(path)
    rows = {name: content[f"{name}_loc"][:, 0].astype(int) - 1 for name in ("train", "val", "test_seen", "test_unseen")}
    images = max(int(r.max()) for r in rows.values()) + 1
    order = np.random.default_rng(0).permutation(sum(counts))
    classes = np.split(order, np.cumsum(counts)[:2])
    labels_N = np.full(images, classes[0][0])
    for part, own in zip(("train", "val", "test_unseen"), classes, strict=True):
        in_test = np.isin(rows[part], rows["test_seen"])
        for some in (rows[part][in_test], rows[part][~in_test]):
            labels_N[some] = own[np.arange(len(some)) % len(own)]
    features_FN = images_of(content["att"].T, labels_N, noise=0.5).T
    savemat(folder / "res101.mat", {"features": features_FN, "labels": (labels_N + 1)[:, None]})
    return str(folder / "res101.mat"), str(path)


@pytest.mark.parametrize(
    ("name", "counts", "chance_times"),
    [
        ("AWA2/att_splits.mat", (27, 13, 10), 4),
        ("CUB/sent_splits.mat", (100, 50, 50), 10),
        ("SUN/att_splits.mat", (580, 65, 72), 10),
    ],
)
def test_published_splits(shared, tmp_path, name, counts, chance_times):
    path = shared / "data" / "xlsa17" / name
    content = loadmat(path)
    shuffled_KC = content["att"][:, np.random.default_rng(2).permutation(sum(counts))]
    savemat(tmp_path / "shuffled.mat", {"att": shuffled_KC, "allclasses_names": content["allclasses_names"]})
    summary, said = evaluate(
        published_files(path, tmp_path, counts), embeddings=str(tmp_path / "shuffled.mat"), random_draws=2
    )
    # As published, train_loc and val_loc hold all of test_seen_loc.
    test_seen = len(content["test_seen_loc"])
    assert said == summary["protocol"]["notes"] == [
        "controls: carried to unseen classes by shuffled itself; with --word-vectors, by the words of their names",
        f"choices: {test_seen} images of train_loc and val_loc are test images or outside trainval_loc: left out",
    ]  # fmt: skip
    assert list(summary["arms"]) == ["shuffled", "att", *CONTROLS]
    chance = 1 / counts[2]
    assert figures(summary, "att")["T1"] > chance_times * chance
    assert figures(summary, "att")["H"] > 2 * figures(summary, "shuffled")["H"]
    assert figures(summary, "shuffled")["T1"] < 0.6 * figures(summary, "att")["T1"]
    assert verdicts(summary, "shuffled")["att"] == "worse"
    # Nothing that knows of unseen classes by the shuffled attributes comes near.
    assert {verdicts(summary, "att")[arm] for arm in ("one_hot", "random", "permuted")} == {"better"}
    assert summary["protocol"]["classes"] == {"seen": counts[0] + counts[1], "unseen": counts[2]}
    assert summary["protocol"]["images"]["test_seen"] == test_seen
    per_class = summary["per_class"]["att"]["prototype"]["T1"][0]
    assert len(per_class) == counts[2]
    assert np.mean(list(per_class.values())) == pytest.approx(figures(summary, "att")["T1"], abs=1e-4)


# ---- files of embeddings


def test_every_kind_of_file_gives_the_figures_of_att(benchmark_files, tmp_path):
    e_CK = MadeBenchmark().att_CK
    other = np.random.default_rng(0).permutation(CLASSES)
    names = [NAMES[i].split(".")[1].replace("_", " ").replace("+", "-").upper() for i in other]
    savemat(tmp_path / "in_order.mat", {"att": e_CK.T})
    savemat(tmp_path / "named.mat", {"att": e_CK[other].T, "allclasses_names": cells(names)})
    np.savez(tmp_path / "mine.npz", class_names=names, class_embeddings=e_CK[other])
    pd.DataFrame(e_CK[other], index=names).to_csv(tmp_path / "third.csv", header=False, float_format="%.17g")
    paths = [str(tmp_path / name) for name in ("in_order.mat", "named.mat", "mine.npz", "third.csv")]
    summary, said = evaluate(benchmark_files, embeddings=paths)
    arms = ["in_order", "named", "mine", "third"]
    assert list(summary["arms"]) == [*arms, "att", *CONTROLS]
    for arm in arms:
        assert figures(summary, arm) == pytest.approx(figures(summary, "att")), arm
    assert [note for note in said if "names no classes" in note] == [
        f"{paths[0]} names no classes: rows are taken in the order of {benchmark_files[1]}"
    ]
    assert summary["protocol"]["embeddings"]["mine"] == {
        "file": paths[2], "width": e_CK.shape[1], "classes_matched": "by name"
    }  # fmt: skip
    # Every file against the files after it and against every control.
    assert list(verdicts(summary, "third")) == ["att", *CONTROLS]
    assert list(verdicts(summary, "in_order")) == [*arms[1:], "att", *CONTROLS]
    assert verdicts(summary, "in_order")["mine"] == "no difference shown"


def test_good_embeddings_beat_bad_ones_and_controls_and_not_the_oracle(benchmark_files, tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "noise.npz", class_names=NAMES, class_embeddings=rng.normal(size=(CLASSES, 10)))
    np.savez(tmp_path / "vgse.npz", class_names=NAMES, class_embeddings=MadeBenchmark().att_CK)
    summary, _ = evaluate(
        benchmark_files, embeddings=[str(tmp_path / f"{n}.npz") for n in ("noise", "vgse")], att=False,
        models=("eszsl", "prototype"), random_draws=3,
    )  # fmt: skip
    assert list(summary["arms"]) == ["noise", "vgse", *CONTROLS]
    assert summary["protocol"]["random_draws"] == 3
    for model in ("eszsl", "prototype"):
        assert figures(summary, "vgse", model)["T1"] > 3 / UNSEEN
        assert figures(summary, "noise", model)["T1"] < 2.5 / UNSEEN
        found = verdicts(summary, "vgse", model)
        # The controls know of unseen classes what noise, the first file, knows of them.
        assert {found["one_hot"], found["permuted"], found["random"]} == {"better"}
        assert verdicts(summary, "noise", model)["vgse"] == "worse"
        assert found["oracle"] in {"worse", "no difference shown"}
        assert figures(summary, "oracle", model)["T1"] > 0.9


def test_word_vectors_bring_the_word_arms_and_carry_the_controls(benchmark_files, tmp_path):
    words = sorted({word for name in NAMES for word in name.split(".")[1].replace("+", "_").split("_")})
    vectors = np.random.default_rng(1).normal(size=(len(words), 12))
    np.savez(tmp_path / "words.npz", words=words, vectors=vectors)
    plain, _ = evaluate(benchmark_files)
    summary, _ = evaluate(benchmark_files, word_vectors=str(tmp_path / "words.npz"))
    assert list(summary["arms"]) == ["att", "words_raw", "words_l2", "words_centred", *CONTROLS]
    assert "word vectors of the class names" in summary["protocol"]["relation_from"]
    assert plain["protocol"]["relation_from"].startswith("the embeddings of att themselves")
    # Carried by a relation solved on the true attributes, one_hot knows of unseen classes; by random words it does not.
    assert figures(plain, "one_hot")["T1"] > 3 / UNSEEN > figures(summary, "one_hot")["T1"]
    (tmp_path / "aliases.yaml").write_text(f"{NAMES[0]}: nowhere\n")
    with pytest.raises(DataError, match=r"--word-vectors has no vector for 1 class.*nowhere(.|\n)*--aliases-file"):
        evaluate(
            benchmark_files, word_vectors=str(tmp_path / "words.npz"), aliases_file=str(tmp_path / "aliases.yaml")
        )  # fmt: skip
    with pytest.raises(ConfigError, match="of no use without --word-vectors"):
        evaluate(benchmark_files, aliases_file=str(tmp_path / "aliases.yaml"))


def test_arm_names_are_the_files_own_and_never_a_controls():
    assert arm_name("a/b/mine.v2.npz", []) == "mine.v2"
    assert arm_name("s3://bucket/mine.npz", ["mine"]) == "mine_2"
    assert arm_name("mine.csv", ["mine", "mine_2"]) == "mine_3"
    for name in ("random", "random-2", "oracle", "words_l2", "att"):
        assert arm_name(f"{name}.csv", []) == f"{name}_file"


# ---- the protocol


def test_no_test_image_takes_part_in_a_choice(benchmark_files, tmp_path):
    made = MadeBenchmark()
    tests = np.concatenate([made.splits[f"{part}_loc"][:, 0] - 1 for part in ("test_seen", "test_unseen")])
    made.features["features"][:, tests] = np.nan
    (tmp_path / "nan").mkdir()
    benchmark = read_benchmark(Storage(), *made.write(tmp_path / "nan"))
    choice = choice_episode(benchmark, 0, lambda _: None).episode
    assert all(np.isfinite(getattr(choice, part).features_NF).all() for part in ("train", "test_seen", "test_unseen"))
    # Other test images change figures and no choice (the oracle's own is made from test images).
    rng = np.random.default_rng(0)
    made.features["features"][:, tests] = rng.random((made.features["features"].shape[0], len(tests)))
    (tmp_path / "noise").mkdir()
    before, after = evaluate(benchmark_files)[0], evaluate(made.write(tmp_path / "noise"))[0]
    assert after["protocol"]["chosen"]["att"] == before["protocol"]["chosen"]["att"]
    assert figures(after, "att")["T1"] < figures(before, "att")["T1"]


def test_choices_stand_on_the_published_classes_with_a_fifth_of_each_kept_aside(benchmark_files):
    benchmark = read_benchmark(Storage(), *benchmark_files)
    choice, final = choice_episode(benchmark, 0, lambda _: None), final_episode(benchmark)
    assert len(final.episode.train) == 14 * (CLASSES - UNSEEN)
    assert len(final.episode.test_unseen) == PER_CLASS * UNSEEN
    count = np.bincount(choice.episode.test_seen.labels_N, minlength=len(choice.classes))
    assert set(count[choice.episode.seen_C]) == {3}
    assert set(np.bincount(choice.episode.train.labels_N, minlength=len(count))[choice.episode.seen_C]) == {11}
    assert benchmark.val is not None
    np.testing.assert_array_equal(choice.classes[~choice.episode.seen_C], np.unique(benchmark.labels_N[benchmark.val]))
    assert choice.episode.class_names == tuple(benchmark.class_names[c] for c in choice.classes)
    same, other = (choice_episode(benchmark, seed, lambda _: None).episode for seed in (0, 1))
    np.testing.assert_array_equal(same.train.features_NF, choice.episode.train.features_NF)
    assert not np.array_equal(other.train.features_NF, choice.episode.train.features_NF)


@pytest.mark.parametrize("why", ["shared", "missing"])
def test_without_classes_for_choices_some_are_drawn_and_that_is_said(tmp_path, why):
    made = MadeBenchmark()
    if why == "missing":
        del made.splits["train_loc"], made.splits["val_loc"]
    else:
        half = len(made.splits["trainval_loc"]) // 2
        made.splits["train_loc"], made.splits["val_loc"] = np.split(made.splits["trainval_loc"], [half])
    summary, said = evaluate(made.write(tmp_path))
    seen = CLASSES - UNSEEN
    expected = "has no train_loc and val_loc" if why == "missing" else f"share {seen} classes"
    assert expected in said[1]
    assert said[2] == f"choices: {round(seen / 5)} of {seen} seen classes drawn as pseudo-unseen (seed 0)"
    assert summary["protocol"]["notes"] == said
    assert figures(summary, "att")["T1"] > 3 / UNSEEN


def test_as_published_is_told_everywhere(benchmark_files, tmp_path, capsys):
    out = tmp_path / "deep" / "evaluation.json"
    arguments = ["--features", benchmark_files[0], "--splits", benchmark_files[1], "--models", "eszsl", "prototype"]
    assert guarded(lambda: standalone_main([*arguments, "--as-published", "--out", str(out)])) == 0
    printed = capsys.readouterr().out
    summary = json.loads(out.read_text())
    assert summary["protocol"]["mode"] == "as-published"
    assert "for comparison with published tables only" in summary["protocol"]["choices"]
    assert all(c["sentence"].startswith(AS_PUBLISHED_TITLE) for c in summary["comparisons"])
    # Above the table and above the comparisons.
    assert " ".join(printed.split()).count(AS_PUBLISHED_TITLE.strip()) == printed.count("┏") + 1
    honest, _ = evaluate(benchmark_files, models=("eszsl", "prototype"))
    assert honest["protocol"]["mode"] == "honest"
    for model in ("eszsl", "prototype"):
        for figure in ("T1", "H"):
            assert figures(summary, "att", model)[figure] >= figures(honest, "att", model)[figure] - 1e-9


# ---- the command line


def test_the_command_prints_the_table_and_the_comparisons_and_writes_them(benchmark_files, tmp_path, capsys):
    np.savez(tmp_path / "mine.npz", class_names=NAMES, class_embeddings=MadeBenchmark().att_CK)
    out = tmp_path / "evaluation.json"
    standalone_main([
        "--features", benchmark_files[0], "--splits", benchmark_files[1], "--no-att", "--models", "prototype",
        "--embeddings", str(tmp_path / "mine.npz"), benchmark_files[1], "--out", str(out),
    ])  # fmt: skip
    printed, summary = capsys.readouterr().out, json.loads(out.read_text())
    # att_splits.mat given as a file goes by its own name, once.
    assert list(summary["arms"]) == ["mine", "att_splits", *CONTROLS]
    assert f"{100 * figures(summary, 'mine')['T1']:.1f}" in printed
    assert "mine in PROTOTYPE over" in printed
    assert "AS PUBLISHED" not in printed
    assert summary["comparisons"][0]["sentence"].startswith("mine over att_splits: T1 0.0 [")


def broken(folder: Path, change) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    made = MadeBenchmark()
    change(made)
    features, splits = made.write(folder)
    return ["--features", features, "--splits", splits]


def test_bad_input_ends_with_exit_code_2_and_a_remedy(benchmark_files, tmp_path, capsys):
    good = ["--features", benchmark_files[0], "--splits", benchmark_files[1]]
    np.savez(tmp_path / "short.npz", class_names=NAMES[1:], class_embeddings=np.ones((CLASSES - 1, 4)))
    cases = {
        "there is nothing to judge": [*good, "--no-att"],
        "none.mat does not exist": ["--features", str(tmp_path / "none.mat"), "--splits", benchmark_files[1]],
        f"no embedding for 1 of {CLASSES} classes: {NAMES[0]}": [*good, "--embeddings", str(tmp_path / "short.npz")],
        "the key labels is missing": broken(tmp_path / "1", lambda made: made.features.pop("labels")),
        "the key att is missing": broken(tmp_path / "2", lambda made: made.splits.pop("att")),
        "holds image number 9999": broken(tmp_path / "3", lambda made: made.splits.update(val_loc=[[9999]])),
        "models": [*good, "--models"],
        "seed": [*good, "--seed", "-1"],
    }
    for message, arguments in cases.items():
        try:
            code = guarded(lambda arguments=arguments: standalone_main(arguments))
        except SystemExit as end:
            # What the command line itself does not understand is told by its parser.
            code = end.code
        printed = capsys.readouterr()
        assert code == 2, message
        assert message in printed.err + printed.out
        assert "Traceback" not in printed.err


def test_it_runs_without_ray():
    code = "import sys, vgse.zsl.standalone; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

"""Configuration: what is accepted, and that a refusal names the field, what is allowed and the nearest right name."""

import subprocess
import sys

import pytest
import yaml

from vgse.config import Config
from vgse.config_loading import apply_overrides, field_paths, fingerprint, load_config, parse_config
from vgse.config_warnings import config_warnings
from vgse.errors import ConfigError

MINIMAL = {"run": "r", "data": {"images": "i", "classes": "c", "word_vectors": "w"}}


def refused(**sections):
    with pytest.raises(ConfigError) as caught:
        parse_config({**MINIMAL, **sections}, "test.yaml")
    return str(caught.value)


def test_minimal_configuration_takes_the_papers_defaults():
    config = parse_config(MINIMAL, "test.yaml")
    assert config.crop.patches == 9
    assert config.cluster.num_clusters == 150
    assert (config.cluster.lambda_pel, config.cluster.beta_cls, config.cluster.gamma_sem) == (5.0, 1.0, 1.0)
    assert (config.relate.alpha, config.relate.ridge) == (0.0, 0.5)
    assert config.data.images == ("i",)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"relate": {"alhpa": 0}}, "relate.alhpa: unknown key; did you mean relate.alpha?"),
        ({"clusters": {}}, "clusters: unknown key; did you mean cluster?"),
        ({"num_clusters": 5}, "num_clusters: unknown key; did you mean cluster.num_clusters?"),
        ({"relate": {"alpha": 0.5}}, "relate.alpha: Input should be less than or equal to 0"),
        ({"relate": {"alpha": -1.5}}, "relate.alpha: Input should be greater than or equal to -1"),
        ({"cluster": {"num_clusters": 1}}, "cluster.num_clusters: Input should be greater than or equal to 2"),
        ({"crop": {"method": "slic"}}, "crop.method: Input should be 'watershed' or 'grid'"),
        ({"cluster": {"epochs": "many"}}, "cluster.epochs: Input should be a valid integer"),
        ({"data": {"images": "i", "classes": "c"}}, "data.word_vectors: missing"),
    ],
)
def test_refusals_name_field_and_remedy(sections, said):
    assert said in refused(**sections)


def test_frozen_clustering_of_an_untrained_network_is_refused():
    assert "cluster.mode" in refused(encode={"backbone": "tiny", "weights": "none"})


def test_all_wrong_fields_are_named_at_once():
    message = refused(relate={"alpha": 1}, cluster={"epochs": 0})
    assert "relate.alpha" in message
    assert "cluster.epochs" in message


def test_every_field_has_a_sentence():
    for path in field_paths():
        model = Config
        *parents, name = path.split(".")
        for parent in parents:
            model = model.model_fields[parent].annotation
        description = model.model_fields[name].description
        assert description, path
        assert description.rstrip().endswith("."), path


def test_overrides_are_typed_and_credentials_survive_them():
    config = parse_config({**MINIMAL, "storage": {"key": "AKIDEXAMPLE", "secret": "very-secret"}}, "test.yaml")
    changed = apply_overrides(config, ["--relate.alpha", "-0.05", "--data.images", "a", "b"])
    assert changed.relate.alpha == -0.05
    assert changed.data.images == ("a", "b")
    assert changed.storage.secret.get_secret_value() == "very-secret"
    assert config.relate.alpha == 0.0


def test_credentials_are_neither_printed_nor_written():
    config = parse_config({**MINIMAL, "storage": {"key": "AKIDEXAMPLE", "secret": "very-secret"}}, "test.yaml")
    for text in (repr(config), str(config), yaml.safe_dump(config.public_dict())):
        assert "very-secret" not in text
        assert "AKIDEXAMPLE" not in text


def test_missing_file_names_the_nearest(tmp_path):
    (tmp_path / "cifar100.yaml").write_text("run: r")
    with pytest.raises(ConfigError, match=r"did you mean .*cifar100\.yaml"):
        load_config(tmp_path / "cifar10.yaml")


def test_unreadable_yaml_names_the_line(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("run: [r\ndata: }")
    with pytest.raises(ConfigError, match="line 2"):
        load_config(path)


def test_fingerprint_ignores_order_and_sees_values():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_unwise_settings_are_warned_about():
    said = config_warnings(parse_config({**MINIMAL, "cluster": {"num_clusters": 10}}, "test.yaml"))
    assert any("num_clusters" in sentence for sentence in said)


@pytest.mark.parametrize("override", [["--relate.alpha", "0.5"], ["--relate.alhpa", "0"], ["--cluster.epochs", "x"]])
def test_a_wrong_override_ends_the_command_with_2(tmp_path, override):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    done = subprocess.run(
        [sys.executable, "-m", "vgse.cli", "check", str(path), *override], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert override[0].removeprefix("--").rpartition(".")[2][:4] in done.stdout + done.stderr
    assert "Traceback" not in done.stderr

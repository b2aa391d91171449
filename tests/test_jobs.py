"""What `ray job submit --working-dir .` ships, and that the job scripts are all there."""

import ast
import logging
import zipfile
from pathlib import Path

from ray._private.runtime_env.packaging import create_package

from vgse.config_loading import load_config
from vgse.receipts import STAGES

ROOT = Path(__file__).parents[1]
MOST_BYTES = 3_000_000


def test_a_job_ships_the_code_and_little_else(tmp_path):
    package = tmp_path / "package.zip"
    create_package(str(ROOT), package, include_gitignore=True, excludes=[], logger=logging.getLogger("test"))
    with zipfile.ZipFile(package) as shipped:
        names = {name.removeprefix(f"{ROOT.name}/") for name in shipped.namelist()}
        unpacked = sum(entry.file_size for entry in shipped.infolist())
    assert package.stat().st_size < MOST_BYTES
    assert unpacked < 2 * MOST_BYTES
    needed = {"jobs/run.py", "jobs/configs/imagenet.yaml", "cluster.yaml", "jobs/rayjob.yaml", "vgse/cli.py",
              "vgse/pipeline/fleet/instances.yaml", "vgse/data/demo_words.txt", "pyproject.toml"}  # fmt: skip
    assert needed <= names
    assert not [
        name for name in names if name.split("/")[0] in {".venv", ".git", "tests", "benchmarks", "runs", "notes"}
    ]


def test_there_is_a_job_for_every_command():
    for command in (*STAGES, "run", "check"):
        source = (ROOT / "jobs" / f"{command}.py").read_text()
        assert len(source.splitlines()) < 80
        calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
        assert [call.args[0].value for call in calls if getattr(call.func, "id", "") == "job"] == [command]


def test_every_configuration_of_a_job_is_valid():
    for path in sorted((ROOT / "jobs/configs").glob("*.yaml")):
        load_config(path)

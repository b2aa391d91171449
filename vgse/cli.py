"""The `vgse` command: every stage by name, all of them, and the questions around them.

Exit codes: 0 done; 2 the configuration or data is wrong (said without a traceback); 1 anything else.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from vgse import __version__
from vgse.config import Config
from vgse.config_loading import load_config
from vgse.errors import UserError, VgseError
from vgse.receipts import STAGES

_COMMANDS = {
    "run": "all stages: crop, encode, cluster, embed, relate, evaluate",
    "crop": "images to patch shards; --retry-quarantined tries those again that could not be used",
    "encode": "pixels to features of the frozen backbone",
    "cluster": "train the patch-clustering network",
    "embed": "class embeddings of the seen classes",
    "relate": "class embeddings of the unseen classes",
    "evaluate": "zero-shot and generalised zero-shot figures, with controls; also of anyone's files (--features ...)",
    "tune": "a campaign of trials over the search space in `tune`: the best settings on the val classes",
    "check": "read and check everything a run needs, without running it",
    "status": "what a run directory holds, and proof that every image is accounted for; --verify reads every byte",
    "demo": "the whole way on a small embedded data set, no download",
}
_RETRY = "--retry-quarantined"
_EPILOG = """\
vgse run CONFIG.yaml                          run or continue
vgse run CONFIG.yaml --relate.alpha -0.05     with a setting changed (re-runs what it touches, and only that)
vgse run CONFIG.yaml --help                   every setting with its meaning
vgse check CONFIG.yaml --on cluster.yaml       where each stage runs on a cluster, how long, at what price
  --images N --seen N --unseen N               ... planned from counts, reading no data
vgse tune CONFIG.yaml                         runs or continues a campaign over the file's `tune` section
vgse evaluate --features res101.mat --splits att_splits.mat --embeddings mine.npz
                                              anyone's embeddings, judged the same way
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point of the `vgse` command."""
    sys.exit(guarded(lambda: _dispatch(list(sys.argv[1:] if arguments is None else arguments))))


def job(command: str) -> None:
    """The entry point of `python jobs/<command>.py CONFIG [overrides]`, for `ray job submit`."""
    sys.exit(guarded(lambda: _dispatch([command, *sys.argv[1:]])))


def guarded(work: Callable[[], None]) -> int:
    """Runs `work` and turns what it raises into the exit code of the contract, with a message a user can act on."""
    try:
        work()
    except VgseError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept, the same command continues", file=sys.stderr)
        return 1
    except Exception as error:
        known = _known_cause(error)
        if known is None:
            raise
        print(f"error: {known}", file=sys.stderr)
        return known.exit_code
    return 0


def _dispatch(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="vgse",
        description="Visually-grounded semantic embeddings for zero-shot learning.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"vgse {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, said in _COMMANDS.items():
        sub = commands.add_parser(name, help=said, description=said, add_help=False)
        sub.add_argument("rest", nargs=argparse.REMAINDER)
    command = arguments[0] if arguments else ""
    if command not in _COMMANDS:
        parser.parse_args(arguments)
    rest = arguments[1:]
    if command == "evaluate" and rest and rest[0].startswith("--") and rest[0] != "--help":
        from vgse.zsl.standalone import standalone_main

        standalone_main(rest)
    elif command == "demo":
        _demo(rest)
    elif command == "status":
        _status(rest)
    else:
        if command == "check":
            _check(rest)
        elif command == "tune":
            from vgse.pipeline.tune import tune

            tune(_config(command, rest))
        else:
            retry = command == "crop" and _RETRY in rest
            rest = [argument for argument in rest if not (retry and argument == _RETRY)]
            run(_config(command, rest), STAGES if command == "run" else [command], retry_quarantined=retry)


def _config(command: str, rest: list[str]) -> Config:
    if not rest or rest[0].startswith("-"):
        if rest and rest[0] in {"-h", "--help"}:
            load_config_help(command)
        raise UserError(
            f"vgse {command}: the configuration file is missing",
            f"vgse {command} CONFIG.yaml [--section.field VALUE ...]",
        )
    return load_config(rest[0], rest[1:], program=f"vgse {command}")


def load_config_help(command: str) -> None:
    """Prints every setting with its meaning and default, and exits 0."""
    import tyro

    tyro.cli(Config, args=["--help"], prog=f"vgse {command} CONFIG.yaml")


def run(config: Config, stages: Sequence[str], *, retry_quarantined: bool = False) -> None:
    """Runs `stages` of a checked configuration and prints what came of it."""
    from vgse.pipeline.plan import announced_plan
    from vgse.pipeline.stage import run_stages

    plan = announced_plan(config)
    if retry_quarantined:
        from vgse.pipeline import crop

        print(f"{crop.retry_quarantined(plan):,} quarantined images are tried again", flush=True)
    run_stages(plan, stages)
    if "evaluate" in stages:
        from vgse.pipeline.evaluate import print_results

        print_results(plan)


def _check(rest: list[str]) -> None:
    from vgse.pipeline.check import check
    from vgse.pipeline.fleet.report import ClusterQuestion

    question, rest = ClusterQuestion.parse(rest)
    for line in check(_config("check", rest), question):
        print(line)


def _status(rest: list[str]) -> None:
    from vgse.pipeline.check import status

    targets = [argument for argument in rest if argument != "--verify"]
    if len(targets) != 1 or targets[0].startswith("-"):
        raise UserError(
            "vgse status takes one run", "vgse status RUN_DIRECTORY or CONFIG.yaml, with or without --verify"
        )
    for line in status(targets[0], verify_shards=targets != rest):
        print(line)


def _demo(rest: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="vgse demo", description=_COMMANDS["demo"])
    parser.add_argument("--out", default="demo-run", help="folder for the images and the run (default: demo-run)")
    options, overrides = parser.parse_known_args(rest)
    from vgse.pipeline.demo import demo_config

    run(demo_config(Path(options.out), overrides), STAGES)


def _known_cause(error: BaseException | None) -> VgseError | None:
    """The typed error behind what Ray wrapped around it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, VgseError):
            return error
        seen.add(id(error))
        error = getattr(error, "cause", None) or error.__cause__ or error.__context__
    return None


if __name__ == "__main__":
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    main()

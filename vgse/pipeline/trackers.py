"""MLflow and Weights & Biases, where they are installed and asked for (`cluster.log_to`).

They run where `vgse` was started, since that is where packages, addresses (`MLFLOW_TRACKING_URI`, `WANDB_MODE`) and
credentials are; workers only report figures. Every fit becomes one run there, which a continued training finds again
and goes on with. A tracker that fails is left out with a warning: figures stand in metrics.jsonl all the same.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from vgse.config_loading import fingerprint
from vgse.errors import ConfigError

_PACKAGES = {"mlflow": "mlflow-skinny", "wandb": "wandb"}
_PROJECT = "vgse"


class Tracker(Protocol):
    """One service, with at most one fit open at a time."""

    def open(self, run: str, fit: str, settings: dict[str, Any]) -> None:
        """Begins the fit's run, or takes up the one that an earlier start began."""
        ...

    def log(self, figures: dict[str, float]) -> None:
        """Records an epoch, unless it was recorded before."""
        ...

    def close(self) -> None:
        """Ends the fit's run."""
        ...


def check_trackers(log_to: Sequence[str]) -> None:
    """Whether the packages that `cluster.log_to` needs are installed on this machine.

    Raises:
        ConfigError: one is not.
    """
    for name in log_to:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"cluster.log_to asks for {name}, which is not installed here",
                f"pip install {_PACKAGES[name]}, or take {name} out of cluster.log_to",
            )


class Trackers:
    """All trackers asked for; every call is safe to make whatever state the services are in.

    Args:
        log_to: their names.
        run: the run directory, whose name the runs carry.
        settings: of the fits, plain data to be shown beside the figures.
        warn: takes a sentence for the user.
    """

    def __init__(self, log_to: Sequence[str], run: str, settings: dict[str, Any], warn: Callable[[str], None]) -> None:
        self._run, self._settings, self._warn = run, settings, warn
        self._trackers = {name: _TRACKERS[name]() for name in log_to}
        self._fit: str | None = None

    def epoch(self, figures: dict[str, Any]) -> None:
        """Records an epoch of the fit `figures["fit"]`; a new fit closes the one before."""
        fit = str(figures["fit"])
        numbers = {name: float(value) for name, value in figures.items() if name != "fit"}
        for name in list(self._trackers):
            self._safely(name, self._record, fit, numbers)
        self._fit = fit

    def close(self) -> None:
        """Ends what is open."""
        if self._fit is not None:
            for name in list(self._trackers):
                self._safely(name, lambda tracker: tracker.close())
        self._fit = None

    def _record(self, tracker: Tracker, fit: str, figures: dict[str, float]) -> None:
        if fit != self._fit:
            if self._fit is not None:
                tracker.close()
            tracker.open(self._run, fit, self._settings)
        tracker.log(figures)

    def _safely(self, name: str, call: Callable[..., None], *rest: Any) -> None:
        try:
            call(self._trackers[name], *rest)
        except Exception as error:
            # Whatever a service on the network throws, hours of training must not end with it.
            del self._trackers[name]
            reason = str(error).split("\n")[0][:200]
            self._warn(f"warning: {name} failed ({type(error).__name__}: {reason}); figures stand in metrics.jsonl")


class Mlflow:
    """Runs of the experiment `vgse`, tagged with run directory and fit."""

    def open(self, run: str, fit: str, settings: dict[str, Any]) -> None:
        """See `Tracker`."""
        client = importlib.import_module("mlflow").MlflowClient()
        found = client.get_experiment_by_name(_PROJECT)
        experiment = found.experiment_id if found else client.create_experiment(_PROJECT)
        tags = {"vgse.run": run, "vgse.fit": fit, "vgse.settings": fingerprint(settings)}
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        before = client.search_runs([experiment], wanted, max_results=1)
        if before:
            self._id = before[0].info.run_id
            client.update_run(self._id, status="RUNNING")
        else:
            self._id = client.create_run(experiment, tags=tags, run_name=f"{run.rsplit('/', 1)[-1]} {fit}").info.run_id
            for key, value in settings.items():
                client.log_param(self._id, key, value)
        self._last = max((metric.step for metric in client.get_metric_history(self._id, "loss")), default=0)
        self._client = client

    def log(self, figures: dict[str, float]) -> None:
        """See `Tracker`."""
        step = int(figures["epoch"])
        if step > self._last:
            for name, value in figures.items():
                self._client.log_metric(self._id, name, value, step=step)
            self._last = step

    def close(self) -> None:
        """See `Tracker`."""
        self._client.set_terminated(self._id)


class Wandb:
    """Runs of the project `vgse`, in the group of their run directory."""

    def open(self, run: str, fit: str, settings: dict[str, Any]) -> None:
        """See `Tracker`."""
        wandb = importlib.import_module("wandb")
        self._run = wandb.init(
            project=_PROJECT,
            group=run.rsplit("/", 1)[-1],
            name=fit,
            id=fingerprint([run, fit, settings]),
            config=settings,
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(silent=True),
        )
        # The step that comes next: epochs before it are there already.
        self._next = int(self._run.step)

    def log(self, figures: dict[str, float]) -> None:
        """See `Tracker`."""
        step = int(figures["epoch"])
        if step >= self._next:
            self._run.log(figures, step=step)
            self._next = step + 1

    def close(self) -> None:
        """See `Tracker`."""
        self._run.finish()


_TRACKERS: dict[str, type[Mlflow] | type[Wandb]] = {"mlflow": Mlflow, "wandb": Wandb}

"""Scoring a trial: what a network's class embeddings reach on the val classes under every scored setting.

A relation depends on what classes are known by and not on the network, so every r is found once per campaign; so are
the decompositions of the images that trials are judged on. What is left per trial and setting is a product and ESZSL's
grid, which Ray tasks do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import ray
from threadpoolctl import threadpool_limits

from vgse.config import Config
from vgse.config_loading import fingerprint
from vgse.data.knowledge import check_weights
from vgse.pipeline.accounts import committed_images
from vgse.pipeline.evaluate import problem_episode, zsl_settings
from vgse.pipeline.normal_equations import accumulated
from vgse.pipeline.plan import Plan, make_plan
from vgse.pipeline.problems import Problem, Round
from vgse.pipeline.validation import problem_relation
from vgse.tuning.space import Space
from vgse.zsl.choosing import choose
from vgse.zsl.controls import carried
from vgse.zsl.episode import Episode
from vgse.zsl.eszsl import EszslStatistics
from vgse.zsl.models import zsl_models
from vgse.zsl.prepared import PreparedEpisode, scaled_embeddings
from vgse.zsl.settings import ZslSettings


@dataclass(frozen=True)
class ScoredSetting:
    """One scored setting made ready: r_US by the choice problem's name, and the evaluation's settings."""

    relations: dict[str, np.ndarray]
    settings: ZslSettings


@dataclass(frozen=True)
class Judge:
    """All that trials on the same features are judged by.

    Attributes:
        rounds: the choice problems (folds) of every scored class split and seed.
        scored: the scored settings, in order.
        episodes: references to the prepared episodes, by problem name.
    """

    rounds: tuple[tuple[Problem, ...], ...]
    scored: list[ScoredSetting]
    episodes: dict[str, Any]

    def figures(self, number: int, phi_SK: dict[str, np.ndarray]) -> dict[str, float]:
        """val_T1 and val_H of one scored setting as `vgse evaluate` finds them while it makes its choices: the mean
        over class splits and seeds of the best mean over folds.

        Args:
            number: of the setting.
            phi_SK: seen embeddings by problem name.
        """
        scored = self.scored[number]
        settings = scored.settings
        (model,) = zsl_models(settings.models).values()
        found = []
        for problems in self.rounds:
            episodes = [_episode(self.episodes[problem.name]) for problem in problems]
            embeddings = [
                scaled_embeddings(
                    carried(phi_SK[problem.name], scored.relations[problem.name], problem.seen_mask),
                    problem.seen_mask,
                    settings.centre_embeddings,
                    settings.match_lengths,
                )
                for problem in problems
            ]
            choice = choose(model, embeddings, episodes, settings)
            found.append((choice.T1, choice.H))
        T1, H = np.mean(found, axis=0).tolist()
        return {"val_T1": T1, "val_H": H}


def scored_settings(plan: Plan, space: Space, rounds: Sequence[Round]) -> list[ScoredSetting]:
    """Every scored setting with its relations.

    Raises:
        UserError: a setting that cannot be used, such as a text file that is not there.
    """
    found, plans = [], {_known_by(plan.config): plan}
    for settings in space.relations():
        config = space.config(settings)
        known = _known_by(config)
        if known not in plans:
            plans[known] = make_plan(config)
        of_setting = replace(plans[known], config=config)
        check_weights(config.knowledge.weights, list(of_setting.sources))
        relations = {problem.name: problem_relation(of_setting, problem) for each in rounds for problem in each.choices}
        zsl = replace(zsl_settings(config), models=(space.base.tune.model,))
        found.append(ScoredSetting(relations, zsl))
    return found


def _known_by(config: Config) -> str:
    """What decides the sources that are read; their weights are applied afterwards."""
    return fingerprint(config.knowledge.model_dump(mode="json", exclude={"weights"}))


class Episodes:
    """The episodes of every scored class split, being prepared by Ray tasks; a single small one is prepared here, where
    everything has been imported.

    Args:
        plan: with the features that trials are judged on.
        rounds: what is scored.
        model: the zero-shot model that is judged.
    """

    def __init__(self, plan: Plan, rounds: Sequence[Round], model: Any) -> None:
        frame, settings = committed_images(plan), replace(zsl_settings(plan.config), models=(model,))
        task: Any = ray.remote(num_cpus=1, num_returns=2, max_retries=3)(_prepare)
        self._rounds = tuple(each.choices for each in rounds)
        problems = [problem for problems in self._rounds for problem in problems]
        self._prepared: dict[str, tuple[Any, Any]] = {}
        self._left: dict[str, Callable[[], Any]] = {}
        for problem in problems:
            episode = problem_episode(plan, frame, problem)
            work = (episode, accumulated(episode, settings), settings)
            if len(problems) == 1 and work[1] is None:
                self._left[problem.name] = partial(_prepare, *work)
            else:
                self._prepared[problem.name] = task.remote(*work)

    def judge(self, scored: list[ScoredSetting]) -> Judge:
        """The judge, once all episodes are prepared.

        Raises:
            DataError: images that nothing can be judged on.
        """
        here = {name: ray.put(prepare()[0]) for name, prepare in self._left.items()}
        ray.get([done for _, done in self._prepared.values()])
        return Judge(self._rounds, scored, here | {name: episode for name, (episode, _) in self._prepared.items()})


def _prepare(episode: Episode, statistics: EszslStatistics | None, settings: ZslSettings) -> tuple[Any, bool]:
    # On one thread wherever it runs: more of them would round otherwise, and a figure should be the evaluation's.
    with threadpool_limits(1):
        return PreparedEpisode(episode, settings, statistics), True


def scored_in_parallel(judge: Any, count: int, phi_SK: dict[str, np.ndarray], own: int) -> list[dict[str, float]]:
    """The figures of all scored settings, in order: a share here, the others by Ray tasks.

    Tasks on the other CPUs of this trial, which only waits, ask for none; further ones run where CPUs are free at the
    moment. What one of these has not done in the time of our own share is done here after all, since another trial may
    have been quicker to take the CPU.

    Args:
        judge: reference to a `Judge`.
        count: its scored settings.
        phi_SK: seen embeddings by problem name.
        own: CPUs of the trial.
    """
    lanes = own + int(ray.available_resources().get("CPU", 0))
    here, *others = [range(count)[first::lanes] for first in range(min(lanes, count))]
    embeddings = ray.put(phi_SK) if others else None
    task: Any = ray.remote(max_retries=3)(_score)
    mine, free = task.options(num_cpus=0), task.options(num_cpus=1, scheduling_strategy="DEFAULT")
    waited_for = {group: mine.remote(judge, embeddings, group) for group in others[: own - 1]}
    elsewhere = {group: free.remote(judge, embeddings, group) for group in others[own - 1 :]}
    began, known = time.monotonic(), ray.get(judge)
    found = _score(known, phi_SK, here)
    share_s = time.monotonic() - began
    for group, reference in elsewhere.items():
        if ray.wait([reference], timeout=share_s)[0]:
            found.update(ray.get(reference))
        else:
            ray.cancel(reference)
            found.update(_score(known, phi_SK, group))
    for reference in waited_for.values():
        found.update(ray.get(reference))
    return [found[number] for number in range(count)]


def _score(judge: Judge, phi_SK: dict[str, np.ndarray], numbers: range) -> dict[int, dict[str, float]]:
    with threadpool_limits(1):
        return {number: judge.figures(number, phi_SK) for number in numbers}


@lru_cache(maxsize=16)
def _episode(reference: Any) -> PreparedEpisode:
    """Kept in the process for the next trial, with what it has mapped of the images."""
    return ray.get(reference)

"""The relation solver against its targets, and against cvxpy + Clarabel and SciPy's NNLS. One core.

    python benchmarks/bench_relate.py --seen 1000 --unseen 20842 --dim 300 --alpha 0
    python benchmarks/bench_relate.py --seen 1000 --unseen 20000 --alpha -0.05 --real-words PATH_TO_WORD2VEC_BIN

The last line is a JSON object. `ms_per_class` is the median over the repeats of everything from word vectors to
certified answers (scaling, factorisations, solving, certificate), after one small warm-up that compiles the kernels.
`max_gap` is the largest proven gap relative to the objective, as `vgse.relation.solve.tolerance` measures it
(`max_gap` <= 1e-9 is the target); `max_violation` the largest breach of the constraints by the answers as returned.
"""

# ruff: noqa: E402
import os

# Before NumPy is loaded: the claim is one core.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse
import collections
import json
import resource
import time

import numpy as np
from scipy import optimize

from vgse.relation import Problem, Relations, prepare, relate
from vgse.relation.solve import GAP_TOLERANCE, tolerance


def main() -> None:
    arguments = _arguments()
    words_UW, words_SW = _words(arguments)
    settings = {"alpha": arguments.alpha, "ridge": arguments.ridge}
    seconds_to_start = _timed(lambda: relate(words_UW[:2], words_SW[:20], **settings))[0]
    # The peak is read before anything else grows the process: NNLS and cvxpy would count as ours.
    times = []
    for _ in range(arguments.repeats):
        relations = None  # so that two answers are never held at once
        seconds, relations, cpu_seconds = _timed(lambda: relate(words_UW, words_SW, **settings))
        times.append((seconds * 1e3 / len(words_UW), cpu_seconds * 1e3 / len(words_UW)))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    problem = prepare(words_SW, **settings)
    ms, cpu_ms = (float(np.median(column)) for column in zip(*times, strict=True))
    cvxpy_ms, disagreement = _cvxpy(words_UW, words_SW, arguments, relations)
    nnls_ms = _nnls(words_UW, words_SW, arguments)
    methods = collections.Counter(relations.method_U)
    result = {
        "seen": len(words_SW), "unseen": len(words_UW), "dim": words_SW.shape[1], **settings,
        "words": "real" if arguments.real_words else "gaussian",
        "ms_per_class": round(ms, 4),
        "cpu_ms_per_class": round(cpu_ms, 4),
        "ms_per_class_runs": [round(wall, 4) for wall, _ in times],
        "max_gap": float((relations.gap_U / _measure(problem, words_UW, relations)).max()),
        "max_violation": _violation(relations, arguments.alpha),
        "cvxpy_ms_per_class": cvxpy_ms and round(cvxpy_ms, 2),
        "speedup_cvxpy": cvxpy_ms and round(cvxpy_ms / ms, 1),
        "objective_above_cvxpy": disagreement,
        "nnls_ms_per_class": nnls_ms and round(nnls_ms, 3),
        "speedup_nnls": nnls_ms and round(nnls_ms / ms, 1),
        "peak_rss_mb": round(peak_mb), "warm_up_s": round(seconds_to_start, 2),
        "fallbacks": methods["fallback"], "methods": dict(methods),
    }  # fmt: skip
    print(json.dumps(result))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seen", type=int, default=1000)
    parser.add_argument("--unseen", type=int, default=2000)
    parser.add_argument("--dim", type=int, default=300, help="ignored with --real-words")
    parser.add_argument("--alpha", type=float, default=0.0)
    parser.add_argument("--ridge", type=float, default=0.0)
    parser.add_argument("--real-words", metavar="FILE", help="word2vec binary; classes are drawn from its words")
    parser.add_argument("--normalise", action="store_true", help="centre on the seen mean and L2-normalise each vector")
    parser.add_argument("--repeats", type=int, default=3, help="at least 1")
    parser.add_argument("--compare", type=int, default=5, help="classes given to cvxpy (0: do not compare)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _words(arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(arguments.seed)
    total = arguments.seen + arguments.unseen
    if arguments.real_words:
        from gensim.models import KeyedVectors

        words = KeyedVectors.load_word2vec_format(arguments.real_words, binary=True).vectors.astype(np.float64)
        if total > len(words):
            raise SystemExit(f"--seen + --unseen is {total} but the file has {len(words)} words")
        words = words[generator.permutation(len(words))[:total]]
    else:
        words = generator.standard_normal((total, arguments.dim))
    seen, unseen = words[: arguments.seen], words[arguments.seen :]
    if arguments.normalise:
        mean = seen.mean(axis=0)
        seen, unseen = ((part - mean) / np.linalg.norm(part - mean, axis=1, keepdims=True) for part in (seen, unseen))
    return unseen, seen


def _timed(call):
    """Seconds by the clock, the result, and seconds of processor time (the figure on a machine that others use too)."""
    start, start_cpu = time.perf_counter(), time.process_time()
    result = call()
    return time.perf_counter() - start, result, time.process_time() - start_cpu


def _measure(problem: Problem, words_UW: np.ndarray, relations: Relations) -> np.ndarray:
    unit = problem.scale**2
    return tolerance(problem, problem.centre(words_UW), relations.objective_U / unit) / GAP_TOLERANCE * unit


def _violation(relations: Relations, alpha: float) -> float:
    worst = 0.0
    for start in range(0, len(relations.method_U), 1024):
        rows = relations.r_US[start : start + 1024]
        r_BS = rows if isinstance(rows, np.ndarray) else rows.toarray()
        worst = max(worst, alpha - r_BS.min(), r_BS.max() - 1.0, np.abs(r_BS.sum(axis=1) - 1.0).max())
    return float(worst)


def _cvxpy(words_UW, words_SW, arguments, relations) -> tuple[float | None, float | None]:
    """Milliseconds per class, and the largest (our objective - theirs) relative to theirs."""
    if not arguments.compare:
        return None, None
    import cvxpy as cp

    centre = words_SW.mean(axis=0)
    r, w = cp.Variable(len(words_SW)), cp.Parameter(words_SW.shape[1])
    objective = 0.5 * cp.sum_squares(w - (words_SW - centre).T @ r)
    if arguments.ridge:
        objective += 0.5 * arguments.ridge * cp.sum_squares(r)
    # w as a parameter, so that cvxpy's canonicalisation is paid once and not per class.
    problem = cp.Problem(cp.Minimize(objective), [cp.sum(r) == 1, r >= arguments.alpha, r <= 1])
    w.value = words_UW[0] - centre
    problem.solve(solver=cp.CLARABEL)
    times, above = [], []
    for u in range(min(arguments.compare, len(words_UW))):
        w.value = words_UW[u] - centre
        times.append(_timed(lambda: problem.solve(solver=cp.CLARABEL))[0])
        scale = max(abs(problem.value), 1e-3 * 0.5 * float(w.value @ w.value))
        above.append(float(relations.objective_U[u] - problem.value) / scale)
    return float(np.median(times)) * 1e3, max(above)


def _nnls(words_UW, words_SW, arguments) -> float | None:
    """SciPy's NNLS with the sum as a heavily weighted row: the usual way at alpha = 0, only approximately feasible."""
    if not arguments.compare or arguments.alpha != 0.0 or arguments.ridge or len(words_SW) > 2000:
        return None
    centre = words_SW.mean(axis=0)
    weight = 1e4 * float(np.abs(words_SW).max())
    matrix = np.vstack([(words_SW - centre).T, np.full((1, len(words_SW)), weight)])
    times = []
    for u in range(min(4 * arguments.compare, len(words_UW))):
        right = np.append(words_UW[u] - centre, weight)
        times.append(_timed(lambda right=right: optimize.nnls(matrix, right))[0])
    return float(np.median(times)) * 1e3


if __name__ == "__main__":
    main()

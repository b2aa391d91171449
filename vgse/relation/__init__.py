"""The relation of unseen to seen classes by their word vectors: exact, certified, at ImageNet-21K size.

`relate` solves the paper's constrained least squares for every unseen class; `prepare` and `relate_prepared` are its
two halves for callers that work in chunks. `weighted_average` is the paper's other relation. Pure NumPy and SciPy,
with Numba where it can be had.
"""

from vgse.relation.advise import advise
from vgse.relation.prepare import prepare
from vgse.relation.problem import Problem
from vgse.relation.relations import Relations
from vgse.relation.solve import relate, relate_prepared
from vgse.relation.weighted_average import weighted_average

__all__ = ["Problem", "Relations", "advise", "prepare", "relate", "relate_prepared", "weighted_average"]

"""The relation of unseen to seen classes by what they are known by: exact, certified, at ImageNet-21K size.

`relate` solves the paper's constrained least squares for every unseen class; `prepare` and `relate_prepared` are its
two halves for callers that work in chunks. `weighted_average` is the paper's other relation, `kernel_ridge` the field's
usual regression; `PreparedRelation` is any of them by name, or their mean. Pure NumPy and SciPy, with Numba where it
can be had.
"""

from vgse.relation.advise import advise
from vgse.relation.kernel_ridge import kernel_ridge
from vgse.relation.methods import METHODS, PreparedRelation, RelationSettings, joined
from vgse.relation.prepare import prepare
from vgse.relation.problem import Problem
from vgse.relation.relations import Relations
from vgse.relation.solve import relate, relate_prepared
from vgse.relation.weighted_average import weighted_average

__all__ = [
    "METHODS",
    "PreparedRelation",
    "Problem",
    "RelationSettings",
    "Relations",
    "advise",
    "joined",
    "kernel_ridge",
    "prepare",
    "relate",
    "relate_prepared",
    "weighted_average",
]

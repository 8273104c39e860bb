"""Tools around a training run: they drive models from outside, by what is public, as a user would.

This room owns no state. What a tool changes on its way, it restores.
"""

from customfit.tools.batch_size import BatchSizeSearch, find_batch_size
from customfit.tools.cross_validation import CrossValidation, cross_validate
from customfit.tools.ejection import eject
from customfit.tools.learning_rate import LearningRateSearch, find_learning_rate
from customfit.tools.seeds import set_seed

__all__ = [
    "BatchSizeSearch",
    "CrossValidation",
    "LearningRateSearch",
    "cross_validate",
    "eject",
    "find_batch_size",
    "find_learning_rate",
    "set_seed",
]

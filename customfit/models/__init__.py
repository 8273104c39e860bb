"""What a user inherits: the steps of a model, the options of `compile()`, and `fit`, `custom_fit` and their kin.

A model owns its gradient pipeline, which `compile()` makes, and its compiled steps, which live from call to call until
`compile()` drops them. Everything that belongs to one training run is the session's (`training/`).
"""

from customfit.models.mixin import CustomTrainMixin
from customfit.models.model import CustomTrainModel, CustomTrainSequential

__all__ = ["CustomTrainMixin", "CustomTrainModel", "CustomTrainSequential"]

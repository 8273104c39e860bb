"""What the engine needs of a model, as protocols. `CustomTrainMixin` provides it for any `keras.Model`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Literal, Optional, Protocol, Union

from customfit.compat import keras, tf
from customfit.data import Batch

if TYPE_CHECKING:
    from typing_extensions import TypeGuard

Logs = dict[str, Any]  # by the metric's name: tensors, or numbers once someone has read them
StepName = Literal["train_step", "test_step", "predict_step"]

_Gradients = list[Optional[Union[tf.Tensor, tf.IndexedSlices]]]


class Pipeline(Protocol):
    """The state that a model's steps keep of gradients: a `customfit.gradients.GradientPipeline`."""

    @property
    def accumulation_steps(self) -> int | None:
        """How many micro-batches make one update; `None` if each batch does."""

    @property
    def variables(self) -> list[tf.Variable]:
        """All state, which checkpoints save."""

    @property
    def metrics(self) -> PipelineMetrics:
        """The gradient metrics."""

    def get_config(self) -> dict[str, Any]:
        """Returns the options as plain numbers, names and lists."""

    def prepare(self, model: TrainableModel) -> None:
        """Creates state before the first step, where a step cannot."""

    def begin(self) -> None:
        """Forgets what an interrupted run has left."""

    def check_nonfinite(self, model: TrainableModel, epoch: int, steps: int) -> str | None:
        """Returns why a step that was not finite ends the run, or raises, as `compile(nonfinite=)` says."""

    def flush(self) -> None:
        """Applies accumulated gradients that do not make a whole update."""


class PipelineMetrics(Protocol):
    """The gradient metrics of a pipeline."""

    epoch_variables: list[tf.Variable]
    """Their sums over an epoch, which are reset with the model's metrics."""


class TrainableModel(Protocol):
    """A compiled `keras.Model` whose class has `CustomTrainMixin`.

    The first part is ours, the second Keras's.
    """

    jit_compile_is_auto: bool
    """Whether XLA is used only where it can compile the step."""

    _compiled_steps: Any  # the `CompiledSteps` of this model, or `None`: read them by `compiled_steps(model)`

    @property
    def gradient_pipeline(self) -> Pipeline:
        """What `compile()` asks to be done to gradients."""

    @property
    def changes_gradients(self) -> bool:
        """Whether gradients are clipped or transformed."""

    def transform_gradients(self, gradients: _Gradients, variables: list[tf.Variable]) -> _Gradients:
        """Returns the gradients that are clipped and applied."""

    def results_of(self, name: StepName) -> Callable[[], Logs] | None:
        """Returns a function of a step's logs where these are the results of metrics alone, else `None`."""

    def forget_steps(self) -> None:
        """Drops the compiled steps: they are traced again."""

    loss: Any  # as `compile()` was given it
    optimizer: keras.optimizers.Optimizer
    stop_training: bool
    run_eagerly: bool

    @property
    def built(self) -> bool:
        """Whether the weights exist."""

    @property
    def distribute_strategy(self) -> tf.distribute.Strategy:
        """The strategy under which the model was made."""

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """All metrics, the loss among them."""

    @property
    def trainable_variables(self) -> list[tf.Variable]:
        """The variables that training updates."""

    def __call__(self, inputs: Any, training: bool = ...) -> Any:
        """Runs the forward pass."""

    def train_step(self, data: Batch) -> Logs:
        """Trains on a batch."""

    def test_step(self, data: Batch) -> Logs:
        """Evaluates a batch."""

    def get_metrics_result(self) -> Logs:
        """Returns the metrics so far."""

    def reset_metrics(self) -> None:
        """Resets all metrics."""


class PredictingModel(Protocol):
    """A `keras.Model` whose class has `CustomTrainMixin`, compiled or not."""

    _compiled_prediction: Any  # its `CompiledPrediction`, or `None`: read it by `compiled_prediction(model)`
    run_eagerly: bool

    @property
    def distribute_strategy(self) -> tf.distribute.Strategy:
        """The strategy under which the model was made."""

    def predict_step(self, data: Batch) -> Any:
        """Returns the outputs for a batch."""


def is_trainable(model: object) -> TypeGuard[TrainableModel]:
    """Whether a model's class has `CustomTrainMixin`.

    Args:
        model: Any object.
    """
    return hasattr(model, "gradient_pipeline")

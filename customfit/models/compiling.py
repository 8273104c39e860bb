"""`compile()` and its options, and what is saved of them."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Collection, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from customfit import compat
from customfit.arguments import did_you_mean, refuse_unknown
from customfit.compat import keras, tf
from customfit.execution import CompiledPrediction, CompiledSteps
from customfit.gradients import (
    AdaptiveClip,
    Clip,
    GradientPipeline,
    NonFinite,
    as_optimizer,
    check_no_other_clip,
    compile_options_from_config,
)
from customfit.models.remat import Rematerialization

if TYPE_CHECKING:
    from typing import TypedDict, Union

    from typing_extensions import Unpack

    OptimizerLike = Union[
        str, keras.optimizers.Optimizer, Mapping[str, Any], Sequence[tuple[str, Union[str, keras.optimizers.Optimizer]]]
    ]

    class KerasCompileOptions(TypedDict, total=False):
        """The other arguments of `keras.Model.compile`."""

        loss_weights: Any
        metrics: Any
        weighted_metrics: Any
        run_eagerly: bool | None
        steps_per_execution: int | None
        jit_compile: bool | Literal["auto"] | None
        auto_scale_loss: bool
        pss_evaluation_shards: int | Literal["auto"]


REPLACED = {
    "adaptive_clip_exclude": "adaptive_clip=AdaptiveClip(..., exclude=[...])",
    "nonfinite_dump": 'nonfinite=NonFinite("raise", dump=...)',
}


class Compiling(compat.KerasModel):
    """`compile()` with the options of the gradient pipeline, and their way through saved files."""

    gradient_pipeline: GradientPipeline
    rematerialization: Rematerialization = Rematerialization()
    jit_compile_is_auto: bool = True
    _compiled_steps: CompiledSteps | None = None
    _compiled_prediction: CompiledPrediction | None = None

    def compile(
        self,
        optimizer: OptimizerLike = "rmsprop",
        loss: Any = None,
        *args: Any,
        clipvalue: float | None = None,
        clipnorm: float | None = None,
        global_clipnorm: float | None = None,
        adaptive_clip: float | AdaptiveClip | None = None,
        clip_percentile: float | None = None,
        gradient_accumulation_steps: int | None = None,
        nonfinite: Literal["skip", "raise", "stop"] | NonFinite | None = None,
        gradient_metrics: str | Sequence[str] = (),
        remat: bool | Sequence[str] | None = None,
        **options: Unpack[KerasCompileOptions],
    ) -> None:
        """Configures the model for training: `keras.Model.compile`, and what a training step does to gradients.

        All of it holds under `fit()` and `custom_fit()` alike. At most one of the clipping options may be set.

        Args:
            optimizer: As in `keras.Model.compile`; or a dict of optimizers by layer, or a list of
                `(pattern, optimizer)`: see `OptimizerGroups`.
            loss: As in `keras.Model.compile`.
            *args: As in `keras.Model.compile`.
            clipvalue: Clips each element of each gradient to `[-clipvalue, clipvalue]`.
            clipnorm: Clips each variable's gradient to this L2 norm.
            global_clipnorm: Clips all gradients together to this L2 norm.
            adaptive_clip: Clips each unit's gradient to this ratio of its weights' norm (Brock et al. 2021,
                https://arxiv.org/abs/2102.06171), except in the output layers. An `AdaptiveClip` says which layers to
                exclude.
            clip_percentile: Clips all gradients together to this percentile of their norms in the last 1000 updates
                (Seetharaman et al. 2020, https://arxiv.org/abs/2007.14469).
            gradient_accumulation_steps: How many batches make one update of the weights. It equals an update by one
                batch of all their rows, to rounding. `optimizer.iterations` counts updates. What is left at the end of
                an epoch is applied there, under `fit` and `custom_fit`; in a loop of your own, by
                `apply_accumulated_gradients`.
            nonfinite: How a step is handled whose loss or gradients are not finite. `None`: as Keras does. `"skip"`:
                the step changes nothing and is counted in `skipped_steps`. `"raise"`: it changes nothing, and a
                `NonFiniteError` names the loss or variable, the step and the epoch. `"stop"`: it changes nothing, and
                training ends. With the dynamic loss scale of `mixed_float16` only the loss is checked: gradients that
                overflow are how the scale finds its value. `NonFinite("raise", dump="folder")` also saves the step, for
                `customfit.debug.replay`.
            gradient_metrics: Some of `"grad_norm"`, `"clip_fraction"`, `"update_ratio"`, `"loss_scale"`,
                `"skipped_steps"` and `"learning_rate"`, which are then in the logs and in History. The rate is that of
                the last update, whatever has set it: a number, a schedule, a callback. Groups of optimizers have one
                each, `"learning_rate/<group>"`.
            remat: Whether training keeps fewer activations, and computes the others again in the backward pass
                (gradient checkpointing, https://arxiv.org/abs/1604.06174): a step takes less memory and more time, and
                trains to the same numbers. For functional and Sequential models. `True` divides the layers into blocks
                where the least memory is needed. A list names the layers with which blocks end.
            **options: As in `keras.Model.compile`.

        Raises:
            ValueError: If more than one clipping option is set, one is not a positive number, the optimizer clips by
                itself as well, there is no metric or layer of a name, or `remat` is set for a subclassed model.
            NotImplementedError: If a step of several replicas would be saved by `NonFinite(dump=)`.
        """
        _refuse_unknown(options)
        clip = Clip.from_options(
            clipvalue=clipvalue,
            clipnorm=clipnorm,
            global_clipnorm=global_clipnorm,
            adaptive_clip=adaptive_clip,
            clip_percentile=clip_percentile,
        )
        pipeline = GradientPipeline(
            clip,
            accumulation_steps=gradient_accumulation_steps,
            nonfinite=nonfinite,
            metrics=gradient_metrics,
        )
        if pipeline.guard.dump is not None:
            _check_dump(pipeline.guard.dump, options.get("jit_compile"), self.distribute_strategy.num_replicas_in_sync)
        _check_names("metrics", [options.get("metrics"), options.get("weighted_metrics")], keras.metrics, METRIC_TYPES)
        if type(self).compute_loss is keras.Model.compute_loss and self.results_of("train_step") is not None:
            _check_names("loss", loss, keras.losses)
        rematerialization = Rematerialization(remat)
        rematerialization.check(self)
        super().compile(as_optimizer(optimizer, self), loss, *args, **compat.compile_options(dict(options)))
        check_no_other_clip(clip, self.optimizer)
        pipeline.check_optimizer(self.optimizer)
        self.gradient_pipeline = pipeline
        self.rematerialization = rematerialization
        self.jit_compile_is_auto = options.get("jit_compile", "auto") == "auto"
        self._compiled_steps = self._compiled_prediction = None

    def get_compile_config(self) -> Any:
        """Returns the arguments of `compile()`, serialized, for `save()`."""
        config = super().get_compile_config()
        return {**config, **self._own_options()} if config else config

    def _own_options(self) -> dict[str, Any]:
        return {**self.gradient_pipeline.get_config(), **self.rematerialization.get_config()}

    def save(self, filepath: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Saves the whole model: `keras.Model.save`. Warns of options of `compile()` that the file's format leaves out.

        Args:
            filepath: Where to, ".keras" at its end.
            *args: As in Keras.
            **kwargs: As in Keras.
        """
        defaults = GradientPipeline().get_config()
        left_out = [name for name, value in self._own_options().items() if defaults.get(name) != value]
        if left_out and not compat.keeps_compile_options(os.fspath(filepath), *args, **kwargs):
            warnings.warn(
                f"This format keeps none of the options {', '.join(f'`{name}`' for name in left_out)} of `compile()`. "
                "Save the model as `.keras`, or call `compile()` with them after loading.",
                stacklevel=2,
            )
        super().save(filepath, *args, **kwargs)

    def compile_from_config(self, config: dict[str, Any]) -> Any:
        """Compiles the model with what `get_compile_config` returned, for `load_model`."""
        options = compile_options_from_config(compat.deserialize_keras_object(config))
        try:
            inspect.signature(self.compile).bind(**options)
        except TypeError:  # a `compile()` of the user's that takes something else: Keras warns, and leaves it to them
            super().compile_from_config(config)
            return
        self.compile(**options)
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    def forget_steps(self) -> None:
        """Drops the compiled steps, as `compile()` does: they are traced again when they are next needed."""
        self._compiled_steps = self._compiled_prediction = None
        self.train_function = self.test_function = None


METRIC_TYPES = ("accuracy", "acc", "crossentropy", "ce")  # which Keras resolves by the loss


def _refuse_unknown(options: KerasCompileOptions) -> None:
    """Refuses a keyword that neither we nor Keras know, by the name that was probably meant."""
    theirs = inspect.signature(keras.Model.compile).parameters
    ours = inspect.signature(Compiling.compile).parameters
    known = {name for name in {**theirs, **ours} if name not in ("self", "args", "kwargs", "options")}
    unknown = [name for name in options if name not in known]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in theirs.values()):
        # Keras 2 takes further ones, and refuses what it does not know: here only what was meant for us.
        unknown = [name for name in unknown if name in REPLACED or did_you_mean(name, ours)]
    refuse_unknown("compile", unknown, known, REPLACED)


def _check_dump(dump: str, jit_compile: object, replicas: int) -> None:
    """Refuses to save a step where it could not be saved, or not as a whole."""
    if jit_compile is True:
        raise ValueError(
            "`NonFinite(dump=)` must not be set with `jit_compile=True`: XLA cannot write files. Received: "
            f"dump={dump!r}, jit_compile=True"
        )
    if replicas > 1:
        raise NotImplementedError(
            "`NonFinite(dump=)` cannot save a step of several replicas, each of which has rows of its own. Use "
            f'`nonfinite="raise"`. Received: dump={dump!r} with {replicas} replicas.'
        )


def _check_names(argument: str, names: Any, module: ModuleType, more: Collection[str] = ()) -> None:
    """Refuses a misspelt metric or loss in `compile()`; Keras would do so in the middle of the first step."""
    if isinstance(names, Mapping) and "class_name" in names:
        return  # a serialized object
    for name in tf.nest.flatten(names):
        if not isinstance(name, str) or name in more:
            continue
        try:
            found = module.get(name)
        except ValueError:
            found = None
        if found is None or found == name:  # some releases return an unknown name as it is
            known = {*more, *(known for known in dir(module) if not known.startswith("_"))}
            raise ValueError(
                f"`{argument}` must be a name that `keras.{argument.replace('loss', 'losses')}` knows."
                f"{did_you_mean(name, known)} Received: {name!r}"
            ) from None

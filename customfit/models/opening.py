"""From the arguments of `custom_fit`, `custom_evaluate` and `custom_predict` to a session or a pass, and its data."""

from __future__ import annotations

import types
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from customfit import compat
from customfit.arguments import as_count, listed, refuse_unknown
from customfit.compat import keras
from customfit.data import (
    Source,
    as_single_batch,
    check_resumable,
    default_batch_size,
    make_evaluation_source,
    make_source,
    split_rows,
)
from customfit.training import (
    Callbacks,
    DryRun,
    Evaluation,
    Prediction,
    TrainingSession,
    check_averaging,
    check_callbacks,
    check_labels,
    check_monitor,
    check_targets,
    predict_batch,
)
from customfit.workers import Workers

WORKER_OPTIONS = ("workers", "use_multiprocessing", "max_queue_size")
REPLACED = {
    "validation_interval": "validation_freq=Every(steps=...)",
    "on_sigterm": "TrainingSession(on_sigterm=...)",
    "checkpoint_dir": "checkpoint=...",
    "checkpoint_interval": "checkpoint=Checkpoints(..., every=Every(...))",
    "checkpoint_keep": "checkpoint=Checkpoints(..., keep=...)",
    "resume": "checkpoint=Checkpoints(..., resume=...)",
    "on_checkpoint_error": "checkpoint=Checkpoints(..., on_error=...)",
    "fast_dev_run": "dry_run=...",
    "overfit_batches": "dry_run=DryRun(overfit_batches=...)",
    "sanity_validation": "dry_run=DryRun(sanity_validation=...)",
    "plan": "model.plan_fit(...)",
    "resident_share": "x=customfit.data.ArraySource(..., resident_share=...)",
}


def open_session(model: keras.Model, arguments: Mapping[str, Any]) -> tuple[TrainingSession, Source]:
    """The session and the training data of a call of `custom_fit`."""
    given = types.SimpleNamespace(**arguments)
    given.epochs = compat.limit_epochs(as_count("epochs", given.epochs, 0))
    given.initial_epoch = as_count("initial_epoch", given.initial_epoch, 0)
    workers = {name: arguments[name] for name in WORKER_OPTIONS if name in arguments}
    dry_run = DryRun.of(given.dry_run)
    if not dry_run.is_full:
        given.epochs, given.validation_freq = given.initial_epoch + 1, 1
        given.max_steps = given.max_time = given.checkpoint = None
    if dry_run.overfit_batches and given.checkpoint is not None:
        raise ValueError(
            "`DryRun(overfit_batches=)` must not be used with `checkpoint`. Received: "
            f"overfit_batches={dry_run.overfit_batches}, checkpoint={given.checkpoint!r}"
        )
    if given.validation_split and given.validation_data is None:
        (given.x, given.y, given.sample_weight), given.validation_data = split_rows(
            (given.x, given.y, given.sample_weight), given.validation_split
        )
    data = make_source(
        given.x,
        given.y,
        given.sample_weight,
        batch_size=given.batch_size,
        shuffle=None if dry_run.overfit_batches else given.shuffle,
        steps_per_epoch=given.steps_per_epoch,
        epochs=given.epochs - given.initial_epoch,
        class_weight=given.class_weight,
        model=model,
        **workers,
    )
    check_targets(model, data, "train_step", "y")
    check_labels(model, given.y, "y")
    if given.checkpoint is not None:
        check_resumable("x", data)
    data = dry_run.training(data)
    session = TrainingSession(
        model,
        epochs=given.epochs,
        initial_epoch=given.initial_epoch,
        steps_per_epoch=data.steps,
        callbacks=dry_run.callbacks(given.callbacks),
        verbose=given.verbose,
        validation_data=given.validation_data,
        validation_freq=given.validation_freq,
        validation_steps=given.validation_steps,
        validation_batch_size=default_batch_size(given.validation_data, given.validation_batch_size, given.batch_size),
        workers=workers,
        early_stopping=given.early_stopping,
        log_every=given.log_every,
        max_steps=given.max_steps,
        max_time=given.max_time,
        checkpoint=given.checkpoint,
        dry_run=dry_run,
        identity={"class_weight": given.class_weight},
    )
    check_averaging(session.callbacks.callbacks)
    check_monitor(model, session.callbacks.callbacks, data, session.validation.data)
    return session, data


def evaluate_explicitly(
    model: keras.Model,
    *,
    x: Any,
    y: Any,
    batch_size: int | None,
    verbose: int | str,
    sample_weight: Any,
    steps: int | None,
    callbacks: Callbacks,
    return_dict: bool,
    **workers: Any,
) -> Any:
    """A pass of `test_step` over data, as `evaluate` makes it."""
    data = make_evaluation_source(x, y, sample_weight, batch_size=batch_size, steps=steps, model=model, **workers)
    check_targets(model, data, "test_step", "y")
    check_labels(model, y, "y")
    callbacks = _callbacks_of_a_pass(model, callbacks, verbose, data)
    data.restart()
    logs = Evaluation(model, callbacks, progress=True).run(data)
    return compat.evaluation_result(model, logs, return_dict)


def predict_explicitly(
    model: keras.Model,
    *,
    x: Any,
    batch_size: int | None,
    verbose: int | str,
    steps: int | None,
    callbacks: Callbacks,
    **workers: Any,
) -> Any:
    """A pass of `predict_step` over data, as `predict` makes it. Rows that are one batch need no pass around them."""
    if not (verbose or callbacks or workers) and steps is None and model.distribute_strategy.num_replicas_in_sync == 1:
        batch = as_single_batch(x, batch_size)
        if batch is not None:
            return predict_batch(model, batch)
    data = make_evaluation_source(x, batch_size=batch_size, steps=steps, model=model, **workers)
    if not getattr(data, "keeps_order", True):
        raise ValueError(
            "`custom_predict` returns rows in their order, so all workers must read the same dataset. Pass one without "
            f"an `AutoShardPolicy` that splits it. Received: x of type {type(x).__name__}, of which each reads a part"
        )
    callbacks = _callbacks_of_a_pass(model, callbacks, verbose, data)
    data.restart()
    return Prediction(model, callbacks).run(data)


def _callbacks_of_a_pass(
    model: keras.Model, callbacks: Callbacks, verbose: int | str, data: Source
) -> keras.callbacks.CallbackList:
    """The `CallbackList` of a pass that trains nothing."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return callbacks
    check_callbacks(listed(callbacks))
    verbose = compat.resolve_verbose(verbose) if Workers.of(model.distribute_strategy).is_chief else 0
    return keras.callbacks.CallbackList(
        callbacks, add_progbar=verbose != 0, model=model, verbose=verbose, epochs=1, steps=data.steps
    )


def check_workers(call: str, options: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """Refuses keyword arguments that are none of `WORKER_OPTIONS`, by the name that was probably meant.

    Args:
        call: The name of the method.
        options: What its `**workers` were given.
        known: The other arguments that it has.
    """
    unknown = [name for name in options if name not in WORKER_OPTIONS]
    refuse_unknown(call, unknown, [*known, *WORKER_OPTIONS], REPLACED)
    return dict(options)


# What logs automatically by replacing `keras.Model.fit`, and the callback that does the same.
_LOGGING_CALLBACKS = {
    "mlflow": "mlflow.tensorflow.MlflowCallback()",
    "comet_ml": "experiment.get_callback('keras')",
}


def warn_of_patched_fit(callbacks: Callbacks) -> None:
    """Warns that automatic logging, which replaces `keras.Model.fit`, does not see the explicit loop."""
    package = compat.fit_patched_by()
    if package is None:
        return
    callback = _LOGGING_CALLBACKS.get(package, f"the callback of {package}")
    given = callbacks.callbacks if isinstance(callbacks, keras.callbacks.CallbackList) else listed(callbacks)
    if any(type(each).__module__.partition(".")[0] == package for each in given):
        return
    warnings.warn(
        f"{package} has replaced `keras.Model.fit` to log automatically. `custom_fit` does not call it, so nothing is "
        f"logged. Pass the callback instead: callbacks=[{callback}].",
        stacklevel=5,
    )

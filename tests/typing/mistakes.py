"""What a type checker must refuse. A line that it no longer refuses fails the check: its `ignore` is then unused."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from customfit import Checkpoints, CustomTrainModel, DryRun, EarlyStopping, Every, TrainingSession

Rows = npt.NDArray[np.float32]


def misspelt_arguments(model: CustomTrainModel, x: Rows, y: Rows) -> None:
    """No name is taken that is not there."""
    model.custom_fit(x, y, early_stoping=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    model.custom_fit(x, y, batchsize=32)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    model.compile("adam", "mse", clip_norm=1.0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    model.plan_fit(x, y, epoch=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    model.custom_evaluate(x, y, batchsize=32)  # type: ignore  # pyright: ignore
    model.custom_predict(x, batchsize=32)  # type: ignore  # pyright: ignore
    TrainingSession(model, epoch=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    EarlyStopping(patiense=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Checkpoints("runs/a", keeps=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    DryRun(batch=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Every(step=500)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def replaced_arguments(model: CustomTrainModel, x: Rows, y: Rows) -> None:
    """Nor the names of earlier versions."""
    model.custom_fit(x, y, checkpoint_dir="runs/a")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    model.custom_fit(x, y, validation_interval=500)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    model.custom_fit(x, y, plan=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def wrong_values(model: CustomTrainModel, x: Rows, y: Rows) -> None:
    """No value of another kind."""
    model.custom_fit(x, y, "32")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    model.custom_fit(x, y, epochs=2.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    model.custom_fit(x, y, validation_freq="epoch")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    model.compile("adam", "mse", global_clipnorm="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    model.compile("adam", "mse", nonfinite="ignore")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def wrong_use(model: CustomTrainModel, x: Rows, y: Rows) -> None:
    """And a result is what it is."""
    history = model.custom_fit(x, y)
    history.history["loss"].upper()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    print(model.plan_fit(x, y).history)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]

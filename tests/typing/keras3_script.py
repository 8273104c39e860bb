"""What a user writes on Keras 3. It runs, and `mypy --strict` and pyright find in it the types that it names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Optional

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from typing_extensions import assert_type

import customfit
from customfit import (
    AdaptiveClip,
    Checkpoints,
    CustomTrainModel,
    CustomTrainSequential,
    DryRun,
    EarlyStopping,
    Every,
    NonFinite,
    Plan,
    TrainingSession,
)
from customfit.callbacks import GradientHealth, LogEvery, Throughput
from customfit.testing import ParityReport, check_parity

Rows = npt.NDArray[np.float32]


class Classifier(CustomTrainModel):
    """A model with methods of its own, some of which Keras or customfit call."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.hidden = keras.layers.Dense(units, activation="relu")
        self.head = keras.layers.Dense(3, activation="softmax")

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The forward pass."""
        return self.head(self.hidden(inputs))

    def train_step(self, data: Any) -> dict[str, Any]:
        """A step of the user's own, of the public pieces."""
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        self.apply_gradients(self.compute_gradients(loss, tape))
        return {"loss": loss}


class Theirs(keras.Model):  # type: ignore[misc]  # mypy: Keras has no types
    """A model class that exists already."""

    def __init__(self) -> None:
        super().__init__()
        self.head = keras.layers.Dense(3, activation="softmax")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """The forward pass."""
        return self.head(inputs)


class Mine(Theirs, CustomTrainModel):
    """Their model, with the loop below it."""


class SaysWhen(keras.callbacks.Callback):  # type: ignore[misc]  # mypy: Keras has no types
    """A callback of the user's."""

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Prints the epoch."""
        print(epoch, logs)


def rows() -> tuple[Rows, npt.NDArray[np.int64]]:
    """Data that can be learnt."""
    x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    return x, x[:, :3].argmax(axis=1)


def functional() -> CustomTrainModel:
    """A functional model."""
    inputs = keras.Input((8,))
    model = CustomTrainModel(inputs, keras.layers.Dense(3, activation="softmax")(inputs))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], global_clipnorm=1.0)
    return model


def trains_in_every_way(directory: str) -> None:
    """`custom_fit` with simple values and with objects."""
    x, y = rows()
    model = functional()
    assert_type(model, CustomTrainModel)
    history = model.custom_fit(
        x,
        y,
        batch_size=16,
        epochs=2,
        verbose=0,
        validation_data=(x, y),
        callbacks=[keras.callbacks.ReduceLROnPlateau(), SaysWhen(), Throughput(), GradientHealth()],
        early_stopping=3,
        checkpoint=directory,
        log_every=2,
        max_steps=1000,
        max_time="00:10:00",
    )
    assert_type(history.history, dict[str, list[float]])
    assert_type(history.history["val_loss"][-1], float)
    assert_type(history.stop_reason, Optional[str])

    model.compile(
        keras.optimizers.Adam(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(),
        adaptive_clip=AdaptiveClip(0.01, exclude=["dense"]),
        gradient_accumulation_steps=2,
        nonfinite=NonFinite("raise", dump=directory),
        gradient_metrics=["grad_norm"],
        jit_compile=False,
    )
    stops = EarlyStopping(monitor="val_unseen_loss", patience=2, min_delta=0.01)
    model.custom_fit(
        tf.data.Dataset.from_tensor_slices((x, y)).batch(16),
        epochs=2,
        verbose=0,
        validation_data={"seen": (x, y), "unseen": (x, y)},
        validation_freq=Every(steps=2),
        callbacks=LogEvery(2),
        early_stopping=stops,
        checkpoint=Checkpoints(f"{directory}/b", every=Every(steps=2), keep=1, resume=False, on_error="warn"),
        dry_run=DryRun(batches=1),
    )
    assert_type(stops.best, Optional[float])
    assert_type(stops.best_epoch, Optional[int])
    assert_type(model.skipped_steps, int)
    model.custom_fit(x, y, dry_run=True, verbose=0)
    assert_type(model.custom_evaluate(x, y, verbose=0, return_dict=True), dict[str, float])
    predicted: Rows = model.custom_predict(x, batch_size=64, verbose=0, callbacks=[SaysWhen()])
    print(predicted.shape)

    plan = model.plan_fit(x, y, epochs=3, validation_split=0.2, early_stopping=3)
    assert_type(plan, Plan)
    assert_type(plan.updates, Optional[int])


def batches(epoch: int) -> Iterator[tuple[Rows, npt.NDArray[np.int64]]]:
    """What a loop of the user's own trains on."""
    x, y = rows()
    yield from [(x[:32], y[:32]), (x[32:], y[32:])]


def owns_the_loop() -> None:
    """A session around a loop of the user's own, and a model of every kind."""
    subclassed = Classifier(units=4)
    assert_type(subclassed, Classifier)
    subclassed.compile("adam", "sparse_categorical_crossentropy", clipnorm=1.0)
    with TrainingSession(subclassed, epochs=2, verbose=0, validation_data=rows(), early_stopping=1) as session:
        assert_type(session, TrainingSession)
        for epoch in session.epochs():
            assert_type(epoch, int)
            for batch in batches(epoch):
                logs = session.train_on(batch)
                print(float(logs["loss"]))
            session.log(custom=1.0)
    assert_type(session.history.history, dict[str, list[float]])
    assert_type(session.stop_reason, Optional[str])
    assert_type(session.total_steps, int)

    mine = Mine()
    assert_type(mine, Mine)
    mine.compile("sgd", "sparse_categorical_crossentropy", clipvalue=1.0)
    assert_type(mine.custom_fit(*rows(), verbose=0).epoch, list[int])

    pretrained = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    assert_type(CustomTrainModel.from_model(pretrained), CustomTrainModel)
    assert_type(CustomTrainSequential([keras.layers.Dense(3)]), CustomTrainSequential)


def checks_parity() -> bool:
    """A test of the user's own model."""
    report = check_parity(functional, rows(), epochs=1, batch_size=16)
    assert_type(report, ParityReport)
    assert_type(report.message, str)
    return bool(report)


def main(directory: str) -> None:
    """Runs it all."""
    trains_in_every_way(directory)
    owns_the_loop()
    assert checks_parity()
    assert_type(customfit.__version__, str)


if __name__ == "__main__":
    main("runs")

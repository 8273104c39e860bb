"""What a user writes on Keras 2, `tf.keras`. It runs, and `mypy --strict` and pyright find in it the types it names."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow import keras
from typing_extensions import assert_type

from customfit import Checkpoints, CustomTrainMixin, CustomTrainModel, Every, TrainingSession
from customfit.testing import ParityReport, check_parity

Rows = npt.NDArray[np.float32]


class Classifier(CustomTrainModel):
    """A subclassed model."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.hidden = keras.layers.Dense(units, activation="relu")
        self.head = keras.layers.Dense(3, activation="softmax")

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The forward pass."""
        return self.head(self.hidden(inputs))

    def transform_gradients(self, gradients: list[Any], variables: list[Any]) -> list[Any]:
        """Anything between the tape and the optimizer."""
        return [gradient if gradient is None else gradient * 0.5 for gradient in gradients]


class Theirs(keras.Model):  # type: ignore[misc]  # mypy: Keras has no types
    """A model class that exists already."""

    def __init__(self) -> None:
        super().__init__()
        self.head = keras.layers.Dense(3, activation="softmax")

    def call(self, inputs: tf.Tensor, training: bool | None = None, mask: Any = None) -> tf.Tensor:
        """The forward pass."""
        return self.head(inputs)


class Mine(CustomTrainMixin, Theirs):
    """Their model, with the loop."""


class Batches(keras.utils.Sequence):  # type: ignore[misc]  # mypy: Keras has no types
    """A `Sequence`, with workers."""

    def __init__(self, x: Rows, y: npt.NDArray[np.int64]) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x) // 16

    def __getitem__(self, index: int) -> tuple[Rows, npt.NDArray[np.int64]]:
        rows = slice(16 * index, 16 * (index + 1))
        return self.x[rows], self.y[rows]


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


def main(directory: str) -> None:
    """Runs it all."""
    x, y = rows()
    model = functional()
    assert_type(model, CustomTrainModel)
    history = model.custom_fit(
        Batches(x, y),
        epochs=2,
        verbose=0,
        validation_data=(x, y),
        validation_freq=Every(steps=2),
        callbacks=[keras.callbacks.ReduceLROnPlateau()],
        early_stopping=3,
        checkpoint=Checkpoints(directory, keep=1),
        workers=1,
        use_multiprocessing=False,
    )
    assert_type(history.history, dict[str, list[float]])
    assert_type(history.stop_reason, Optional[str])
    assert_type(model.custom_evaluate(x, y, verbose=0, return_dict=True), dict[str, float])
    predicted: Rows = model.custom_predict(x, batch_size=64, verbose=0, workers=1)
    print(predicted.shape)

    mine = Mine()
    assert_type(mine, Mine)
    mine.compile("sgd", "sparse_categorical_crossentropy", clipvalue=1.0)
    assert_type(mine.custom_fit(x, y, verbose=0).history, dict[str, list[float]])

    subclassed = Classifier(units=4)
    subclassed.compile(keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(), clipnorm=1.0)
    with TrainingSession(
        subclassed, epochs=2, verbose=0, early_stopping=keras.callbacks.EarlyStopping("loss")
    ) as session:
        for epoch in session.epochs():
            assert_type(epoch, int)
            session.train_on((x, y))
    assert_type(session.stop_reason, Optional[str])

    report = check_parity(functional, (x, y), epochs=1, batch_size=16)
    assert_type(report, ParityReport)
    assert report


if __name__ == "__main__":
    main("runs")

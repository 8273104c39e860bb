"""Time series: windows, validation within an epoch, one cycle
==============================================================

Four channels of an electroencephalogram, 800 measurements, which come with Matplotlib. From 24 measurements of all
channels a recurrent network predicts the next one of the first. The windows are made by a ``tf.data.Dataset``. The
learning rate rises and falls in one cycle, set in the graph of each step; the validation runs every 100 steps, not
only where an epoch ends.

Run it with ``python time_series.py --output forecast.png``. See that the forecast is better than repeating the last
value, on the last 160 measurements, which the model has not seen.
"""

import argparse
import os

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before the import: TensorFlow logs less
import tensorflow as tf
from matplotlib import cbook
from matplotlib.figure import Figure

from customfit import CustomTrainModel, Every, callbacks

keras = tf.keras

WINDOW = 24


def load_eeg():
    """Returns the four channels, of shape (800, 4), with mean 0 and deviation 1 over the part to train on."""
    with cbook.get_sample_data("eeg.dat") as file:
        signal = np.frombuffer(file.read(), float).reshape(800, 4).astype("float32")
    return (signal - signal[:640].mean(axis=0)) / signal[:640].std(axis=0)


def windows(signal, shuffle):
    """Returns a dataset of batches: windows of all channels, and what the first one measures next."""
    return keras.utils.timeseries_dataset_from_array(
        signal[:-1], signal[WINDOW:, 0], WINDOW, batch_size=32, shuffle=shuffle, seed=0 if shuffle else None
    )


def main():
    """Trains, and compares the forecast with repeating the last value."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", help="the file to draw into")
    parser.add_argument("--epochs", type=int, default=30)
    args = parser.parse_args()
    signal = load_eeg()
    train, test = windows(signal[:640], shuffle=True), windows(signal[640 - WINDOW :], shuffle=False)

    keras.utils.set_random_seed(0)
    inputs = keras.Input((WINDOW, 4))
    state = keras.layers.GRU(32)(inputs)
    last = inputs[:, -1, :1]
    model = CustomTrainModel(inputs, keras.layers.Add()([last, keras.layers.Dense(1)(state)]))  # learns the change
    model.compile("adam", "mse", metrics=["mae"], global_clipnorm=1.0)
    history = model.custom_fit(
        train,
        epochs=args.epochs,
        verbose=0,
        validation_data=test,
        validation_freq=Every(steps=100),
        callbacks=[callbacks.OneCycle(1e-2, updates=args.epochs * len(train))],
    )

    forecast = model.custom_predict(test, verbose=0)[:, 0]
    truth, repeated = signal[640:, 0], signal[639:-1, 0]
    error, naive = np.abs(forecast - truth).mean(), np.abs(repeated - truth).mean()
    print(f"validated {len(history.validation)} times in {args.epochs} epochs")
    print(f"mean error of the forecast: {error:.3f}; of repeating the last value: {naive:.3f}")
    if error > 0.9 * naive:
        raise SystemExit("The forecast was expected to be better.")
    if args.output:
        axes = Figure(figsize=(9, 4), layout="constrained").add_subplot()
        axes.plot(truth, color="black", linewidth=1, label="measured")
        axes.plot(forecast, linewidth=1, label="forecast of the next value")
        axes.set(xlabel="measurement", ylabel="first channel")
        axes.legend()
        axes.figure.savefig(args.output, dpi=100)


if __name__ == "__main__":
    main()

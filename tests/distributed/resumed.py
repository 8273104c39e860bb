"""One of several workers: trains with checkpoints, and prints what came of it. It may be told to do something else.

`main(folder, how, epochs)`; `how` is words: "per_worker", "kill:1:5" (worker 1 is killed after step 5), "term:1:5" (it
gets SIGTERM), "stop:1:5" (SIGSTOP), "hang:1:5" (it waits for ever, and all have a timeout of 5 s), "begin:1" (worker 1
is killed before the first step), "writing:1:3" (while it writes its part of the third checkpoint), "pruning:1:3",
"validating:1:3", "max_time", "files", "batch:1" (worker 1 has another batch size), "code:1", "rows:1", "shares",
"backup", "dense" (a model whose replicas train to what one would, but for rounding).
"""

import json
import os
import signal
import sys
import threading

import numpy as np
import requests

from customfit import Checkpoints, CustomTrainModel, Every
from customfit.callbacks import GradientHealth, LogEvery
from customfit.compat import keras, tf
from customfit.training import session_observers
from tests.parity import models

X, Y = models.rows(148)
MOMENTS = ("writing", "pruning", "validating")


def share(context):
    """Uneven: the first worker has 50 rows, the second one 24, in an order that is new in each epoch."""
    begin, end = [(0, 50), (50, 74)][context.input_pipeline_id]
    return tf.data.Dataset.from_tensor_slices((X[begin:end], Y[begin:end])).shuffle(50, seed=3).batch(8)


class KilledAt:
    """An observer that kills this process at the n-th of a kind of moments."""

    def __init__(self, moment, times):
        self.moment = moment
        self.left = times

    def steps_until_due(self, total_steps):
        return float("inf")

    def on_moment(self, moment, total_steps):
        self.left -= moment == self.moment
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class Told(keras.callbacks.Callback):
    """Does something to this process after a step."""

    def __init__(self, act, step):
        super().__init__()
        self.act = act
        self.step = step
        self.steps = 0

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        if self.steps == self.step:
            self.act()


class Loud:
    """Callbacks that print, write and send."""

    @staticmethod
    def callbacks(folder):
        return [
            keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate, verbose=1),
            keras.callbacks.RemoteMonitor("http://127.0.0.1"),
            LogEvery(2, print_fn=lambda line: print("logged", line)),
            GradientHealth(os.path.join(folder, "health")),
        ]


def build(strategy, base, architecture):
    keras.utils.set_random_seed(3)
    with strategy.scope():
        model = architecture(base)
        model.compile("adam", "sparse_categorical_crossentropy", gradient_accumulation_steps=2)
    return model


class Other(CustomTrainModel):
    def train_step(self, data):
        return super().train_step(data)


class Another(CustomTrainModel):
    def train_step(self, data):
        logs = super().train_step(data)
        return {**logs, "loss": 2.0 * logs["loss"]}


Another.__name__ = Another.__qualname__ = "Other"


def main(folder, how="", epochs="3"):
    options = {}
    if "hang" in how:
        options["communication_options"] = tf.distribute.experimental.CommunicationOptions(timeout_seconds=5.0)
    strategy = tf.distribute.MultiWorkerMirroredStrategy(**options)
    index = strategy.cluster_resolver.task_id
    words = [word.split(":") for word in how.split(",") if word]
    told = {name: [int(argument) for argument in arguments] for name, *arguments in words}
    mine = {name: arguments for name, arguments in told.items() if arguments[:1] in ([], [index])}
    callbacks = [Told(lambda: None, 0)]
    for name, number in (("kill", signal.SIGKILL), ("term", signal.SIGTERM), ("stop", signal.SIGSTOP)):
        if name in mine:
            callbacks = [Told(lambda number=number: os.kill(os.getpid(), number), mine[name][1])]
    if "hang" in mine:
        callbacks = [Told(threading.Event().wait, mine["hang"][1])]
    if "begin" in mine:
        killed = lambda logs: os.kill(os.getpid(), signal.SIGKILL)
        callbacks.append(keras.callbacks.LambdaCallback(on_train_begin=killed))
    session_observers.extend(KilledAt(name, mine[name][1]) for name in MOMENTS if name in mine)
    given = {"x": X[:74], "y": Y[:74], "batch_size": 24 if "batch" in mine else 16, "callbacks": callbacks}
    if "rows" in mine:
        given["x"] = X[1:75]
    if "shares" in told:
        given = {"x": share, "callbacks": callbacks}
    if "max_time" in told:
        given.update(max_time=0.5, epochs=10**6)
    if "files" in told:
        names = [os.path.join(folder, name) for name in ("model.weights.h5", "log.csv", "board")]
        saves = keras.callbacks.ModelCheckpoint(names[0], save_weights_only=True)
        board = keras.callbacks.TensorBoard(names[2], histogram_freq=1)
        given["callbacks"] = [saves, keras.callbacks.CSVLogger(names[1]), board, *Loud.callbacks(folder)]
        requests.post = lambda root, *args, **kwargs: print("posted to", root)
    if "backup" in told:
        given["callbacks"] = [keras.callbacks.BackupAndRestore(os.path.join(folder, "backup"))]
    base = CustomTrainModel if "code" not in told else Another if "code" in mine else Other
    model = build(strategy, base, models.dense if "dense" in told else models.batch_norm)
    options = {"per_worker": "per_worker" in told, "every": Every(steps=2)}
    checkpoint = Checkpoints(os.path.join(folder, "run"), **options) if folder else None
    given = {"epochs": int(epochs), "verbose": 2 if "files" in told else 0, "checkpoint": checkpoint, **given}
    history = model.custom_fit(**given)
    weights = np.concatenate([each.ravel() for each in model.get_weights()]).tolist()
    variables = (
        [float(np.sum(each)) for each in model.optimizer.variables] if not callable(model.optimizer.variables) else []
    )
    found = {"history": history.history, "weights": weights, "optimizer": variables, "why": history.stop_reason}
    print(json.dumps({**found, "steps": callbacks[0].steps if "files" not in told else 0}, default=float))


if __name__ == "__main__":
    main(*sys.argv[1:])

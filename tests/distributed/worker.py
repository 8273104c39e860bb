"""One of several workers: trains and prints its losses and the sum of its weights as JSON; or predicts."""

import json
import os
import sys


def train(strategy, how="custom_fit", **arguments):
    """Enough epochs for blocks to grow where they go by the clock."""
    from customfit import CustomTrainModel
    from customfit.compat import keras
    from tests.parity import models

    x, y = models.rows(640)
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = models.dense(CustomTrainModel)
        model.compile("adam", "sparse_categorical_crossentropy", global_clipnorm=1.0)
    given = {"epochs": 8, "batch_size": 16, "shuffle": False, "verbose": 0, "validation_data": (x[:32], y[:32])}
    history = getattr(model, how)(x, y, **given, **arguments).history
    return [*history["loss"], *history["val_loss"], float(sum(weights.sum() for weights in model.get_weights()))]


def record(strategy):
    """The values of every step, with a rate and momentum that are set in it."""
    from customfit import CustomTrainModel
    from customfit.callbacks import OneCycle, StepHistory
    from customfit.compat import keras
    from tests.parity import models

    x, y = models.rows(150)
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = models.dense(CustomTrainModel)
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy")
    steps = StepHistory()
    model.custom_fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0, callbacks=[OneCycle(0.2), steps])
    return {name: values.tolist() for name, values in steps.history.items()}


def predict(strategy):
    """Predictions for batches of several sizes, in blocks of several sizes."""
    from customfit import CustomTrainModel
    from customfit.compat import keras
    from tests.parity import models

    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = models.two_outputs(CustomTrainModel)
        model.compile(steps_per_execution=3)
    x, _ = models.rows(150)
    outputs = [model.custom_predict(x[:rows], batch_size=16, verbose=0) for rows in (1, 7, 150)]
    return [{name: rows.tolist() for name, rows in each.items()} for each in outputs]


def main(index, ports, how):
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports.split(",")]}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": int(index)}})
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    if how == "custom_predict":
        print(json.dumps(predict(strategy)))
    elif how == "record":
        print(json.dumps(record(strategy)))
    else:
        print(json.dumps(train(strategy, how)))


if __name__ == "__main__":
    main(*sys.argv[1:])

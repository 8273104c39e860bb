"""One of several workers, or one process for comparison: trains on each kind of input, and prints what came of it."""

import json
import os
import sys
import tempfile

import numpy as np

from customfit import CustomTrainModel, data
from customfit.compat import keras, tf
from tests.parity import models

X, Y = models.rows(148)
ROWS, BATCH = 37, 16


def train(strategy, x, y=None, **arguments):
    """Losses and weights."""
    keras.utils.set_random_seed(3)
    with strategy.scope():
        model = models.dense(CustomTrainModel)
        model.compile("sgd", "sparse_categorical_crossentropy")
    given = {"epochs": 2, "verbose": 0, **arguments}
    history = model.custom_fit(x, y, **given).history
    return {**history, "weights": np.concatenate([each.ravel() for each in model.get_weights()]).tolist()}


def plain(rows=ROWS):
    return tf.data.Dataset.from_tensor_slices((X[:rows], Y[:rows])).batch(BATCH)


def with_policy(dataset, policy):
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = getattr(tf.data.experimental.AutoShardPolicy, policy)
    return dataset.with_options(options)


class Reads:
    """Counts the rows that pass a place in an input pipeline."""

    def __init__(self):
        self.count = 0

    def of(self, dataset):
        def note(x, y):
            def add(y):
                self.count += 1
                return y

            return x, tf.ensure_shape(tf.numpy_function(add, [y], y.dtype), y.shape)

        return dataset.map(note)


def files(folder):
    """Four files of 37, 37, 37 and 37 rows, by their numbers."""
    names = [os.path.join(folder, f"{index}.txt") for index in range(4)]
    for index, name in enumerate(names):
        with open(name, "w") as file:
            file.writelines(f"{row}\n" for row in range(37 * index, 37 * (index + 1)))
    return names


def of_files(names, reads):
    lines = tf.data.TextLineDataset(names)
    rows = lines.map(lambda line: tf.strings.to_number(line, tf.int64))
    return reads.of(rows.map(lambda row: (tf.gather(X, row), tf.gather(Y, row)))).batch(BATCH)


def by_file(strategy):
    with tempfile.TemporaryDirectory() as folder:
        reads = Reads()
        result = train(strategy, with_policy(of_files(files(folder), reads), "FILE"), epochs=1)
    return {**result, "read": reads.count}


def by_hint(strategy):
    reads = Reads()
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).shard(tf.data.experimental.SHARD_HINT, 0)
    result = train(strategy, with_policy(reads.of(dataset).batch(BATCH), "HINT"), epochs=1)
    return {**result, "read": reads.count}


def by_data(strategy):
    reads = Reads()
    dataset = reads.of(tf.data.Dataset.from_tensor_slices((X[:ROWS], Y[:ROWS]))).batch(BATCH)
    return {**train(strategy, with_policy(dataset, "DATA")), "read": reads.count}


def off(strategy):
    """Each worker has made a dataset of its own rows."""
    index = getattr(strategy.cluster_resolver, "task_id", 0)
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).shard(2, index).batch(BATCH)
    return train(strategy, with_policy(dataset, "OFF"), epochs=1)


def share(context, rows):
    """Row `i` belongs to worker `i % count`; the batch of a replica has 8 rows, or what is left."""
    mine = tf.data.Dataset.from_tensor_slices((X[:rows], Y[:rows])).shard(
        context.num_input_pipelines, context.input_pipeline_id
    )
    return mine.batch(context.get_per_replica_batch_size(BATCH))


def by_function(strategy):
    return train(strategy, lambda context: share(context, 148), epochs=1)


def uneven(context):
    """The first worker has 5 batches of 8, the second one 2 of 8 and one of 3. How many is not known."""
    begin, end = [(0, 40), (40, 59)][context.input_pipeline_id]
    mine = tf.data.Dataset.from_tensor_slices((X[begin:end], Y[begin:end]))
    return mine.filter(lambda x, y: True).batch(8)


def by_uneven_function(strategy):
    return train(strategy, uneven, epochs=3)


def by_uneven_function_of_known_size(strategy):
    def known(context):
        begin, end = [(0, 40), (40, 59)][context.input_pipeline_id]
        return tf.data.Dataset.from_tensor_slices((X[begin:end], Y[begin:end])).batch(8)

    return train(strategy, known, epochs=3)


def endless(strategy):
    return train(strategy, lambda context: share(context, 148).repeat(), steps_per_epoch=5)


def validated(strategy):
    return train(strategy, X[:ROWS], Y[:ROWS], batch_size=BATCH, validation_data=uneven, shuffle=False)


def shuffled_arrays(strategy):
    return train(strategy, X[:ROWS], Y[:ROWS], batch_size=BATCH)


def few_rows(strategy):
    """The last batch has one row, which the first worker gets."""
    return train(strategy, X[:17], Y[:17], batch_size=BATCH)


def single_rows(strategy):
    """The second worker has no rows at all."""
    return train(strategy, X[:3], Y[:3], batch_size=1)


def streamed_arrays(strategy):
    sys.modules[data.ArraySource.__module__.replace("arrays", "placement")].FEW_BYTES = 0
    return train(strategy, X[:ROWS], Y[:ROWS], batch_size=BATCH)


def plain_dataset(strategy):
    return train(strategy, plain())


def distributed(strategy):
    return train(strategy, strategy.experimental_distribute_dataset(with_policy(plain(), "DATA")))


def distributed_of_unknown_size(strategy):
    dataset = tf.data.Dataset.from_tensor_slices((X[:ROWS], Y[:ROWS])).filter(lambda x, y: True).batch(BATCH)
    return train(strategy, strategy.experimental_distribute_dataset(with_policy(dataset, "DATA")))


def distributed_by_function(strategy):
    return train(strategy, strategy.distribute_datasets_from_function(uneven), epochs=3)


def evaluated(strategy):
    keras.utils.set_random_seed(3)
    with strategy.scope():
        model = models.dense(CustomTrainModel)
        model.compile("sgd", "sparse_categorical_crossentropy")
    return {"loss": [model.custom_evaluate(uneven, verbose=0), model.custom_evaluate(X[:ROWS], Y[:ROWS], verbose=0)]}


SCENARIOS = [
    plain_dataset,
    by_data,
    shuffled_arrays,
    few_rows,
    single_rows,
    streamed_arrays,
    by_file,
    by_hint,
    off,
    by_function,
    by_uneven_function,
    by_uneven_function_of_known_size,
    endless,
    validated,
    distributed,
    distributed_of_unknown_size,
    distributed_by_function,
    evaluated,
]


def three_replicas():
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 3
    )
    return tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(3)])


def main(*names):
    strategy = three_replicas() if "three_replicas" in names else tf.distribute.MultiWorkerMirroredStrategy()
    found = {}
    for scenario in SCENARIOS:
        if not names or scenario.__name__ in names:
            print("begins", scenario.__name__, file=sys.stderr, flush=True)
            found[scenario.__name__] = scenario(strategy)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])

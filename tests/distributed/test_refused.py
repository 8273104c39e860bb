"""Strategies that `custom_fit` refuses, before a step is lost."""

import sys

import numpy as np
import pytest

from customfit import CustomTrainModel, NonFinite, compat
from customfit.compat import keras, tf
from customfit.data import part_of_batch
from tests import processes
from tests.parity import models
from tests.parity.compare import compiled

X, Y = models.rows(16)


def under(strategy, **options):
    with strategy.scope():
        return compiled(models.dense, CustomTrainModel, **options)


@pytest.mark.skipif(compat.divides_loss_by_replicas(), reason="this Keras divides the loss of a replica")
def test_older_keras_3_is_refused(strategy):
    with pytest.raises(NotImplementedError, match=r"needs Keras 3.8 or newer.* with 2 replicas"):
        under(strategy).custom_fit(X, Y, verbose=0)
    with pytest.raises(NotImplementedError, match="need Keras 3.8 or newer"):
        under(strategy, global_clipnorm=1.0).fit(X, Y, verbose=0)


@pytest.mark.skipif(compat.divides_loss_by_replicas(), reason="this Keras divides the loss of a replica")
def test_why_older_keras_3_is_refused(strategy):
    """Its `fit` does not average gradients over replicas (those of 3.3 even drift apart: 0.25 and 0.75 here), and logs
    the loss of the first replica's rows."""
    x, y = np.ones([4, 1], "float32"), np.float32([[1], [1], [3], [3]])
    inputs = keras.Input((1,))
    with strategy.scope():
        model = keras.Model(inputs, keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")(inputs))
        model.compile(keras.optimizers.SGD(0.125), "mse")
    history = model.fit(x, y, batch_size=4, shuffle=False, verbose=0).history
    weights = strategy.experimental_local_results(compat.tf_variable(model.weights[0]))
    assert [copy.numpy().item() for copy in weights] != [0.5, 0.5]  # 0.125 times the mean gradient of 4
    assert history["loss"] == [1.0]  # of all rows: 5


PARAMETER_SERVER = """
import os
import tensorflow as tf
from customfit import CustomTrainModel
from customfit.compat import keras
from customfit.launch.cluster import free_ports
from tests.parity import models

ports = dict(zip(("chief", "worker", "ps"), free_ports(3)))
spec = tf.train.ClusterSpec({job: [f"127.0.0.1:{port}"] for job, port in ports.items()})
servers = [tf.distribute.Server(spec, job_name=job, task_index=0, protocol="grpc") for job in ("worker", "ps")]
options = {"task_type": "chief", "task_id": 0, "rpc_layer": "grpc"}
resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(spec, **options)
strategy = tf.distribute.ParameterServerStrategy(resolver)
for base, how in ((CustomTrainModel, "custom_fit"), (keras.Model, "fit")):
    with strategy.scope():
        model = models.dense(base)
        model.compile("sgd", "sparse_categorical_crossentropy")
    try:
        data = tf.data.Dataset.from_tensor_slices(models.rows(16)).batch(4).repeat()
        getattr(model, how)(data, steps_per_epoch=2, verbose=0)
        print(how, "trains", flush=True)
    except (NotImplementedError, ValueError) as error:
        print(how, error, flush=True)
os._exit(0)  # servers have no end
"""


@pytest.mark.slow
def test_parameter_servers_are_refused():
    """Their workers need data of their own from a `ClusterCoordinator`, and `fit` of Keras 3 has none for them."""
    process = processes.run([sys.executable, "-c", PARAMETER_SERVER], timeout=240)
    assert process.stdout.count("\n") == 2, process.stderr[-3000:]
    ours, theirs = process.stdout.splitlines()
    assert "`custom_fit` runs synchronous replicas. It does not support `ParameterServerStrategy`" in ours
    assert theirs == "fit trains" or "ClusterCoordinator.create_per_worker_dataset" in theirs
    assert (theirs != "fit trains") == compat.IS_KERAS_3


def test_the_split_of_a_batch_compiles_for_devices_that_need_xla():
    """As TPUs do, whose replicas learn their number when they run. `TPUStrategy` itself is untried: it needs a TPU."""
    parts = tf.function(lambda rows, replica: part_of_batch(rows, replica, 3), jit_compile=True)
    rows = tf.range(8)
    found = [parts(rows, tf.constant(part, tf.int64)).numpy().tolist() for part in range(3)]
    assert found == [[0, 1, 2], [3, 4, 5], [6, 7]]


@pytest.mark.skipif(not compat.divides_loss_by_replicas(), reason="refused as a whole")
def test_xla_is_refused(strategy):
    with pytest.raises(NotImplementedError, match="`jit_compile` must be False on several replicas"):
        under(strategy, jit_compile=True).custom_fit(X, Y, verbose=0)


def test_a_dump_of_a_step_is_refused(strategy):
    with pytest.raises(NotImplementedError, match=r"`NonFinite\(dump=\)` cannot save a step of several replicas"):
        under(strategy, nonfinite=NonFinite("raise", dump="here"))

"""XLA: a block is one program, and where XLA cannot compile a step it is said, or gone without."""

import warnings

import numpy as np
import pytest

from customfit import CustomTrainModel
from customfit.compat import keras, tf
from customfit.data import ArraySource
from customfit.execution.compiled_step import CompiledStep
from tests.parity import models
from tests.parity.compare import compiled

X, Y = models.rows(150)


class CannotCompile(keras.layers.Layer):
    """Calls back into Python, which XLA cannot."""

    def call(self, x):
        return tf.ensure_shape(tf.numpy_function(lambda x: x, [x], tf.float32), x.shape)


def uncompilable(cls):
    inputs = keras.Input((8,), batch_size=16)
    return cls(inputs, keras.layers.Dense(3, activation="softmax")(CannotCompile()(inputs)))


def test_what_xla_cannot_compile_is_an_error():
    model = compiled(uncompilable, jit_compile=True)
    with pytest.raises((tf.errors.InvalidArgumentError, tf.errors.UnimplementedError)):
        model.custom_fit(X[:64], Y[:64], batch_size=16, verbose=0)


@pytest.mark.parametrize("steps_per_epoch", [1, 4])
def test_under_auto_it_is_run_without_xla_and_said_once(steps_per_epoch, monkeypatch):
    from customfit import compat

    monkeypatch.setattr(compat, "jit_compile", lambda model: True)  # what "auto" is on a GPU in Keras 3
    model = compiled(uncompilable, jit_compile=None if not compat.IS_KERAS_3 else "auto")
    model.jit_compile_is_auto = True
    plain = compiled(uncompilable, jit_compile=False)
    plain.set_weights(model.get_weights())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        arguments = {"batch_size": 16, "epochs": 4, "verbose": 0, "shuffle": False, "steps_per_epoch": steps_per_epoch}
        history = model.custom_fit(X[:64], Y[:64], **arguments)
    assert len([warning for warning in caught if "XLA cannot compile" in str(warning.message)]) == 1
    monkeypatch.undo()
    assert history.history == plain.custom_fit(X[:64], Y[:64], **arguments).history
    for ours, theirs in zip(model.get_weights(), plain.get_weights()):
        np.testing.assert_array_equal(ours, theirs)


def test_nothing_is_compiled_unless_asked():
    model = compiled(models.dense)
    model.custom_fit(X, Y, verbose=0)
    assert type(model._compiled_steps.train._blocks).__name__ == "GraphBlocks"


def test_few_programs_for_blocks_of_all_sizes():
    """Compiling takes seconds: how many steps a block has must not matter, nor how many epochs there are."""

    class Counting(CustomTrainModel):
        traces = 0

        def train_step(self, data):
            type(self).traces += 1
            return super().train_step(data)

    model = compiled(lambda base: models.dense(Counting), jit_compile=True)
    step = CompiledStep(model, "train_step")
    first_traces = 2  # TensorFlow traces again where the first trace has made variables: the optimizer's
    for size in (2, 3, 4, 1, 2, 3):
        source = ArraySource(X[:96], Y[:96], batch_size=16)
        for block in source.blocks(lambda begin, size=size: size):
            step.run(block)
            assert block.done == block.count
    assert int(model.optimizer.iterations.numpy()) == 6 * 6
    assert Counting.traces <= first_traces
    assert len(step._blocks._functions) == 1


def test_a_smaller_last_batch_is_one_program_more():
    model = compiled(models.dense, jit_compile=True)
    step = CompiledStep(model, "train_step")
    for size in (2, 3, 4, 10, 1):
        for block in ArraySource(X[:100], Y[:100], batch_size=16).blocks(lambda begin, size=size: size):
            step.run(block)
            assert block.done == block.count
    assert int(model.optimizer.iterations.numpy()) == 5 * 7
    assert len(step._blocks._functions) == 2

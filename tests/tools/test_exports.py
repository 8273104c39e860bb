"""A model that `custom_fit` has trained is exported as one that `fit` has trained; wrapped models train."""

import os

import numpy as np
import pytest

from customfit import CustomTrainModel, compat
from customfit.compat import keras, tf
from tests.parity import models
from tests.parity.compare import assert_equal, train

pytestmark = pytest.mark.tools
X, Y = models.rows(64)
DATA = {"x": X, "y": Y, "epochs": 2}


def onnx_run(path):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: X})[0]


def onnx(model, folder):
    pytest.importorskip("tf2onnx")
    if not compat.IS_KERAS_3:
        pytest.skip("`model.export(format=)` is of Keras 3")
    model.export(os.fspath(folder / "model.onnx"), format="onnx", verbose=False)
    return onnx_run(folder / "model.onnx")


def tf2onnx(model, folder):
    tf2onnx = pytest.importorskip("tf2onnx")
    function = tf.function(lambda x: model(x, training=False), autograph=False)
    spec = [tf.TensorSpec((None, 8), tf.float32, name="x")]
    tf2onnx.convert.from_function(function, spec, output_path=os.fspath(folder / "model.onnx"))
    return onnx_run(folder / "model.onnx")


def interpreted(interpreter):
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], X.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], X)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def tflite(model, folder):
    return interpreted(tf.lite.Interpreter(model_content=tf.lite.TFLiteConverter.from_keras_model(model).convert()))


def litert(model, folder):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    if not compat.IS_KERAS_3:
        pytest.skip("`model.export(format=)` is of Keras 3")
    model.export(os.fspath(folder / "model.tflite"), format="litert", verbose=False)
    return interpreted(interpreter.Interpreter(os.fspath(folder / "model.tflite")))


@pytest.mark.parametrize("export", [onnx, tf2onnx, tflite, litert], ids=lambda function: function.__name__)
def test_an_exported_model_predicts_as_one_of_fit(export, tmp_path):
    results = {}
    for base, how in ((keras.Model, "fit"), (CustomTrainModel, "custom_fit")):
        (tmp_path / how).mkdir()
        model, _ = train(models.dense, how, DATA, base=base)
        results[how] = export(model, tmp_path / how)
        np.testing.assert_allclose(results[how], model.predict(X, verbose=0), atol=1e-5)
    np.testing.assert_array_equal(results["custom_fit"], results["fit"])


def test_tfmot_returns_a_model_without_custom_fit_and_from_model_gives_it_back():
    tfmot = pytest.importorskip("tensorflow_model_optimization")
    if compat.IS_KERAS_3:
        pytest.skip("tfmot needs Keras 2")

    def quantized(cls):
        plain = tfmot.quantization.keras.quantize_model(models.dense(CustomTrainModel))
        assert not hasattr(plain, "custom_fit")
        return plain if cls is keras.Model else CustomTrainModel.from_model(plain)

    assert_equal(train(quantized, "custom_fit", DATA), train(quantized, "fit", DATA, base=keras.Model))


def test_distributions_of_tensorflow_probability_train_to_the_bits_of_fit():
    tfp = pytest.importorskip("tensorflow_probability")
    if compat.IS_KERAS_3:
        pytest.skip("TFP's layers need Keras 2")

    def build(cls):
        inputs = keras.Input((8,))
        hidden = keras.layers.Dense(8, activation="relu")(inputs)
        spread = tfp.layers.DistributionLambda(lambda t: tfp.distributions.Normal(t[..., :1], 1.0))
        return cls(inputs, spread(keras.layers.Dense(2)(hidden)))

    given = {"x": X, "y": X[:, :1], "epochs": 2}
    options = {"loss": lambda y, normal: -normal.log_prob(y), "metrics": []}
    assert_equal(train(build, "custom_fit", given, **options), train(build, "fit", given, **options))

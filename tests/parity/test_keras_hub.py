"""keras_hub's tasks preprocess in `fit` and `evaluate`: with our loop below them, raw strings and images go in."""

import numpy as np
import pytest

from customfit import CustomTrainMixin, CustomTrainModel, Every
from customfit.compat import keras, tf

keras_hub = pytest.importorskip("keras_hub")

TEXTS = ["a good film", "a bad film", "good good", "bad bad film"] * 4
LABELS = np.array([1, 0, 1, 0] * 4)
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "bad", "film"]


def text_classifier(cls):
    tokenizer = keras_hub.models.BertTokenizer(vocabulary=VOCABULARY, lowercase=True)
    preprocessor = keras_hub.models.BertTextClassifierPreprocessor(tokenizer, sequence_length=8)
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=len(VOCABULARY), num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=16
    )
    return cls(backbone=backbone, num_classes=2, preprocessor=preprocessor)


def image_classifier(cls):
    backbone = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64],
        stackwise_num_blocks=[1],
        stackwise_num_strides=[1],
        block_type="basic_block",
        image_shape=(16, 16, 3),
    )
    converter = keras_hub.layers.ResNetImageConverter(image_size=(16, 16), scale=1 / 255)
    preprocessor = keras_hub.models.ResNetImageClassifierPreprocessor(image_converter=converter)
    return cls(backbone=backbone, num_classes=2, preprocessor=preprocessor)


def images():
    x = np.random.default_rng(0).integers(0, 255, (16, 16, 16, 3)).astype("float32")
    return x, LABELS


@pytest.mark.parametrize("validation", [None, "pair", "dataset"])
@pytest.mark.parametrize("first", [False, True], ids=["theirs first", "mixin first"])
@pytest.mark.parametrize("task", ["text", "image"])
def test_raw_strings_and_images_go_in(task, first, validation):
    theirs = keras_hub.models.BertTextClassifier if task == "text" else keras_hub.models.ResNetImageClassifier
    mine = type("Mine", (CustomTrainMixin, theirs) if first else (theirs, CustomTrainModel), {})
    build = text_classifier if task == "text" else image_classifier
    x, y = (np.array(TEXTS), LABELS) if task == "text" else images()
    results = []
    for cls, how in ((theirs, "fit"), (mine, "custom_fit")):
        keras.utils.set_random_seed(3)
        model = build(cls)
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
        given = {"batch_size": 8, "epochs": 2, "verbose": 0}
        if validation == "pair":
            given["validation_data"] = (x, y)
        elif validation == "dataset":
            given["validation_data"] = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
        history = getattr(model, how)(x, y, **given)
        evaluate = model.evaluate if how == "fit" else model.custom_evaluate
        results.append((history.history, model.get_weights(), evaluate(x, y, batch_size=8, verbose=0)))
    (their_history, their_weights, their_result), (our_history, our_weights, our_result) = results
    assert our_history == their_history
    assert our_result == their_result
    for mine_, other in zip(our_weights, their_weights):
        np.testing.assert_array_equal(mine_, other)


def test_our_options_hold_for_a_task(tmp_path):
    class Mine(keras_hub.models.BertTextClassifier, CustomTrainModel):
        pass

    keras.utils.set_random_seed(3)
    model = text_classifier(Mine)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), global_clipnorm=1.0)
    x, y = np.array(TEXTS), LABELS
    given = {"batch_size": 4, "validation_data": (x, y), "validation_freq": Every(steps=2), "early_stopping": 5}
    history = model.custom_fit(x, y, epochs=2, verbose=0, checkpoint=tmp_path, **given)
    assert [each["step"] for each in history.validation] == [2, 4, 6, 8]
    assert list(tmp_path.glob("checkpoint-*"))

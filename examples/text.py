"""Text: strings into the model, words as embeddings
====================================================

Which library is a paragraph of documentation from: NumPy, scikit-learn or TensorFlow? The docstrings that are
installed with the three are some thousand real paragraphs. The model takes strings: ``TextVectorization`` is one of
its layers, so what is saved is complete. The gradients of embeddings are sparse, and the clip takes them as they are.

Run it with ``python text.py --output confusion.png``. See the accuracy on paragraphs that the model has not seen, and
in the confusion matrix which libraries sound alike. The names of the libraries are removed from the text.
"""

import argparse
import inspect
import os
import re

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before the import: TensorFlow logs less
import sklearn.cluster
import sklearn.ensemble
import sklearn.linear_model
import sklearn.preprocessing
import tensorflow as tf
from sklearn.metrics import confusion_matrix

from customfit import CustomTrainModel, callbacks

keras = tf.keras

LIBRARIES = {
    "NumPy": [np, np.linalg, np.random, np.fft],
    "scikit-learn": [sklearn.cluster, sklearn.ensemble, sklearn.linear_model, sklearn.preprocessing],
    "TensorFlow": [tf, tf.math, tf.linalg, tf.image, tf.strings],
}
NAMES = r"\b(numpy|np|sklearn|scikit|learn|tensorflow|tf|keras|ndarray|tensor|tensors)\b"


def paragraphs(modules):
    """Returns the paragraphs of prose in the docstrings of what modules have, without names of libraries."""
    found = set()
    for module in modules:
        for name in dir(module):
            docstring = inspect.getdoc(getattr(module, name, None)) or ""
            for paragraph in docstring.split("\n\n"):
                text = " ".join(re.findall(r"[a-z]+", paragraph.lower()))
                text = re.sub(NAMES, "", text)
                if ">>>" not in paragraph and len(text.split()) >= 12:
                    found.add(text)
    return sorted(found)


def main():
    """Trains on 80% of the paragraphs, and tests on the others."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", help="the file to draw into")
    parser.add_argument("--epochs", type=int, default=30, help="at most so many: early stopping may come first")
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    texts, labels = [], []
    for label, modules in enumerate(LIBRARIES.values()):
        of_library = rng.permutation(paragraphs(modules))[:900]
        texts += list(of_library)
        labels += [label] * len(of_library)
    order = rng.permutation(len(texts))
    texts, labels = np.array(texts)[order], np.array(labels)[order]
    split = int(0.8 * len(texts))

    keras.utils.set_random_seed(0)
    vectorize = keras.layers.TextVectorization(max_tokens=5000, output_sequence_length=80)
    vectorize.adapt(texts[:split])
    inputs = keras.Input((), dtype="string")
    words = keras.layers.Embedding(5000, 32)(vectorize(inputs))
    hidden = keras.layers.Dropout(0.5)(keras.layers.GlobalAveragePooling1D()(words))
    model = CustomTrainModel(inputs, keras.layers.Dense(len(LIBRARIES), activation="softmax")(hidden))
    model.compile(
        keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy", metrics=["accuracy"], global_clipnorm=1.0
    )
    model.custom_fit(
        tf.constant(texts[:split]),
        labels[:split],
        epochs=args.epochs,
        validation_split=0.1,
        early_stopping=3,
        verbose=2,
    )

    predicted = model.custom_predict(tf.constant(texts[split:]), verbose=0).argmax(-1)
    accuracy = (predicted == labels[split:]).mean()
    most_common = np.bincount(labels[split:]).max() / len(labels[split:])
    print(
        f"Accuracy on {len(texts) - split} paragraphs: {accuracy:.2%}. The most common library has {most_common:.0%}."
    )
    if accuracy < most_common + 0.3:
        raise SystemExit("The model was expected to tell the libraries apart.")
    if args.output:
        matrix = confusion_matrix(labels[split:], predicted)
        callbacks.plot_confusion_matrix(matrix, list(LIBRARIES)).figure.savefig(args.output, dpi=100)


if __name__ == "__main__":
    main()

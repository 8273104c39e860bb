"""What `verbose=1` shows in a notebook, which is run by a real kernel: the lines that `fit` shows."""

import re

import pytest

pytestmark = pytest.mark.tools

SETUP = """
import numpy as np
from customfit import CustomTrainModel
from customfit.compat import keras, tf
from tests.parity import models

X, Y = models.rows(96)


def model():
    keras.utils.set_random_seed(1)
    made = models.dense(CustomTrainModel)
    made.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return made


def batches():
    for begin in range(0, 96, 16):
        yield X[begin : begin + 16], Y[begin : begin + 16]


unknown = tf.data.Dataset.from_generator(
    batches, output_signature=(tf.TensorSpec([None, 8]), tf.TensorSpec([None], tf.int64))
)
validated = {"validation_data": (X[:32], Y[:32]), "shuffle": False, "batch_size": 16, "epochs": 3}
"""
CALLS = {
    "blocks": "model().{how}(X, Y, **validated)",
    "unknown size": "model().{how}(unknown, epochs=2)",
}


def run(*cells):
    """The text that each cell has printed, as a notebook renders it."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    return ["".join(o["text"] for o in cell.outputs if o.get("name") == "stdout") for cell in notebook.cells]


def rendered(text):
    """Lines as they stand in the end: after carriage returns and backspaces, without colors; times as T."""
    lines = []
    for line in re.sub(r"\x1b\[[0-9;]*m", "", text).split("\n"):
        shown, column = [], 0
        for character in line:
            if character == "\r":
                column = 0
            elif character == "\b":
                column = max(0, column - 1)
            else:
                shown[column : column + 1] = character
                column += 1
        lines.append(re.sub(r"\d+(us|ms|s|:\d+)(/step|/epoch)?", "T", "".join(shown)).rstrip())
    return [line for line in lines if line]


def test_the_bar_ends_as_that_of_fit():
    cells = [SETUP]
    for call in CALLS.values():
        cells += [call.format(how=how) + ";" for how in ("fit", "custom_fit")]
    _, *texts = run(*cells)
    for name, theirs, ours in zip(CALLS, texts[::2], texts[1::2]):
        assert rendered(ours) == rendered(theirs), name
        assert any("loss" in line for line in rendered(ours))


def test_a_resumed_run_shows_its_epochs_alone(tmp_path):
    call = f"model().custom_fit(X, Y, batch_size=16, epochs={{}}, checkpoint={str(tmp_path / 'run')!r});"
    _, first, second = run(SETUP, call.format(2), call.format(4))
    epochs = [line for line in rendered(first) + rendered(second) if line.startswith("Epoch ")]
    assert epochs == ["Epoch 1/2", "Epoch 2/2", "Epoch 3/4", "Epoch 4/4"]
    assert "Resuming from" in second
    assert len([line for line in rendered(second) if "loss" in line and "6/6" in line]) == 2

"""`eject`: the script does what the call of `custom_fit` does, without customfit."""

import subprocess
import sys

import numpy as np
import pytest

import customfit
from customfit import CustomTrainModel, EarlyStopping, Every
from customfit.compat import keras, tf
from tests.parity import models
from tests.parity.compare import compiled

X, Y = models.rows(70)
KERAS_3 = hasattr(keras, "ops")

# What a user of the script would write around it: the same layers in a plain model, and the data.
AROUND = """
import sys
import numpy as np
import script
keras = script.keras
assert not any(name.startswith("customfit") for name in sys.modules), "the script must not import customfit"
saved = np.load("data.npz")
model = keras.models.model_from_json(open("model.json").read())
for index, variable in enumerate(model.variables):  # the states of seeds among them
    variable.assign(saved[f"w{index}"])
keras.utils.set_random_seed(7)
data = {name: saved[name] for name in ("y", "sample_weight") if name in saved}
if "xv" in saved:
    data["validation_data"] = (saved["xv"], saved["yv"])
history = script.train(model, DATA, **data)
np.savez("result.npz", *model.get_weights(), history=np.array([*history.values()]), names=[*history])
"""


def run_script(folder, model, script, data="saved['x']", **arrays):
    folder.joinpath("script.py").write_text(script)
    plain = keras.Model(model.inputs, model.outputs)
    folder.joinpath("model.json").write_text(plain.to_json())
    weights = {f"w{index}": variable.numpy() for index, variable in enumerate(plain.variables)}
    np.savez(folder / "data.npz", x=X, **weights, **arrays)
    code = f"import sys; sys.path.insert(0, {str(folder)!r})\n" + AROUND.replace("DATA", data)
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr + script
    result = np.load(folder / "result.npz")
    return [result[f"arr_{index}"] for index in range(len(model.weights))], dict(
        zip(result["names"], result["history"])
    )


CALLS = {
    "plain": ({}, {"shuffle": False}),
    "shuffled": ({"optimizer": lambda: keras.optimizers.Adam(0.01)}, {}),
    "clipped": ({"global_clipnorm": 0.1}, {"validation_split": 0.2}),
    "clipped_sums": ({"global_clipnorm": 0.1, "gradient_accumulation_steps": 3, "optimizer": "adam"}, {"epochs": 3}),
    "accumulated": ({"gradient_accumulation_steps": 3, "clipnorm": 0.2, "optimizer": "adam"}, {"epochs": 3}),
    "weighted": ({"clipvalue": 0.01}, {"sample_weight": np.linspace(0.1, 2.0, 70, dtype="float32")}),
    "stopped": (
        {"optimizer": lambda: keras.optimizers.Adam(0.05)},
        {"validation_data": (X[:30], Y[:30]), "early_stopping": 2, "epochs": 30},
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_the_script_ends_with_the_weights_of_custom_fit(call, tmp_path):
    options, arguments = CALLS[call]
    build = models.dropout if KERAS_3 else models.batch_norm
    keras.utils.set_random_seed(7)
    model = compiled(build, **options)
    arguments = {"batch_size": 16, "epochs": 2, **arguments}
    script = customfit.eject(model, X, Y, **arguments)
    validation = arguments.get("validation_data")
    arrays = {"y": Y, **({} if validation is None else {"xv": validation[0], "yv": validation[1]})}
    if "sample_weight" in arguments:
        arrays["sample_weight"] = arguments["sample_weight"]
    weights, logs = run_script(tmp_path, model, script, **arrays)
    keras.utils.set_random_seed(7)
    history = model.custom_fit(X, Y, verbose=0, **arguments)
    for ours, theirs in zip(model.get_weights(), weights):
        np.testing.assert_array_equal(ours, theirs)
    for name, values in history.history.items():
        np.testing.assert_array_equal(logs[name], values, err_msg=name)
    assert logs.keys() == history.history.keys()


def test_a_dataset_and_checkpoints(tmp_path):
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
    keras.utils.set_random_seed(7)
    model = compiled(models.dense, optimizer="adam")
    script = customfit.eject(model, data, epochs=3, checkpoint=str(tmp_path / "saved"))
    source = "script.tf.data.Dataset.from_tensor_slices((saved['x'], saved['labels'])).batch(16)"
    weights, _ = run_script(tmp_path, model, script, source, labels=Y)
    again, logs = run_script(tmp_path, model, script, source, labels=Y)
    assert logs == {}  # the second run finds the checkpoint of the last epoch
    model.custom_fit(data, epochs=3, verbose=0)
    for ours, first, second in zip(model.get_weights(), weights, again):
        np.testing.assert_array_equal(ours, first)
        np.testing.assert_array_equal(ours, second)


def test_the_script_reads_like_a_script():
    options = {"optimizer": lambda: keras.optimizers.Adam(0.002), "global_clipnorm": 1.0}
    script = customfit.eject(compiled(models.dense, **options), X, Y, epochs=5, early_stopping=3)
    compile(script, "script.py", "exec")
    assert "optimizer=keras.optimizers.Adam(learning_rate=0.002)," in script
    assert "customfit" not in script.replace("custom_fit", "")
    assert max(map(len, script.splitlines())) <= 120


@pytest.mark.parametrize(
    ("options", "arguments", "match"),
    [
        ({}, {"max_time": 10}, "cannot write a loop with `max_time`"),
        ({}, {"callbacks": [keras.callbacks.TerminateOnNaN()]}, "cannot write a loop with `callbacks`"),
        ({}, {"validation_freq": Every(steps=2)}, "cannot write a loop with `validation_freq`"),
        ({"adaptive_clip": 0.1}, {}, "cannot write these options of `compile.*adaptive_clip"),
        ({"optimizer": [("kernel", "sgd"), ("bias", "adam")]}, {}, "consists of others"),
        ({"loss": lambda y, p: tf.reduce_mean(p)}, {}, "can only import what a module has under a name"),
        ({}, {"early_stopping": EarlyStopping("loss", baseline=0.1)}, "early stopping with `baseline`"),
    ],
    # Not the values, whose addresses differ from process to process.
    ids=lambda value: value if isinstance(value, str) else "-".join(value) or "none",
)
def test_what_the_script_cannot_do_is_refused(options, arguments, match):
    with pytest.raises(ValueError, match=match):
        customfit.eject(compiled(models.dense, **options), X, Y, **arguments)


def test_a_step_of_one_s_own_is_refused():
    class Own(CustomTrainModel):
        def train_step(self, data):
            return super().train_step(data)

    with pytest.raises(ValueError, match="a Own, which has a `train_step` of its own"):
        customfit.eject(compiled(models.dense, Own), X, Y)

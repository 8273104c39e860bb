"""`eject`: the plain TensorFlow loop that does what a call of `custom_fit` does."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any

from customfit import compat
from customfit.callbacks import EarlyStopping, make_early_stopping
from customfit.checkpoint import Checkpoints
from customfit.compat import keras, tf
from customfit.models import CustomTrainModel
from customfit.tools.expressions import Expressions

# What the script can do without, or does in its own way.
_WRITTEN = {
    *("x", "y", "batch_size", "epochs", "initial_epoch", "shuffle", "sample_weight", "validation_data"),
    *("validation_split", "validation_batch_size", "early_stopping", "checkpoint", "verbose"),
}
_CLIPS = {
    "clipvalue": """
        gradients = [None if g is None else tf.clip_by_value(g, -{0}, {0}) for g in gradients]
    """,
    "clipnorm": """
        norms = [None if g is None else tf.norm(g) for g in gradients]
        gradients = [
            None if g is None else tf.where(norm <= {0}, g, tf.clip_by_norm(g, {0}))
            for g, norm in zip(gradients, norms)
        ]
    """,
    "global_clipnorm": """
        norm = tf.linalg.global_norm(gradients)
        scale = tf.where(norm <= {0}, 1.0, {0} * (1.0 / norm) + (norm - norm))  # NaN if the norm is infinite
        gradients = [None if g is None else g * tf.cast(scale, g.dtype) for g in gradients]
    """,
}


def eject(model: keras.Model, x: Any = None, y: Any = None, **arguments: Any) -> str:
    """Returns a script in plain TensorFlow and Keras that does what `model.custom_fit(x, y, ...)` would do.

    It shows what the library does, and is a way to leave it: the script does not import customfit, and ends with the
    same weights, to the bit. It has a function `train(model, x, y, ...)` with the loop: tape, clipping, accumulation,
    metrics, validation, early stopping, checkpoints (in simple form, after each epoch). Steps run one a call, so small
    models train slower than under `custom_fit`.

    Args:
        model: A compiled `CustomTrainModel`. Its options of `compile()` are in the script; its layers are not.
        x: As in `custom_fit`.
        y: As in `custom_fit`.
        **arguments: As in `custom_fit`. `verbose` has no effect.

    Returns:
        The script.

    Raises:
        TypeError: If `custom_fit` has no argument of a name.
        ValueError: If the script cannot do what an argument or an option of `compile()` asks for.

    Example:

    >>> print(customfit.eject(model, x, y, epochs=20, validation_split=0.2, early_stopping=3))
    >>> Path("train.py").write_text(customfit.eject(model, x, y, epochs=20))
    """
    given = _given(model, x, y, arguments)
    _check_model(model)
    expressions = Expressions()
    parts = _Parts(model, given, expressions)
    body = [parts.compile(), parts.data(), parts.steps(), parts.checkpoint(), parts.loop()]
    function = f'def train({parts.signature()}):\n    """Trains `model`, a `keras.Model`. Returns its history."""\n'
    function += "\n".join(textwrap.indent(part, "    ") for part in body if part)
    imports = [*expressions.imports, *_import_of_keras()]
    head = '"""The training loop of a call of `custom_fit`, in plain TensorFlow and Keras."""\n\nimport math\n\n'
    head += "import numpy as np\nimport tensorflow as tf\n" + "\n".join(imports)
    return f"{head}\n\n\n{_BATCHES}\n\n{function.rstrip()}\n"


def _given(model: keras.Model, x: Any, y: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    signature = inspect.signature(CustomTrainModel.custom_fit)
    bound = signature.bind(model, x, y, **arguments)
    defaults = {name: parameter.default for name, parameter in signature.parameters.items()}
    for name, value in bound.arguments.items():
        default = defaults[name]
        if name == "self" or name in _WRITTEN or value is default or (isinstance(value, int) and value == default):
            continue
        if name in ("callbacks", "workers") and not value:
            continue
        raise ValueError(f"`eject` cannot write a loop with `{name}`. Leave it out. Received: {name}={value!r}")
    bound.apply_defaults()
    return dict(bound.arguments)


def _check_model(model: keras.Model) -> None:
    if not compat.is_compiled(model):
        raise RuntimeError("The model must be compiled before its loop is written: call `model.compile()` first.")
    options = model.gradient_pipeline.get_config()
    unknown = sorted(set(options) - {*_CLIPS, "gradient_accumulation_steps"})
    if unknown:
        raise ValueError(
            f"`eject` cannot write these options of `compile()`: {', '.join(unknown)}. Received: "
            f"{', '.join(f'{name}={options[name]!r}' for name in unknown)}"
        )
    for name in ("train_step", "test_step", "transform_gradients", "fit", "evaluate"):
        if getattr(type(model), name) is not getattr(CustomTrainModel, name):
            raise ValueError(
                f"`eject` writes the steps of `CustomTrainModel`. Received: a {type(model).__name__}, which has a "
                f"`{name}` of its own. Copy it into the script."
            )
    if hasattr(model.optimizer, "inner_optimizer") or hasattr(model.optimizer, "groups"):
        raise ValueError(
            f"`eject` cannot write an optimizer that consists of others. Received: a {type(model.optimizer).__name__}"
        )
    if model.distribute_strategy.num_replicas_in_sync > 1:
        raise ValueError("`eject` cannot write a loop for several replicas.")


def _import_of_keras() -> list[str]:
    name = {"keras": "import keras", "tf_keras": "import tf_keras as keras"}.get(keras.__name__.partition(".")[0])
    return ["\nkeras = tf.keras"] if keras.Model is tf.keras.Model else [str(name)]


class _Parts:
    """The parts of the script's function.

    Args:
        model: The model.
        given: The arguments of `custom_fit`.
        expressions: Writes objects.
    """

    def __init__(self, model: keras.Model, given: dict[str, Any], expressions: Expressions):
        self._model = model
        self._given = given
        self._write = expressions
        self._options = model.gradient_pipeline.get_config()
        self._is_dataset = isinstance(given["x"], tf.data.Dataset)
        self._splits = bool(given["validation_split"]) and given["validation_data"] is None
        self._validates = self._splits or given["validation_data"] is not None
        prefixes = ["val_"] if self._validates else []
        self._stopping = make_early_stopping(given["early_stopping"], prefixes, 0)
        if isinstance(given["validation_data"], dict):
            raise ValueError("`eject` cannot write several sets of validation data. Received: a dict of them")
        if not (self._is_dataset or hasattr(given["x"], "shape") or isinstance(given["x"], (dict, list, tuple))):
            raise ValueError(f"`x` must be arrays or a `tf.data.Dataset`. Received: x of type {type(given['x'])}")

    def signature(self) -> str:
        names = ["model", "x"] if self._is_dataset else ["model", "x", "y=None", "sample_weight=None"]
        return ", ".join([*names, *(["validation_data=None"] if self._validates and not self._splits else [])])

    def compile(self) -> str:
        config = self._model.get_compile_config() or {}
        names = ("loss_weights", "metrics", "weighted_metrics")
        kept = compat.deserialize_keras_object({name: config.get(name) for name in names})
        kept = {"loss": self._model.loss, **kept}
        arguments = [f"optimizer={self._write.of(self._model.optimizer)}"]
        arguments += [f"{name}={self._write.of(value)}" for name, value in kept.items() if value is not None]
        lines = "".join(f"    {argument},\n" for argument in arguments)
        return f"model.compile(\n{lines})\noptimizer = model.optimizer\n"

    def data(self) -> str:
        if self._is_dataset:
            return ""
        lines = ["data = tf.nest.map_structure(as_array, (x, y, sample_weight))"]
        rows = "rows = len(tf.nest.flatten(x)[0])"
        if self._splits:
            share = self._given["validation_split"]
            lines += [
                rows,
                f"split = int(math.floor(rows * (1.0 - {share})))  # validation data is the end",
                "validation = take(data, slice(split, rows))",
                "data, rows = take(data, slice(0, split)), split",
            ]
        else:
            lines += [rows]
        if self._given["shuffle"]:
            lines += [
                "# The order of `tf.random.set_seed`, new in each epoch.",
                "shuffled = tf.data.Dataset.range(1).repeat().map(lambda _: tf.random.shuffle(tf.range(rows)))",
                "orders = iter(shuffled)",
            ]
        return "\n".join(lines) + "\n"

    def steps(self) -> str:
        takes_training = "training" in inspect.signature(keras.Model.compute_loss).parameters
        compute = lambda training: (  # noqa: E731
            "loss = model.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight"
            + (f", training={training})" if takes_training else ")")
        )
        track = ""
        if compat.GENERATION == 3:
            track = f"model.metrics[0].update_state(loss, sample_weight={_ROWS})  # the loss\n"
        jit = ", jit_compile=True" if compat.jit_compile(self._model) else ""
        update = "optimizer.apply_gradients(zip(gradients, model.trainable_variables))"
        steps = self._options.get("gradient_accumulation_steps")
        clip = "".join(
            textwrap.dedent(code).strip().format(repr(self._options[name])) + "\n"
            for name, code in _CLIPS.items()
            if name in self._options
        )
        gradients = "gradients = tape.gradient(loss, model.trainable_variables)\n"
        if clip or steps:
            gradients += "gradients = [None if g is None else tf.convert_to_tensor(g) for g in gradients]\n"
        text = _ACCUMULATION.format(steps=steps, clip=textwrap.indent(clip, "    "), update=update) if steps else ""
        apply = f"accumulate(gradients, {_ROWS})\n" if steps else f"{clip}{update}\n"
        text += f"@tf.function(reduce_retracing=True{jit})\ndef train_step(x, y, sample_weight):\n"
        text += "    with tf.GradientTape() as tape:\n        y_pred = model(x, training=True)\n"
        text += f"        {compute(True)}\n" + textwrap.indent(gradients + track + apply, "    ")
        text += f"    {_RETURN}\n\n"
        if self._validates:
            text += f"@tf.function(reduce_retracing=True{jit})\ndef test_step(x, y, sample_weight):\n"
            text += f"    y_pred = model(x, training=False)\n    {compute(False)}\n" + textwrap.indent(track, "    ")
            text += f"    {_RETURN}\n\n"
        return text

    def checkpoint(self) -> str:
        if self._given["checkpoint"] is None:
            return ""
        options = Checkpoints.of(self._given["checkpoint"])
        return textwrap.dedent(f"""
            done = tf.Variable(0)  # epochs
            saved = tf.train.Checkpoint(model=model, optimizer=optimizer, done=done)
            manager = tf.train.CheckpointManager(saved, {str(options.directory)!r}, max_to_keep={options.keep})
            optimizer.build(model.trainable_variables)
            saved.restore(manager.latest_checkpoint)
            """).lstrip()

    def loop(self) -> str:
        given, stopping = self._given, self._stopping
        first = "int(done)" if given["checkpoint"] is not None else str(given["initial_epoch"])
        text = "history = {}\n"
        if stopping is not None:
            text += "best = best_weights = None\nwait = 0\n"
        text += f"for epoch in range({first}, {given['epochs']}):\n    model.reset_metrics()\n"
        size = given["batch_size"] or 32
        if self._is_dataset:
            text += "    for batch in x:\n        train_step(*keras.utils.unpack_x_y_sample_weight(batch))\n"
        else:
            text += f"    order = {'next(orders).numpy()' if given['shuffle'] else 'np.arange(rows)'}\n"
            text += f"    for batch in batches(data, order, {size}):\n        train_step(*batch)\n"
        if self._options.get("gradient_accumulation_steps"):
            text += "    apply_accumulated()  # what is left at the end of the epoch\n"
        text += "    logs = {name: float(value) for name, value in model.get_metrics_result().items()}\n"
        if self._validates:
            text += "\n" + textwrap.indent(self._validation(given["validation_batch_size"] or size), "    ")
        text += '\n    print(f"Epoch {epoch + 1}:", *(f"{name} = {value:.4f}" for name, value in logs.items()))\n'
        text += "    for name, value in logs.items():\n        history.setdefault(name, []).append(value)\n"
        if stopping is not None:
            text += "\n" + textwrap.indent(_early_stopping(stopping), "    ")
        if given["checkpoint"] is not None:
            text += "    done.assign(epoch + 1)\n    manager.save()\n"
        if stopping is not None:
            text += "    if stops:\n        break\n"
            if stopping.restore_best_weights:
                text += "\nif best_weights is not None:\n    model.set_weights(best_weights)\n"
        if getattr(self._model.optimizer, "use_ema", False):
            text += "optimizer.finalize_variable_values(model.trainable_variables)\n"
        return text + "return history\n"

    def _validation(self, size: int) -> str:
        text = "model.reset_metrics()\n"
        data = self._given["validation_data"]
        if isinstance(data, tf.data.Dataset):
            text += "for batch in validation_data:\n    test_step(*keras.utils.unpack_x_y_sample_weight(batch))\n"
        else:
            if not self._splits:
                text += "validation = tf.nest.map_structure(\n    as_array, keras.utils.unpack_x_y_sample_weight"
                text += "(validation_data)\n)\n"
            text += "held_out = np.arange(len(tf.nest.flatten(validation)[0]))\n"
            text += f"for batch in batches(validation, held_out, {size}):\n    test_step(*batch)\n"
        text += "held_out_logs = model.get_metrics_result()\n"
        return text + 'logs.update({f"val_{name}": float(value) for name, value in held_out_logs.items()})\n'


def _early_stopping(stopping: Any) -> str:
    """The lines of early stopping after an epoch; they set `stops`."""
    simple = EarlyStopping(stopping.monitor, mode=getattr(stopping, "mode", "auto"))
    for name in ("baseline", "stopping_threshold", "divergence_threshold", "start_from_epoch"):
        value = getattr(stopping, name, None)
        if value not in (None, 0):
            raise ValueError(f"`eject` cannot write early stopping with `{name}`. Received: {name}={value!r}")
    if not isinstance(stopping, EarlyStopping):
        raise ValueError("`eject` writes customfit's early stopping. Received: Keras's own callback")
    lower = simple.direction == "min"
    delta = f" {'-' if lower else '+'} {stopping.min_delta!r}" if stopping.min_delta else ""
    finite = " or not math.isfinite(value)" if stopping.check_finite else ""
    keep = "    best_weights = model.get_weights()\n" if stopping.restore_best_weights else ""
    return (
        f'value = logs["{stopping.monitor}"]\n'
        "wait += 1\n"
        f"if math.isfinite(value) and (best is None or value {'<' if lower else '>'} best{delta}):\n"
        f"    best, wait = value, 0\n{keep}"
        f"stops = (wait >= max({stopping.patience}, 1) and epoch > 0){finite}\n"
    )


_BATCHES = '''def as_array(data):
    """Returns an array in the precision that Keras computes in; `None` stays `None`."""
    if data is None:
        return None
    data = np.asarray(data)
    return data.astype(keras.backend.floatx()) if data.dtype == "float64" else data


def take(data, rows):
    """Returns rows of arrays."""
    return tf.nest.map_structure(lambda array: None if array is None else array[rows], data)


def batches(data, order, batch_size):
    """Yields batches of rows in an order."""
    for begin in range(0, len(order), batch_size):
        batch = take(data, order[begin : begin + batch_size])
        yield tf.nest.map_structure(lambda array: None if array is None else tf.convert_to_tensor(array), batch)
'''
# The steps return their logs, as Keras's do: TensorFlow optimizes a function without outputs differently, which changes
# how it rounds.
_RETURN = "return model.compute_metrics(x, y, y_pred, sample_weight)"
_ROWS = "tf.shape(tf.nest.flatten(x)[0])[0]"
_ACCUMULATION = """\
sums = [tf.Variable(tf.zeros_like(variable), trainable=False) for variable in model.trainable_variables]
rows_of_sums = tf.Variable(0.0, trainable=False)
batches_of_sums = tf.Variable(0, trainable=False)

def apply_sums():
    gradients = [total / tf.cast(rows_of_sums, total.dtype) for total in sums]
{clip}    {update}
    for variable in (*sums, rows_of_sums, batches_of_sums):
        variable.assign(tf.zeros_like(variable))
    return tf.constant(0)

@tf.function
def apply_accumulated():
    tf.cond(batches_of_sums > 0, apply_sums, lambda: tf.constant(0))

def accumulate(gradients, rows):
    rows = tf.cast(rows, tf.float32)
    for total, gradient in zip(sums, gradients):
        total.assign_add(gradient * tf.cast(rows, gradient.dtype))
    rows_of_sums.assign_add(rows)
    batches_of_sums.assign_add(1)
    tf.cond(batches_of_sums >= {steps}, apply_sums, lambda: tf.constant(0))

"""

"""The health of each layer's gradients: their norms, and how far each update moves the weights."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Callable

import numpy as np

from customfit import compat
from customfit.compat import keras, tf


class GradientHealth(keras.callbacks.Callback):
    """Measures each variable's gradients in every update, and names those that do not do well.

    The norms are taken on the way through the gradient pipeline, before the clip: there is no second backward pass. It
    has no batch hook, so steps still run in blocks. It works under `fit()` and `custom_fit()`.

    A ratio of update to weights of about 1e-3 is healthy for most models; much more is a learning rate too high, much
    less one too low.

    Args:
        log_dir: A folder for TensorBoard, which then has `gradient_norm/<variable>` and `update_ratio/<variable>` for
            each epoch. Defaults to `None`.
        vanishing: Gradients vanish in a variable if their mean norm is below this share of the median of all variables.
            Defaults to 1e-4.
        exploding: They explode if it is above this many times that median. Defaults to 1e4.
        print_fn: What prints the findings, each once; `None`: nobody. Defaults to `print`.

    Attributes:
        names: The variables.
        norms: For each epoch, the mean gradient norm of each variable over the updates.
        update_ratios: For each epoch, the mean ratio of the norm of an update to that of the weights.
        findings: For each epoch, what is wrong by variable: "zero", "vanishing", "exploding" or "not finite".

    Example:

    >>> health = GradientHealth()
    >>> history = model.custom_fit(x, y, epochs=5, callbacks=[health])
    >>> health.plot("health.png")
    """

    def __init__(
        self,
        log_dir: Any = None,
        *,
        vanishing: float = 1e-4,
        exploding: float = 1e4,
        print_fn: Callable[[str], Any] | None = print,
    ):
        super().__init__()
        self.vanishing, self.exploding = vanishing, exploding
        self.names: list[str] = []
        self.norms: list[np.ndarray] = []
        self.update_ratios: list[np.ndarray] = []
        self.findings: list[dict[str, str]] = []
        self._print = print_fn
        self._printed: set[tuple[str, str]] = set()
        self._writer = None if log_dir is None else _writer(log_dir)

    def set_model(self, model):
        super().set_model(model)
        pipeline = getattr(model, "gradient_pipeline", None)
        if pipeline is None:
            raise TypeError(
                f"`GradientHealth` must be given to a `CustomTrainModel`. Received: a {type(model).__name__}"
            )
        pipeline.measure_layers(model)

    def on_epoch_begin(self, epoch, logs=None):
        self.model.gradient_pipeline.metrics.reset_layers()

    def on_epoch_end(self, epoch, logs=None):
        measured = self.model.gradient_pipeline.metrics.layer_results()
        if measured is None:
            warnings.warn(
                "`GradientHealth` has seen no update in this epoch: the model's own `train_step` must call "
                "`self.apply_gradients`.",
                stacklevel=2,
            )
            return
        self.names, columns = measured
        self.norms.append(columns["norm"])
        self.update_ratios.append(columns["update_ratio"])
        findings = diagnose(self.names, columns, self.vanishing, self.exploding)
        self.findings.append(findings)
        for name, finding in findings.items():
            if self._print is not None and (name, finding) not in self._printed:
                self._print(f"Epoch {epoch + 1}: the gradients of {name} are {finding}.")
                self._printed.add((name, finding))
        if self._writer is not None:
            with self._writer.as_default():
                for name, norm, ratio in zip(self.names, columns["norm"], columns["update_ratio"]):
                    tf.summary.scalar(f"gradient_norm/{name}", norm, epoch)
                    tf.summary.scalar(f"update_ratio/{name}", ratio, epoch)
            self._writer.flush()

    def plot(self, path: Any) -> None:
        """Draws norms and update ratios, a line a variable over the epochs, and saves them as an image.

        Args:
            path: The file to write, such as "health.png".

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: If no epoch has been measured.
        """
        if not self.norms:
            raise ValueError("There must be an epoch to plot: train with this callback first. Received: none")
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise ImportError("`GradientHealth.plot` needs matplotlib: `pip install matplotlib`.") from None
        figure = Figure(figsize=(12, 5), layout="constrained")
        epochs = np.arange(1, len(self.norms) + 1)
        panels = (("Gradient norm", self.norms), ("Update-to-weight ratio", self.update_ratios))
        for axes, (title, values) in zip(figure.subplots(1, 2), panels):
            for name, line in zip(self.names, np.stack(values, axis=1)):
                axes.plot(epochs, np.where(line > 0, line, np.nan), marker=".", label=name)
            axes.set(title=title, xlabel="epoch", yscale="log")
            axes.grid(alpha=0.3)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", fontsize="small")
        figure.savefig(path, dpi=120)


def diagnose(names: Sequence[str], columns: dict[str, Any], vanishing: float, exploding: float) -> dict[str, str]:
    """What is wrong with which variable's gradients.

    Args:
        names: The variables.
        columns: For each, the mean `norm`, and the shares of updates with `zero` and `nonfinite` gradients.
        vanishing: The least norm, as a share of the median.
        exploding: The largest norm, as a multiple of the median.

    Returns:
        The finding by variable; none for the healthy.
    """
    norms = np.asarray(columns["norm"])
    usual = np.median(norms[norms > 0]) if (norms > 0).any() else 0.0
    findings = {}
    for name, norm, zero, nonfinite in zip(names, norms, columns["zero"], columns["nonfinite"]):
        if nonfinite > 0:
            findings[name] = "not finite"
        elif zero == 1:
            findings[name] = "always zero"
        elif norm < vanishing * usual:
            findings[name] = "vanishing"
        elif norm > exploding * usual:
            findings[name] = "exploding"
    return findings


def _writer(log_dir: Any) -> Any:
    if not compat.has_tensorboard():
        raise ImportError("`GradientHealth(log_dir=)` needs TensorBoard: `pip install tensorboard`.")
    return tf.summary.create_file_writer(str(log_dir))

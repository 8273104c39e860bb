"""The health of each variable's gradients: their norms, and how far each update moves the weights."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Callable

import numpy as np

from customfit import compat
from customfit.callbacks.figures import Axes, new_panels
from customfit.callbacks.printing import print_line, shows_progress_bar
from customfit.compat import keras, tf


class GradientHealth(keras.callbacks.Callback):
    """Measures each variable's gradients in every update, and reports those that look problematic.

    The norms are measured within the gradient pipeline, before the clip, without a second backward pass. The callback
    has no batch hook, so steps still run in blocks. It works under `fit()` and `custom_fit()`.

    For most models, an update is about 1e-3 of the weights' norm. A ratio far above that suggests a learning rate that
    is too high, one far below it a learning rate that is too low.

    Args:
        log_dir: A folder for TensorBoard, to which `gradient_norm/<variable>` and `update_ratio/<variable>` are written
            for each epoch. Defaults to `None`.
        vanishing: The gradients of a variable vanish if their mean norm is below this share of the median over all
            variables. Defaults to 1e-4.
        exploding: They explode if it is above this many times that median. Defaults to 1e4.
        print_fn: Prints each finding once. `None` prints nothing. Defaults to `print`.

    Attributes:
        names: The variables.
        norms: For each epoch, the mean gradient norm of each variable over the updates.
        update_ratios: For each epoch, the mean ratio of the norm of an update to that of the weights.
        findings: For each epoch, the problem by variable: "always zero", "vanishing", "exploding" or "not finite".

    Example:

    >>> health = GradientHealth()
    >>> history = model.custom_fit(x, y, epochs=5, callbacks=[health])
    >>> health.plot("health.png")
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] | None = None,
        *,
        vanishing: float = 1e-4,
        exploding: float = 1e4,
        print_fn: Callable[[str], object] | None = print,
    ):
        super().__init__()
        self.vanishing, self.exploding = vanishing, exploding
        self.names: list[str] = []
        self.norms: list[np.ndarray] = []
        self.update_ratios: list[np.ndarray] = []
        self.findings: list[dict[str, str]] = []
        self.print_fn = print_fn
        self._printed: set[tuple[str, str]] = set()
        self.writer = None if log_dir is None else _writer(log_dir)

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        pipeline = getattr(model, "gradient_pipeline", None)
        if pipeline is None:
            raise TypeError(
                f"`GradientHealth` must be given to a `CustomTrainModel`. Received: a {type(model).__name__}"
            )
        pipeline.measure_layers(model)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self.model.gradient_pipeline.metrics.reset_layers()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        measured = self.model.gradient_pipeline.metrics.layer_results()
        if measured is None:
            warnings.warn(
                "`GradientHealth` has measured no update in this epoch. A `train_step` of your own must call "
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
            if self.print_fn is not None and (name, finding) not in self._printed:
                line = f"Epoch {epoch + 1}: the gradients of {name} are {finding}."
                print_line(line, self.print_fn, after_bar=shows_progress_bar(self))
                self._printed.add((name, finding))
        if self.writer is not None:
            with self.writer.as_default():
                for name, norm, ratio in zip(self.names, columns["norm"], columns["update_ratio"]):
                    tf.summary.scalar(f"gradient_norm/{name}", norm, epoch)
                    tf.summary.scalar(f"update_ratio/{name}", ratio, epoch)
            self.writer.flush()

    def plot(self, path: str | os.PathLike[str] | None = None) -> list[Axes]:
        """Plots norms and update ratios over the epochs, a line for each variable.

        Args:
            path: A file to save the image in, such as "health.png". Defaults to `None`.

        Returns:
            The axes of the two panels.

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: If no epoch has been measured.
        """
        if not self.norms:
            raise ValueError("There is nothing to plot. Train for an epoch with this callback first.")
        panels = new_panels("GradientHealth.plot", 2)
        epochs = np.arange(1, len(self.norms) + 1)
        titles = {"Gradient norm": self.norms, "Update-to-weight ratio": self.update_ratios}
        for axes, (title, values) in zip(panels, titles.items()):
            for name, line in zip(self.names, np.stack(values, axis=1)):
                axes.plot(epochs, np.where(line > 0, line, np.nan), marker=".", label=name)
            axes.set(title=title, xlabel="epoch", yscale="log")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(alpha=0.3)
        figure = panels[0].figure
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", fontsize="small")
        if path is not None:
            figure.savefig(path, dpi=120)
        return panels


def diagnose(
    names: Sequence[str], columns: Mapping[str, np.ndarray], vanishing: float, exploding: float
) -> dict[str, str]:
    """Finds variables whose gradients look problematic.

    Args:
        names: The variables.
        columns: For each variable, the mean `norm`, and the shares of updates with `zero` and `nonfinite` gradients.
        vanishing: The smallest healthy norm, as a share of the median.
        exploding: The largest healthy norm, as a multiple of the median.

    Returns:
        The problem by variable; healthy ones are left out.
    """
    norms = np.asarray(columns["norm"])
    median = np.median(norms[norms > 0]) if (norms > 0).any() else 0.0
    findings = {}
    for name, norm, zero, nonfinite in zip(names, norms, columns["zero"], columns["nonfinite"]):
        if nonfinite > 0:
            findings[name] = "not finite"
        elif zero == 1:
            findings[name] = "always zero"
        elif norm < vanishing * median:
            findings[name] = "vanishing"
        elif norm > exploding * median:
            findings[name] = "exploding"
    return findings


def _writer(log_dir: str | os.PathLike[str]) -> tf.summary.SummaryWriter:
    if not compat.has_tensorboard():
        raise ImportError("`GradientHealth(log_dir=)` needs TensorBoard: `pip install tensorboard`.")
    return tf.summary.create_file_writer(str(log_dir))

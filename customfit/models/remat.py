"""Less memory for activations: blocks of a functional model whose activations are computed again in the backward pass.

Rematerialisation, or gradient checkpointing (Chen et al. 2016, https://arxiv.org/abs/1604.06174). Each block runs in
`tf.recompute_grad`, which keeps what the block takes and drops what it computes. A block that is computed again must
compute what it has computed before, and must leave nothing behind: `Recomputation` sees to both.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Callable, Union

from customfit import compat
from customfit.compat import keras, tf
from customfit.models.blocks import Block, divide

Remat = Union[bool, Sequence[str], None]

# Ops that change a resource or draw random numbers, by the beginnings of their names, and ops that call Python.
CHANGING = (
    "Assign",
    "ResourceScatter",
    "ResourceStridedSliceAssign",
    "Rng",
    "StatefulUniform",
    "StatefulStandardNormal",
)
ASSIGNING = ("AssignVariableOp",)
CALLING = ("PyFunc", "PyFuncStateless", "EagerPyFunc")


def in_blocks(call: Callable[..., Any]) -> Callable[..., Any]:
    """Makes `call` of a functional model run in blocks, where `compile(remat=)` asks for it.

    Args:
        call: The method, which runs the layers as Keras does.
    """

    @functools.wraps(call)
    def run(self: Any, inputs: Any, training: bool | None = None, mask: Any = None, **kwargs: Any) -> Any:
        if self.rematerialization.applies(training, inputs, mask, kwargs):
            return self.rematerialization.call(self, inputs)
        return call(self, inputs, training=training, mask=mask, **kwargs)

    run.runs_in_blocks = True  # type: ignore[attr-defined]
    return run


class Rematerialization:
    """What `compile(remat=)` asks of a model's forward pass in training.

    Args:
        remat: As `compile` takes it.

    Attributes:
        is_on: Whether any is asked for.
    """

    def __init__(self, remat: Remat = None) -> None:
        is_names = isinstance(remat, (list, tuple)) and all(isinstance(name, str) for name in remat)
        if not (remat is None or isinstance(remat, bool) or (is_names and remat)):
            raise ValueError(f"`remat` must be a bool or a list of names of layers. Received: remat={remat!r}")
        self._after = list(remat) if isinstance(remat, (list, tuple)) else None
        self.is_on = bool(remat)
        self._blocks: list[Block] | None = None

    def get_config(self) -> dict[str, Any]:
        """Returns the option as `compile` takes it: `{}` if it is not set."""
        return {"remat": self._after or True} if self.is_on else {}

    def check(self, model: keras.Model) -> None:
        """Refuses a model that has no graph of layers, and names that it does not have.

        Args:
            model: The model.

        Raises:
            ValueError: If the model is not functional or Sequential, or has no layer of a name.
        """
        if not self.is_on:
            return
        if not getattr(type(model).call, "runs_in_blocks", False):
            raise ValueError(
                "`remat` needs a `CustomTrainModel(inputs, outputs)` or a `CustomTrainSequential`. Of another "
                "functional model, `CustomTrainModel.from_model(model)` makes one. In a `call()` of your own, wrap "
                f"what is to be computed again in `tf.recompute_grad`. Received: a {type(model).__name__}"
            )
        if model.built and model.inputs:
            self._divide(model)

    def applies(self, training: Any, inputs: Any, mask: Any, options: Mapping[str, Any]) -> bool:
        """Whether a call of the model runs block by block: one in training, on tensors.

        Args:
            training: The argument of the call.
            inputs: The inputs.
            mask: The argument of the call.
            options: Further arguments, which only the whole model can handle.
        """
        if not self.is_on or training is not True or options:
            return False
        return all(tf.is_tensor(leaf) for leaf in tf.nest.flatten(inputs)) and not any(
            leaf is not None and leaf is not compat.keras_mask(tensor)
            for leaf, tensor in zip(tf.nest.flatten(mask), tf.nest.flatten(inputs))
        )

    def call(self, model: keras.Model, inputs: Any) -> Any:
        """Runs the forward pass in training, block by block.

        Args:
            model: The model.
            inputs: The inputs, as the model takes them.

        Returns:
            The outputs.
        """
        if not model.inputs:  # Keras 2 builds a Sequential model without `Input` where it is first called
            model.build(inputs.shape)
        blocks = self._divide(model)
        values = dict(zip(map(id, model.inputs), tf.nest.flatten(self._entry(inputs))))
        for block in blocks:
            run = _run_again_in_backward_pass if block.is_recomputed else _run
            values.update(zip(map(id, block.outputs), run(block, [values[id(tensor)] for tensor in block.inputs])))
        structure: Any = _structure(model)[1]
        return tf.nest.map_structure(lambda tensor: values[id(tensor)], structure)

    def _divide(self, model: keras.Model) -> list[Block]:
        if self._blocks is None:
            self._entry = keras.Model(_structure(model)[0], model.inputs)  # inputs as Keras casts and orders them
            self._blocks = divide(model, self._after)
        return self._blocks


def _structure(model: keras.Model) -> tuple[Any, Any]:
    """Returns the symbolic inputs and outputs, in the structure in which the model takes and returns them."""
    if isinstance(model, keras.Sequential):
        return model.inputs[0], model.outputs[0]
    return model.input, model.output


def _run(block: Block, values: list[tf.Tensor]) -> list[tf.Tensor]:
    return compat.call_in_training(block.model, values)


def _run_again_in_backward_pass(block: Block, values: list[tf.Tensor]) -> list[tf.Tensor]:
    """Runs a block so that its activations are not kept.

    Only tensors of floating point are arguments of `tf.recompute_grad`, which adds to each a zero that depends on the
    gradient: so the block is not computed again before it is needed. Without any, the block runs as it is.
    """
    floats = [index for index, value in enumerate(values) if value.dtype.is_floating]
    if not floats or not all(isinstance(value, tf.Tensor) for value in values):
        return _run(block, values)
    recomputation = Recomputation(block)

    def run(*arguments: tf.Tensor) -> list[tf.Tensor]:
        given = list(values)
        for index, argument in zip(floats, arguments):
            compat.set_keras_mask(argument, compat.keras_mask(values[index]))
            given[index] = argument
        with recomputation.run():
            outputs = _run(block, given)
        if not recomputation.outputs:
            recomputation.outputs.extend(outputs)
        return [output for output in outputs if output.dtype.is_floating]

    run.__name__ = f"block_of_{block.layers[0]}"
    differentiable = iter(tf.nest.flatten(tf.recompute_grad(run)(*(values[index] for index in floats))))
    results = [next(differentiable) if output.dtype.is_floating else output for output in recomputation.outputs]
    for result, output in zip(results, recomputation.outputs):
        compat.set_keras_mask(result, compat.keras_mask(output))
    return results


def _operations() -> list[tf.Operation]:
    return [] if tf.executing_eagerly() else tf.compat.v1.get_default_graph().get_operations()


class Recomputation:
    """Runs a block again as it has run first: with the same random numbers and statistics, which it then restores.

    Variables that are not trained, seeds of Keras 3 and statistics of `BatchNormalization` among them, have in later
    runs the values that they had before the first. Afterwards they have again what they had before the later run. Ops
    that keep their random state to themselves, such as those of Keras 2's `Dropout`, are not run again: what they have
    drawn is kept.

    Args:
        block: The block.

    Attributes:
        outputs: What the first run has returned.
    """

    def __init__(self, block: Block) -> None:
        self.outputs: list[tf.Tensor] = []
        self._block = block
        trained = {id(variable) for variable in block.model.trainable_variables}
        kept = [each for each in compat.variables_in(block.model.variables) if id(each) not in trained]
        self._state = [compat.tf_variable(each) for each in (*kept, *compat.keras_seed_variables())]
        self._before: list[tf.Tensor] | None = None
        self._drawn: list[tf.Tensor] = []
        self._graph: tf.Graph | None = None  # in which the first run was

    @contextlib.contextmanager
    def run(self) -> Iterator[None]:
        """Within it, the block runs.

        Raises:
            ValueError: If a layer does what cannot be done twice.
        """
        if self._before is None:
            self._before = [variable.read_value() for variable in self._state]
            self._graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
            losses = self._added_losses()
            with compat.replaced_random_ops(self._draw):
                yield
            self._check_losses(losses)
            return
        now = [variable.read_value() for variable in self._state]
        begin = len(_operations())
        self._restore(self._before)
        known = {operation.inputs[0].name for operation in _operations()[begin:] if operation.type in ASSIGNING}
        drawn = iter(self._drawn)
        begin = len(_operations())
        with (
            compat.layer_seeds_kept(self._block.model),
            compat.replaced_random_ops(lambda *args, **kwargs: next(drawn)),
        ):
            yield
        self._check_operations(_operations()[begin:], known)
        self._restore(now)

    def _restore(self, values: list[tf.Tensor]) -> None:
        for variable, value in zip(self._state, values):
            variable.assign(value)

    def _draw(self, name: str, op: Callable[..., tf.Tensor], *args: Any, **kwargs: Any) -> tf.Tensor:
        numbers = op(*args, **kwargs)
        if not tf.executing_eagerly() and numbers.graph is not self._graph:
            self._refuse(f"run `tf.random` ops (`{name}`) in a loop or a function of their own", [])
        self._drawn.append(numbers)
        return numbers

    def _added_losses(self) -> list[tf.Tensor]:
        """Returns the losses that layers have added in a call. Those of weights are computed at each look."""
        first, second = self._block.model.losses, self._block.model.losses
        return [loss for loss in first if any(loss is other for other in second)]

    def _check_losses(self, before: list[tf.Tensor]) -> None:
        if any(all(loss is not other for other in before) for loss in self._added_losses()):
            self._refuse("add losses (`activity_regularizer`, `add_loss`)", [])

    def _check_operations(self, operations: Sequence[tf.Operation], known: set[str]) -> None:
        for operation in operations:
            changes = operation.type.startswith(CHANGING) and operation.inputs[0].name not in known
            if changes or operation.type in CALLING:
                owners = [name for name in self._block.layers if name in operation.name.split("/")]
                self._refuse(f"run `{operation.type}`, which must not run twice", owners)

    def _refuse(self, what: str, owners: list[str]) -> None:
        raise ValueError(
            f"Blocks that `compile(remat=)` computes again must not hold layers that {what}. Name the layers between "
            "which blocks end, so that these come last, or use no `remat`. Received: a block of "
            f"{', '.join(owners or self._block.layers)}"
        )

"""Where to divide a functional model into blocks whose activations are computed again in the backward pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from customfit import compat
from customfit.arguments import did_you_mean
from customfit.compat import keras, tf


class Block(NamedTuple):
    """Some of the layers of a functional model, one after the other.

    Attributes:
        model: A functional model of these layers: the layers themselves, not copies.
        inputs: The symbolic tensors of the whole model that the block takes.
        outputs: The symbolic tensors of the whole model that it computes and that are needed after it.
        layers: The names of the layers.
        is_recomputed: Whether the backward pass computes the block again. The last one it does not: what that would
            free is needed at once.
    """

    model: keras.Model
    inputs: list[Any]
    outputs: list[Any]
    layers: list[str]
    is_recomputed: bool


class Cut(NamedTuple):
    """A place between two calls of layers.

    Attributes:
        position: How many calls come before it.
        tensors: What calls before it return and calls after it take: this is kept.
    """

    position: int
    tensors: list[Any]


def divide(model: keras.Model, after: Sequence[str] | None) -> list[Block]:
    """Divides a functional model into blocks.

    Args:
        model: A functional or Sequential model that is built.
        after: Names of layers, each the last one of a block. `None`: where the least memory is needed, by the sizes of
            what the layers return: for a chain of n layers, about sqrt(n) blocks.

    Returns:
        The blocks, in the order in which they run.
    """
    calls = [call for call in compat.layer_calls(model) if call.inputs]
    cuts = _cuts(model, calls)
    chosen = _best(cuts, calls) if after is None else [cuts[index] for index in _indices(calls, after)]
    ends = [*(cut.position for cut in chosen), len(calls)]
    return [
        _block(calls[begin:end], model.outputs if end == len(calls) else chosen[number].tensors, end < len(calls))
        for number, (begin, end) in enumerate(zip([0, *ends], ends))
    ]


def _block(calls: list[compat.LayerCall], needed: Sequence[Any], is_recomputed: bool) -> Block:
    computed = {id(tensor): tensor for call in calls for tensor in call.outputs}
    taken = {id(tensor): tensor for call in calls for tensor in call.inputs if id(tensor) not in computed}
    wanted = {id(tensor): tensor for tensor in needed if id(tensor) in computed}
    inputs, outputs = list(taken.values()), list(wanted.values())
    model = keras.Model(_single(inputs), _single(outputs))
    return Block(model, inputs, outputs, [call.layer.name for call in calls], is_recomputed)


def _single(tensors: list[Any]) -> Any:
    return tensors[0] if len(tensors) == 1 else tensors


def _cuts(model: keras.Model, calls: list[compat.LayerCall]) -> list[Cut]:
    """Returns the places between calls, each with the tensors that pass it."""
    last_use = {id(tensor): index for index, call in enumerate(calls) for tensor in call.inputs}
    last_use.update({id(tensor): len(calls) for tensor in model.outputs})
    cuts, passing = [], list(model.inputs)
    for index, call in enumerate(calls[:-1], start=1):
        passing += call.outputs
        passing = [tensor for tensor in passing if last_use.get(id(tensor), 0) >= index]
        cuts.append(Cut(index, list(passing)))
    return cuts


def _indices(calls: list[compat.LayerCall], names: Sequence[str]) -> list[int]:
    """Returns for each name how many of the cuts lie before the end of the last call of that layer."""
    last = {call.layer.name: index for index, call in enumerate(calls)}
    for name in names:
        if name not in last:
            raise ValueError(f"`remat` must name layers of the model.{did_you_mean(name, last)} Received: {name!r}")
    return sorted({last[name] for name in names if last[name] < len(calls) - 1})


def _best(cuts: list[Cut], calls: list[compat.LayerCall]) -> list[Cut]:
    """Returns the cuts with which the estimated memory is least.

    Tried are 2 to about 2 sqrt(n) blocks of equal size, between layers where few tensors pass and between any.
    """
    sizes = [sum(map(_size, call.outputs)) for call in calls]
    fewest = min((len(cut.tensors) for cut in cuts), default=0)
    best: list[Cut] = []
    least = _memory(best, sizes)
    for candidates in ([cut for cut in cuts if len(cut.tensors) == fewest], cuts):
        for count in range(2, 2 + 2 * math.isqrt(len(calls))):
            chosen = _even(candidates, sizes, sum(sizes) / count)
            memory = _memory(chosen, sizes)
            if memory < least:
                best, least = chosen, memory
    return best


def _even(candidates: list[Cut], sizes: list[int], size: float) -> list[Cut]:
    """Returns cuts between which the calls return about `size` elements."""
    chosen, begin = [], 0
    for cut in candidates:
        if sum(sizes[begin : cut.position]) >= size:
            chosen.append(cut)
            begin = cut.position
    return chosen


def _memory(cuts: list[Cut], sizes: list[int]) -> int:
    """Returns how many elements are alive at most: what passes the cuts, and one block with what lies in it."""
    kept = {id(tensor): _size(tensor) for cut in cuts for tensor in cut.tensors}
    ends = [0, *(cut.position for cut in cuts), len(sizes)]
    return sum(kept.values()) + max(sum(sizes[begin:end]) for begin, end in zip(ends, ends[1:]))


def _size(tensor: Any) -> int:
    """Returns the number of elements of one row. Dimensions that are not known count as one."""
    return math.prod(size or 1 for size in tf.TensorShape(tensor.shape).as_list()[1:])

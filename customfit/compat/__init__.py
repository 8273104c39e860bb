"""Which Keras this is, and every difference between its generations.

Three are supported: the ``tf.keras`` of TensorFlow 2.12-2.15 and the separate ``tf_keras`` package, both called "Keras
2" here, and Keras 3 on its TensorFlow backend. This room alone compares versions and uses private names, and
``tests/test_compat.py`` fails when one of those names disappears. A function asks for a feature before it asks for a
version, unless the answer could come from an attribute of the user's own model.

The room owns no state. It reads and restores what Keras and TensorFlow keep out of reach: counters on a model
(`fit`), attributes of callbacks (`callbacks`), the states of random generators (`randomness`).
"""

from customfit.compat.callbacks import callback_state, has_tensorboard, ignores_batches, set_callback_state
from customfit.compat.data import (
    KerasData,
    cardinality,
    casts_tensors,
    gathers_composite_tensors,
    is_torch_loader,
    keras_data,
    streams_epochs,
)
from customfit.compat.devices import branches_in_replicas, divides_loss_by_replicas, free_memory, log_reduction
from customfit.compat.fit import (
    batch_logs,
    compiled_trainable_state,
    count_step,
    execution_end,
    finish_evaluation,
    finish_training,
    start_training,
    start_validation,
    to_host,
    verbosity,
)
from customfit.compat.models import (
    compile_options,
    deserialize_keras_object,
    functional_class,
    is_compiled,
    is_functional_call,
    jit_compile,
    origin,
    register_keras_serializable,
    save_model,
    steps_per_execution,
    tf_variable,
    variable_path,
)
from customfit.compat.optimizers import (
    TensorType,
    apply_gradients,
    build_optimizer,
    gradient_of_loss,
    has_dynamic_scale,
    loss_scale,
    optimizer_arguments,
    optimizer_variables,
    optimizers_in,
    unscale_gradients,
    variables_of_optimizer,
)
from customfit.compat.randomness import (
    COUNTED_RANDOM_OPS,
    UNCOUNTED_RANDOM_OPS,
    eager_random_state,
    global_random_generator,
    global_seed,
    keras_seed_variables,
    make_keras_seed,
    replaced_random_ops,
    set_eager_random_state,
)
from customfit.compat.steps import build_on_replicas, compute_loss, step_state, track_loss
from customfit.compat.versions import GENERATION, IS_KERAS_3, KERAS_VERSION, keras, tf

__all__ = [
    "COUNTED_RANDOM_OPS",
    "GENERATION",
    "IS_KERAS_3",
    "KERAS_VERSION",
    "UNCOUNTED_RANDOM_OPS",
    "KerasData",
    "TensorType",
    "apply_gradients",
    "batch_logs",
    "branches_in_replicas",
    "build_on_replicas",
    "build_optimizer",
    "callback_state",
    "cardinality",
    "casts_tensors",
    "compile_options",
    "compiled_trainable_state",
    "compute_loss",
    "count_step",
    "deserialize_keras_object",
    "divides_loss_by_replicas",
    "eager_random_state",
    "execution_end",
    "finish_evaluation",
    "finish_training",
    "free_memory",
    "functional_class",
    "gathers_composite_tensors",
    "global_random_generator",
    "global_seed",
    "gradient_of_loss",
    "has_dynamic_scale",
    "has_tensorboard",
    "ignores_batches",
    "is_compiled",
    "is_functional_call",
    "is_torch_loader",
    "jit_compile",
    "keras",
    "keras_data",
    "keras_seed_variables",
    "log_reduction",
    "loss_scale",
    "make_keras_seed",
    "optimizer_arguments",
    "optimizer_variables",
    "optimizers_in",
    "origin",
    "register_keras_serializable",
    "replaced_random_ops",
    "save_model",
    "set_callback_state",
    "set_eager_random_state",
    "start_training",
    "start_validation",
    "step_state",
    "steps_per_execution",
    "streams_epochs",
    "tf",
    "tf_variable",
    "to_host",
    "track_loss",
    "unscale_gradients",
    "variable_path",
    "variables_of_optimizer",
    "verbosity",
]

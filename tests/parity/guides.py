"""Models as keras.io's guides write them, each with a `train_step`, a `compile()` or a `fit()` of its own."""

import numpy as np

from customfit.compat import keras, tf

layers = keras.layers


def mlp(features, outputs, activation=None):
    return keras.Sequential([keras.Input((features,)), layers.Dense(4, "tanh"), layers.Dense(outputs, activation)])


def without_tuple(data):
    """Inputs without targets: some generations give them in a tuple of one."""
    return data[0] if isinstance(data, tuple) else data


def minimize(loss, tape, optimizer, variables):
    optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))


class Tracked(keras.Model):
    """With metrics of its own, each the mean of a value that its steps compute."""

    names = ("loss",)

    def __init__(self):
        super().__init__()
        self.trackers = [keras.metrics.Mean(name=name) for name in self.names]

    @property
    def metrics(self):
        return self.trackers

    def tracked(self, *values):
        for tracker, value in zip(self.trackers, values):
            tracker.update_state(value)
        return {tracker.name: tracker.result() for tracker in self.trackers}


class GAN(keras.Model):
    """Two optimizers, a `compile()` of its own, noise drawn in the step; neither `call` nor `test_step`."""

    def __init__(self, discriminator, generator):
        super().__init__()
        self.discriminator = discriminator
        self.generator = generator
        if hasattr(keras, "random"):
            self.seed_generator = keras.random.SeedGenerator(1337)

    def compile(self, d_optimizer, g_optimizer, loss_fn, **kwargs):
        super().compile(**kwargs)
        self.d_optimizer = keras.optimizers.get(d_optimizer)
        self.g_optimizer = keras.optimizers.get(g_optimizer)
        self.loss_fn = loss_fn
        self.d_loss_metric = keras.metrics.Mean(name="d_loss")
        self.g_loss_metric = keras.metrics.Mean(name="g_loss")

    @property
    def metrics(self):
        return [self.d_loss_metric, self.g_loss_metric]

    def noise(self, shape):
        if hasattr(keras, "random"):
            return keras.random.normal(shape, seed=self.seed_generator)
        return tf.random.normal(shape)

    def train_step(self, real):
        real = without_tuple(real)
        count = tf.shape(real)[0]
        combined = tf.concat([self.generator(self.noise((count, 4))), real], axis=0)
        labels = tf.concat([tf.ones((count, 1)), tf.zeros((count, 1))], axis=0)
        labels += 0.05 * self.noise((2 * count, 1))
        with tf.GradientTape() as tape:
            d_loss = self.loss_fn(labels, self.discriminator(combined))
        minimize(d_loss, tape, self.d_optimizer, self.discriminator.trainable_weights)

        noise = self.noise((count, 4))
        with tf.GradientTape() as tape:
            g_loss = self.loss_fn(tf.zeros((count, 1)), self.discriminator(self.generator(noise)))
        minimize(g_loss, tape, self.g_optimizer, self.generator.trainable_weights)

        self.d_loss_metric.update_state(d_loss)
        self.g_loss_metric.update_state(g_loss)
        return {metric.name: metric.result() for metric in self.metrics}


class AnchorPositivePairs(keras.utils.Sequence):
    """Batches of one array: an anchor and a positive for each of eight classes."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return (np.eye(8) + 0.3 * np.random.RandomState(index).rand(2, 8, 8)).astype("float32")


class Embedding(keras.Model):
    """Metric learning: the loss is of similarities between rows, and so are the metrics."""

    def __init__(self):
        super().__init__()
        self.embed = mlp(8, 4)

    def call(self, inputs, training=None):
        return tf.math.l2_normalize(self.embed(inputs, training=training), axis=-1)

    def train_step(self, data):
        data = without_tuple(data)
        anchors, positives = data[0], data[1]
        labels = tf.range(8)
        with tf.GradientTape() as tape:
            similarities = tf.einsum("ae,pe->ap", self(anchors, training=True), self(positives, training=True)) / 0.2
            loss = self.compute_loss(y=labels, y_pred=similarities)
        minimize(loss, tape, self.optimizer, self.trainable_variables)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(labels, similarities)
        return {metric.name: metric.result() for metric in self.metrics}


class RealNVP(Tracked):
    """A normalizing flow: two outputs, one `log_loss` for both steps, no targets, a loss of its own."""

    def __init__(self):
        super().__init__()
        self.masks = np.array([[0, 1] * 4, [1, 0] * 4], "float32")
        self.scales = [mlp(8, 8, "tanh"), mlp(8, 8, "tanh")]
        self.shifts = [mlp(8, 8), mlp(8, 8)]

    def call(self, x, training=True):
        log_det_inv = 0
        direction = -1 if training else 1
        gate = (direction - 1) / 2
        for i in range(2)[::direction]:
            masked, rest = x * self.masks[i], 1 - self.masks[i]
            scale, shift = rest * self.scales[i](masked), rest * self.shifts[i](masked)
            x = rest * (x * tf.exp(direction * scale) + direction * shift * tf.exp(gate * scale)) + masked
            log_det_inv += gate * tf.reduce_sum(scale, axis=1)
        return x, log_det_inv

    def log_loss(self, x):
        y, logdet = self(x)
        return -tf.reduce_mean(-0.5 * tf.reduce_sum(y**2 + np.log(2 * np.pi), axis=1) + logdet)

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = self.log_loss(without_tuple(data))
        minimize(loss, tape, self.optimizer, self.trainable_variables)
        return self.tracked(loss)

    def test_step(self, data):
        return self.tracked(self.log_loss(without_tuple(data)))


class Trainer(Tracked):
    """The trainer pattern: how to train is a class of its own around any model."""

    names = "loss", "accuracy"

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, inputs, training=None):
        return self.inner(inputs, training=training)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self.inner(x, training=True)
            loss = self.compute_loss(x=x, y=y, y_pred=y_pred)
        minimize(loss, tape, self.optimizer, self.inner.trainable_variables)
        return self.tracked(loss, keras.metrics.sparse_categorical_accuracy(y, y_pred))

    def test_step(self, data):
        x, y = data
        y_pred = self.inner(x, training=False)
        loss = self.compute_loss(x=x, y=y, y_pred=y_pred)
        return self.tracked(loss, keras.metrics.sparse_categorical_accuracy(y, y_pred))


class GradientPenalty(Trainer):
    """Second-order gradients: the loss holds the slope of the output, from a tape within the tape."""

    names = "loss", "penalty"

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            with tf.GradientTape() as inner:
                inner.watch(x)
                y_pred = self(x, training=True)
            slope = tf.sqrt(tf.reduce_sum(inner.gradient(y_pred, x) ** 2, axis=1))
            penalty = tf.reduce_mean((slope - 1.0) ** 2)
            loss = tf.reduce_mean((y - y_pred) ** 2) + 10.0 * penalty
        minimize(loss, tape, self.optimizer, self.trainable_variables)
        return self.tracked(loss, penalty)


class Pipeline:
    """As keras_hub's `PipelineModel`: raw bytes go into `fit` and `evaluate`, which scale them."""

    def fit(self, x, *args, **kwargs):
        return super().fit(x / 255, *args, **kwargs)

    def evaluate(self, x, *args, **kwargs):
        kwargs.pop("_use_cached_eval_dataset", None)  # as keras_hub's does: that data is scaled already
        return super().evaluate(x / 255, *args, **kwargs)


class FunctionalPipeline(Pipeline, keras.Model):
    pass


class SubclassedPipeline(Pipeline, keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, inputs):
        return self.dense(inputs)

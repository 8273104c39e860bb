"""A loop of your own: REINFORCE balances a pole
================================================

REINFORCE learns to balance a pole, with ``TrainingSession`` around the loop.

Run it with ``python own_loop.py --output return.png``. It needs gymnasium, ``pip install gymnasium``, and
downloads nothing.

There is no data set to pass to ``fit()``: the model plays 16 episodes of CartPole-v1, learns from them in one
training step, plays the next 16, and so on. The loop is ours; the session brings History, early stopping and the best
weights. REINFORCE (Williams 1992) needs no training step of its own: its gradient is that of the cross entropy
between the policy and the actions that it took, each weighted by how much better than usual the game went on from
there.

The return of an episode is the number of steps for which the pole stays up, 500 at most; pushing at random returns 22
on average. Training ends when 16 episodes return 475 on average, and then 50 fresh ones must return 400 on average.
"""

import argparse
import os

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before the import: TensorFlow logs less
import tensorflow as tf

from customfit import CustomTrainModel, EarlyStopping, TrainingSession, callbacks

keras = tf.keras

ENOUGH, REQUIRED = 475.0, 400.0  # average returns: to end training, and of the evaluation


def make_game(episodes):
    """Returns as many games of CartPole-v1, which are played side by side."""
    try:
        import gymnasium
    except ModuleNotFoundError:
        raise SystemExit("This example needs gymnasium: pip install gymnasium") from None
    return gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make("CartPole-v1") for _ in range(episodes)])


def build_model():
    """Returns the policy: from the 4 numbers that describe the cart and its pole to a probability for each push."""
    inputs = keras.Input((4,))
    x = keras.layers.Dense(64, activation="tanh")(inputs)
    outputs = keras.layers.Dense(2, activation="softmax")(x)
    model = CustomTrainModel(inputs, outputs)
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy", global_clipnorm=1.0)
    return model


def play(policy, game, rng, seed=None):
    """Plays one episode in each game.

    Returns:
        The states and the actions, and whether the episode was still going on: arrays by step and episode.
    """
    state, _ = game.reset(seed=seed)
    going_on = np.ones(len(state), bool)
    steps = []
    while going_on.any():
        push_right = policy(tf.constant(state)).numpy()[:, 1]
        action = (rng.random(len(state)) < push_right).astype("int64")
        steps.append((state, action, going_on))
        state, _, terminated, truncated, _ = game.step(action)
        going_on = going_on & ~(terminated | truncated)
    return [np.stack(column) for column in zip(*steps)]


def reinforce_batch(states, actions, going_on, discount=0.99):
    """Returns what the step learns from: each state, the action taken there, and the advantage of having been there."""
    returns = going_on.astype("float32")  # each step is worth a reward of 1
    for step in reversed(range(len(returns) - 1)):
        returns[step] += discount * returns[step + 1]  # 0 where the episode was over
    returns = returns[going_on]
    advantages = (returns - returns.mean()) / (returns.std() + 1e-8)
    return states[going_on], actions[going_on], advantages


def average_return(going_on):
    """Returns the average number of steps of an episode."""
    return going_on.sum() / going_on.shape[1]


def main():
    """Trains the policy and evaluates it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=200, help="at most so many: early stopping may come first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", help="the file to draw into")
    parser.add_argument("--verbose", type=int, choices=(0, 1, 2), default=2, help="1: progress bar, 2: line an epoch")
    args = parser.parse_args()

    keras.utils.set_random_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    game, model = make_game(16), build_model()
    policy = tf.function(model)  # much faster than `model.predict` on a few rows
    early_stopping = EarlyStopping("average_return", mode="max", stopping_threshold=ENOUGH, patience=args.epochs)

    episodes = play(policy, game, rng, args.seed)
    with TrainingSession(model, epochs=args.epochs, verbose=args.verbose, early_stopping=early_stopping) as session:
        for _epoch in session.epochs():
            session.train_on(reinforce_batch(*episodes))  # x, y and sample_weight
            episodes = play(policy, game, rng)
            session.log(average_return=average_return(episodes[-1]))  # what History and early stopping are to see

    fresh = average_return(play(policy, make_game(50), rng, args.seed + 1)[-1])
    print(f"Average return of 50 fresh episodes: {fresh:.1f}")
    if args.output:
        axes = callbacks.plot_history(session.history, monitor="average_return")
        axes[0].figure.savefig(args.output, dpi=100)
    if fresh < REQUIRED:
        raise SystemExit(f"The average return should be {REQUIRED:.0f} or more but is {fresh:.1f}.")


if __name__ == "__main__":
    main()

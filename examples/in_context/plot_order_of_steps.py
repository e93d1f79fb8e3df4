"""
In which order the steps of a chain are learned
===============================================

A small transformer is trained from nothing to go through the steps of random networks:
from two features x to four ReLUs s, and from these to a linear y. At each step of a
query it is given the true one before it, so that both can be learned at the same time.
They are not (2305.18869, section 5).

Look at the purple curve, the hidden step. It soon comes near the dotted line, and stays
there: this is the error of one who knows that ReLUs are positive, and answers their
mean, whatever the input. Meanwhile the linear step (blue) is learned. Only then the
purple curve leaves its plateau. So a flat curve does not mean that training is over.

The orange curve is y without going through the steps. With two features it is about as
easy as the last step. With more it is not, and is learned last, or hardly at all.

Contexts have 1 to 16 examples, which is too few for errors of 0, and each batch has its
own number; curves are medians over 100 batches. This is one training, of a network much
smaller than those that come with the package. On the right is what the card of one of
these says of its training: up to ten features and twenty ReLUs, medians over 500
batches. The order is the same, and y at once falls behind.

Takes about 20 seconds.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from skorch.callbacks import Callback

from sklearn_attn.in_context import (
    MLPPrior,
    load_in_context_weights,
    pretrain_chain_of_thought,
)

torch.set_num_threads(1)  # the network is small: more threads wait for each other
WINDOW = 101


class Errors(Callback):
    """Keeps the errors of each batch: y at once, s and y."""

    def initialize(self):
        self.batches, self.errors, self.n_seen, self.n = [], [], 0, 0
        return self

    def on_batch_end(self, net, **kwargs):
        self.n += 1
        seen = net.criterion_.seen  # of batches with steps since the epoch began
        if len(seen) > self.n_seen:
            self.batches.append(self.n)
            self.errors.append(seen[-1].tolist())
        self.n_seen = len(seen)

    def on_epoch_end(self, net, **kwargs):
        self.n_seen = 0


recorded = Errors()
pretrain_chain_of_thought(
    MLPPrior((4,), bias=0.0),
    n_features_max=2,
    vary_features=False,
    n_examples_max=16,
    n_queries=8,
    width=32,
    n_layers=2,
    n_steps=750,
    learning_rate=4e-3,
    callbacks=[recorded],
    random_state=0,
)
windows = np.lib.stride_tricks.sliding_window_view(recorded.errors, WINDOW, axis=0)
# of what was not asked for in a batch, there is no error
errors = np.nanmedian(windows, -1)  # (windows, y at once and the steps)
batches = np.array(recorded.batches)[WINDOW // 2 : -(WINDOW // 2)]
for at in (100, 200, 300, 400, 500, 600):
    print(f"batch {at}: {errors[np.searchsorted(batches, at)].round(3)}")

card = load_in_context_weights("cot-two-layer").card
n_first = card["stages"][0]["steps"] // 500  # later stages go on with smaller rates
of_card = np.array(card["errors_of_steps"][:n_first])

# %%

figure, (left, right) = plt.subplots(
    1, 2, figsize=(10.5, 4.4), sharey=True, layout="constrained"
)
for column, label, color, style in (
    (1, "s from x: hidden ReLUs", "#CC79A7", "-"),
    (2, "y from s: linear", "#0072B2", "-"),
    (0, "y from x at once", "#D55E00", "--"),
):
    left.plot(batches, errors[:, column], style, color=color, label=label, lw=2)
    place = 500 * np.arange(1, len(of_card) + 1)
    right.plot(place, of_card[:, column], style, color=color, lw=2, marker=".")
# E max(0, z)^2 = 1/2 and (E max(0, z))^2 = 1/(2 pi) for a standard normal z
constant = 1 - 1 / np.pi
for ax in (left, right):
    ax.axhline(constant, color="0.5", ls=":")
    ax.spines[["top", "right"]].set_visible(False)
label = "1 - 1 / π: the mean of a ReLU"
left.text(batches[-1], constant + 0.01, label, color="0.4", ha="right")
left.set(ylim=(0, 1.05), xlabel="batches of training (of 64 tasks each)")
left.set(title="A small network, 2 features, 4 ReLUs")
left.set_ylabel("mean squared error (of the answer 0: 1)")
right.set(title='"cot-two-layer", to 10 features, 20 ReLUs')
right.set_xlabel("batches of training (of 192 tasks each)")
left.legend(frameon=False, loc="lower left")
plt.show()

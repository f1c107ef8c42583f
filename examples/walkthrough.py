# %% [markdown]
# # The estimation shift of a small network, from end to end
#
# Batch normalisation (BN) normalises with batch statistics in training and with *estimated* statistics
# in inference. This example trains a small network with few samples per statistic. Then it measures
# the shift: where it is, where it comes from, what reduces it, and what it costs. It takes under a
# minute on two CPU cores, on images that are bundled with the suite.
#
# Open `examples/walkthrough.ipynb` in Jupyter, or run `python examples/walkthrough.py`.

# %%
import itertools

import torch
import torch.nn.functional as F
from torch import nn

from suite.data.idx import read_split
from suite.data.sources import SUBSET_FOLDER
from suite.shift import TidMeter, attribute, find_origins, perturb, probe, remedies

torch.set_num_threads(1)  # the tensors are small
torch.manual_seed(0)


def load(split: str, num_images: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of Fashion-MNIST as vectors (N, 784), and labels (N,), in random order."""
    images_NHW, labels_N = read_split(SUBSET_FOLDER, split)
    order_N = torch.randperm(len(labels_N))[:num_images]
    images_ND = torch.from_numpy(images_NHW.copy()).flatten(1).float() / 255
    return images_ND[order_N] - 0.3, torch.from_numpy(labels_N.copy()).long()[order_N]


train_images, train_labels = load("train", 2000)
val_images, val_labels = load("val", 1000)
# Batches of the size used in training, because the running averages depend on it.
NORM_BATCH = 4
training_batches = list(zip(train_images.split(NORM_BATCH), train_labels.split(NORM_BATCH), strict=True))
val_batches = list(zip(val_images.split(64), val_labels.split(64), strict=True))

# %% [markdown]
# ## Training with four samples per statistic
#
# `TidMeter` measures how far the running statistics are from those of each batch (TID, the
# training/inference discrepancy). It derives the batch statistics from the change of the running ones.

# %%
DEPTH, WIDTH = 8, 64
widths = [784, *[WIDTH] * DEPTH]
blocks = [
    nn.Sequential(nn.Linear(a, b, bias=False), nn.BatchNorm1d(b), nn.ReLU())
    for a, b in itertools.pairwise(widths)
]
model = nn.Sequential(*blocks, nn.Linear(WIDTH, 10))
meter = TidMeter(model, train_images[:1], norm_batch_size=NORM_BATCH)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
model.train()
for epoch in range(2):
    order = torch.randperm(len(train_images))
    for picked in order.split(NORM_BATCH):
        loss = F.cross_entropy(model(train_images[picked]), train_labels[picked])
        meter.update()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tid_mu, tid_sigma = meter.pop_epoch_means()
    print(f"epoch {epoch + 1}: TID μ {tid_mu[0]:.2f} in the first layer, {tid_mu[-1]:.2f} in the last")

# %% [markdown]
# ## Where is the shift?
#
# This takes one inference pass. `esm_sigma` is the paper's measure (ESM) for each layer, and
# `esm_sigma_scaled` the same in units of the channels' standard deviations, so that layers compare.
# Sampling raises both; the cross-half product does not have this bias, and it has an interval.

# %%
profile = probe(model, val_batches)
cross = "esm_sigma_scaled_cross"
columns = ["layer", "esm_mu", "esm_sigma", "esm_sigma_scaled", cross, f"{cross}_low", f"{cross}_high"]
print(profile.to_frame()[columns].to_string(index=False))
profile.plot()

# %% [markdown]
# ## Where does it come from?
#
# Each layer's shift has two parts: the error of its own running average, and what it inherits from
# the layers before it, which normalise with estimates too. The signed shares add up to the scaled ESM. The
# population statistics are those of training images and the expected ones those of validation images,
# so the gap between the two data sets is inherited.

# %%
attribution = attribute(model, val_batches, training_batches=training_batches)
shares = attribution.to_frame().query("statistic == 'sigma'")
print(shares[["layer", "esm", "own", "inherited", "esm_error"]].to_string(index=False))
attribution.plot("sigma")

# %% [markdown]
# ## Which layer starts it?
#
# One layer at a time gets exact statistics, and all others keep their estimates. How much of the mean
# shift vanishes? `selected_percent` counts in how many resamples of the batches a layer is the one.

# %%
origins = find_origins(model, val_batches, training_batches=training_batches)
columns = ["layer", "esm_vanished", "esm_vanished_error", "selected_percent", "top1_gain_percent"]
print(origins.to_frame()[columns].to_string(index=False))
print(f"It starts in {origins.starts}." if origins.starts else "No single layer starts it.")
origins.plot()

# %% [markdown]
# ## What reduces it without training?

# %%
table = remedies(model, val_batches, training_batches)
print(table.to_frame().to_string(index=False))
table.plot()

# %% [markdown]
# ## How much does noise cost?
#
# The accuracy under noise on the estimates, from three draws for each magnitude.

# %%
noise = perturb(model, val_batches, deltas=(0.0, 0.2, 0.4, 0.6, 0.8), draws=3)
print(noise.to_frame().groupby("delta").top1_percent.mean().to_string())
noise.plot()

"""The images of federated clients: who has which, and in what order a client sees them. Numpy and scipy only.

Label skew is after Hsu, Qi and Brown (2019): each client draws shares of the classes from a Dirichlet
distribution, and then its images, without replacement, by these shares. The concentration of class c is
α · C · p_c for C classes of which c has the share p_c: α for each class where all are equally frequent.
"""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from suite.data.index import ImageIndex, Int64s, evenly_spaced
from suite.data.plan import CLIENTS, TrainPlan, random_words
from suite.errors import UserError
from suite.experiment import Run
from suite.specs.federated import FederatedSpec

SHARES, IMAGES = range(2)  # separate draws of the stream of clients
Shares = NDArray[np.float64]


class FederatedPlan(TrainPlan):
    """The order of all clients' images: clients take turns of `local_steps` steps, each with its own images.

    Raises UserError, also for clients with fewer images than a step takes, and for an epoch that would end
    within a round.
    """

    def __init__(self, index: ImageIndex, run: Run) -> None:
        super().__init__(index, run)
        assert run.recipe.federated is not None
        self.federated: FederatedSpec = run.recipe.federated
        clients, local_steps, batch = (
            self.federated.clients,
            self.federated.local_steps,
            self.global_batch_size,
        )
        self.images_per_client = len(self.index) // clients
        self._orders: dict[int, tuple[int, Int64s]] = {}
        if self.images_per_client < batch:
            raise UserError(
                f"recipe.federated: {len(self.index)} training images give each of {clients} clients "
                f"{self.images_per_client}, fewer than the global_batch_size of {batch}"
            )
        round_steps = clients * local_steps
        if self.steps_per_epoch % round_steps:
            raise UserError(
                f"recipe.federated: an epoch has {self.steps_per_epoch} steps, but {clients} clients × "
                f"{local_steps} local_steps = {round_steps} make a round: whole rounds must fill an epoch"
            )

    @cached_property
    def client_N(self) -> Int64s:
        """The client of each image of the index, (N,); −1 for those that no client has."""
        skew = self.federated.label_skew
        if skew is None:
            client_N = np.full(len(self.index), -1, dtype=np.int64)
            order_N = np.argsort(_words(self.seed, IMAGES, len(self.index)), kind="stable")
            dealt = np.repeat(np.arange(self.federated.clients), self.images_per_client)
            client_N[order_N[: len(dealt)]] = dealt
            return client_N
        return split_by_shares(self.index.labels_N, self._drawn_shares(skew), self.seed)

    @cached_property
    def shares_KC(self) -> Shares:
        """The share of each class among each client's images, (K, C)."""
        counts = np.zeros((self.federated.clients, len(self.index.classes)))
        mine_N = self.client_N >= 0
        np.add.at(counts, (self.client_N[mine_N], self.index.labels_N[mine_N]), 1)
        return counts / self.images_per_client

    def images(self, step: int, first: int, count: int) -> Int64s:
        turn, local_step = divmod(step, self.federated.local_steps)
        round_number, client = divmod(turn, self.federated.clients)
        own_step = round_number * self.federated.local_steps + local_step
        own_pass, position = divmod(own_step, self.images_per_client // self.global_batch_size)
        if self._orders.get(client, (-1, None))[0] != own_pass:
            order_N = self.order(own_pass)
            self._orders[client] = own_pass, order_N[self.client_N[order_N] == client]
        first += position * self.global_batch_size
        return self._orders[client][1][first : first + count]

    def validation_images(self, index: ImageIndex, client: int) -> ImageIndex:
        """Return the images of another split with the client's shares of the classes.

        All clients together have at most as many as the split. Raises UserError if it lacks one of the
        client's classes.
        """
        counts_C = np.bincount(index.labels_N, minlength=len(self.index.classes))
        for label in np.flatnonzero((self.shares_KC[client] > 0) & (counts_C == 0)):
            name = self.index.classes[label]
            raise UserError(
                f"recipe.federated: client {client} has images of class {name}, of which {index.folder} has "
                f"none for validation: take more val_images"
            )
        return with_shares(index, self.shares_KC[client], len(index) // self.federated.clients)

    def _drawn_shares(self, skew: float) -> Shares:
        num_classes = len(self.index.classes)
        frequency_C = np.bincount(self.index.labels_N, minlength=num_classes) / len(self.index)
        uniform_KC = _uniform(self.seed, SHARES, self.federated.clients * num_classes)
        return dirichlet(skew * num_classes * frequency_C, uniform_KC.reshape(-1, num_classes))


def dirichlet(concentration_C: Shares, uniform_KC: Shares) -> Shares:
    """Return K draws of a Dirichlet distribution, (K, C), from uniform numbers in (0, 1).

    They are gamma variates by the inverse of their distribution, over their sum. (numpy's own draws may
    change between its versions.)
    """
    from scipy.special import gammaincinv

    gamma_KC = gammaincinv(np.maximum(concentration_C, 1e-9), uniform_KC)
    shares_KC: Shares = gamma_KC / gamma_KC.sum(axis=1, keepdims=True)
    return shares_KC


def split_by_shares(labels_N: Int64s, shares_KC: Shares, seed: int) -> Int64s:
    """Deal images to K clients, one after another in turn, each by its shares of the classes, (K, C).

    A client whose classes are all used up draws among the images that are left. Returns the client of each
    image, (N,), with N // K images for each client and −1 for the rest.
    """
    num_clients, num_classes = shares_KC.shape
    order_N = np.argsort(_words(seed, IMAGES, len(labels_N)), kind="stable")
    stacks = [order_N[labels_N[order_N] == label].tolist() for label in range(num_classes)]
    left_C = np.array([len(stack) for stack in stacks])
    draws = _uniform(seed, IMAGES, len(labels_N), first=len(labels_N))
    client_N = np.full(len(labels_N), -1, dtype=np.int64)
    for number in range(len(labels_N) // num_clients * num_clients):
        client = number % num_clients
        weights_C = np.where(left_C > 0, shares_KC[client], 0.0)
        if not weights_C.any():
            weights_C = left_C.astype(np.float64)
        steps_C = np.cumsum(weights_C)
        label = int(np.searchsorted(steps_C, draws[number] * steps_C[-1], side="right"))
        client_N[stacks[label].pop()] = client
        left_C[label] -= 1
    return client_N


def with_shares(index: ImageIndex, shares_C: Shares, most: int) -> ImageIndex:
    """Return at most `most` images of an index, of each class its share, evenly spaced.

    As many as the images of each class allow; shares are rounded to the largest remainders.
    """
    counts_C = np.bincount(index.labels_N, minlength=len(shares_C))
    has = shares_C > 0
    total = max(1, min(most, int((counts_C[has] / shares_C[has]).min())))
    wanted_C = np.floor(shares_C * total).astype(np.int64)
    remainders_C = np.where(wanted_C < counts_C, shares_C * total - wanted_C, -1.0)
    wanted_C[np.argsort(-remainders_C, kind="stable")[: total - wanted_C.sum()]] += 1
    chosen = []
    for label in np.flatnonzero(wanted_C):
        images = np.flatnonzero(index.labels_N == label)
        chosen.append(images[evenly_spaced(int(wanted_C[label]), len(images))])
    return index.take(np.concatenate(chosen))


def _words(seed: int, draw: int, count: int, first: int = 0) -> NDArray[np.uint64]:
    return random_words(seed, draw, CLIENTS, first + count)[first:]


def _uniform(seed: int, draw: int, count: int, first: int = 0) -> Shares:
    """Return numbers in (0, 1): the middles of 2⁵² equal intervals."""
    words = _words(seed, draw, count, first) >> np.uint64(12)
    return (words.astype(np.float64) + 0.5) * 2.0**-52

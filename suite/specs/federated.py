"""Federated averaging: clients with label distributions of their own, and what becomes of their norms."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from suite.specs.base import Spec
from suite.specs.choice import described


@dataclass(frozen=True)
class ClientNorms:
    """What the server makes of the clients' BN layers.

    `pools`: running variances are those of the clients' mixture. `keeps`: each client keeps its own layers.
    """

    meaning: str
    pools: bool = False
    keeps: bool = False


CLIENT_NORMS = {
    "averaged": ClientNorms("running means and variances are averaged, as the weights are (FedAvg)"),
    "pooled": ClientNorms(
        "as averaged, and the variance between the clients' running means is added", pools=True
    ),
    "local": ClientNorms("each client keeps its BN layers (FedBN, Li et al. 2021)", keeps=True),
}
if TYPE_CHECKING:
    ClientNormsName = str
else:
    ClientNormsName = Literal[tuple(CLIENT_NORMS)]


class FederatedSpec(Spec):
    """Federated averaging (McMahan et al. 2017) in one process: the clients of a round train in turn."""

    clients: int = Field(ge=2, description="each has the same number of training images, none in common")
    local_steps: int = Field(ge=1, description="optimizer steps of each client in a round")
    label_skew: float | None = Field(
        None,
        ge=0.05,
        description="α of the Dirichlet distribution from which each client draws its shares of the classes; "
        "small: few classes each, as far as there are images; null: images are dealt by chance",
    )
    norms: ClientNormsName = Field("averaged", description=described(CLIENT_NORMS))

"""What happens between two steps: the ranks agree to go on or to stop, and nothing waits for it."""

from torch import Tensor

from suite.train.distributed import Agreement, Ranks
from suite.train.finite import FiniteCheck
from suite.train.heartbeat import Next

CHECK_LOSS_EVERY_STEPS = 20


class Boundary:
    """Decides at each step's boundary what all ranks do next.

    Several ranks exchange their wishes during the next step, so that they stop a step later than one rank.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self.finite = FiniteCheck(ranks.device)
        self._agreement: Agreement | None = None
        """What the ranks are agreeing on since the last boundary."""

    def decide(self, wish: Next, loss: Tensor, step: int, *, settles: bool) -> Next:
        """Return the decision after `step` steps, whose last loss, (), is checked now and then.

        `settles`: a checkpoint or an epoch's end follows on all ranks, so that the wishes and the loss of
        this very step are waited for. So are they before a stop, whose checkpoint must not replace a good one
        with weights that are not finite.
        """
        if settles or step % CHECK_LOSS_EVERY_STEPS == 0:
            self.finite.ask(loss, step)
        if self.finite.look(wait=settles):
            wish = Next.FAIL
        former, self._agreement = self._agreement, self._ranks.begin_to_agree(wish)
        decision = Next.CONTINUE if former is None else Next(former.result())
        if settles or decision is not Next.CONTINUE or self._ranks.world_size == 1:
            decision, self._agreement = max(decision, Next(self._agreement.result())), None
        if decision in (Next.STOP, Next.STOP_WARNED) and not settles:
            self.finite.ask(loss, step)
            decision = Next(self._ranks.agree(Next.FAIL if self.finite.look(wait=True) else decision))
        return decision

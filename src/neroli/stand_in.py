"""Stand-ins: modules that compute a network's features and logits in its place."""

from __future__ import annotations

from torch import nn


class StandIn(nn.Module):
    """A module with the head of a network, whose features another program computes.

    A guard that was fitted on the network can be used with it, since it is known by the network's
    weights. It has neither the network's layers nor gradients; what needs these is refused.

    Attributes:
        weights_hash: of the network, as ``Classifier.weights_hash`` gives it.
        runtime: the program that computes the features. They differ from the network's own in
            rounding, so that activation stores of the two are kept apart.
    """

    weights_hash: str
    runtime: str

    def refusal(self, needing: str) -> str:
        """The sentence that refuses what needs more than features and logits.

        Args:
            needing: what needs more, with its verb.
        """
        return (
            f"{needing} the network's layers or gradients, which {self.runtime} does not give: use "
            "the network itself."
        )

"""The base schema of Adam and AdamW."""

from dataclasses import dataclass

from runner.config import field
from trainer.config.optimizer.fused import Fused


@dataclass(kw_only=True)
class AdamLike(Fused):
    """Base of Adam and AdamW."""

    beta1: float = field("decay of the mean of the gradients", ge=0, lt=1)
    beta2: float = field("decay of the mean of their squares", ge=0, lt=1)
    eps: float = field("added to the denominator", gt=0)

"""What Adam and AdamW share."""

from dataclasses import dataclass

from runner.config import key
from trainer.config.optimizer.fused import Fused


@dataclass(kw_only=True)
class AdamLike(Fused):
    """Base of Adam and AdamW."""

    beta1: float = key("decay of the mean of the gradients", least=0, below=1)
    beta2: float = key("decay of the mean of their squares", least=0, below=1)
    eps: float = key("added to the denominator", above=0)

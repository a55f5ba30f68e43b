"""Adam (Kingma, Ba 2015): weight decay is added to the gradient."""

from dataclasses import dataclass

from trainer.config.optimizer.adam_like import AdamLike


@dataclass(kw_only=True)
class Adam(AdamLike):
    name: str = "adam"

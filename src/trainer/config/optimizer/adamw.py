"""AdamW (Loshchilov, Hutter 2019): weight decay is subtracted from the weight, beside the gradient's step."""

from dataclasses import dataclass

from trainer.config.optimizer.adam_like import AdamLike


@dataclass(kw_only=True)
class AdamW(AdamLike):
    name: str = "adamw"

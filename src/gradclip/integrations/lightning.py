"""Clipping in Lightning: `Trainer(callbacks=[ClipCallback(ClipByNorm(max=1.0))])`. Needs `gradclip[lightning]`."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from gradclip import Clipper, Policy


class ClipCallback(Callback):  # type: ignore[misc]
    """Clips before every optimizer step, logs the norms, and saves the policy's memory in the checkpoint.

    A step that the report drops is left out: its gradients become None, which torch's optimizers skip. With several
    optimizers each has its own Clipper, over the parameters in its groups, and its index in the names of the logs.
    """

    def __init__(self, policy: Policy):
        self.policy, self.clippers, self._saved = policy, dict[int, Clipper](), dict[int, Any]()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if trainer.gradient_clip_val:
            raise ValueError("ClipCallback clips: leave out gradient_clip_val of the Trainer")
        index, suffix = trainer.optimizers.index(optimizer), ""
        if len(trainer.optimizers) > 1:
            suffix = f"_{index}"
        if index not in self.clippers:
            used = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
            named = [pair for pair in pl_module.named_parameters() if id(pair[1]) in used]
            self.clippers[index] = Clipper(named if suffix else pl_module, self.policy, optimizer=optimizer)
            if index in self._saved:
                self.clippers[index].load_state_dict(self._saved.pop(index))
        report = self.clippers[index].clip()
        if report.dropped:
            optimizer.zero_grad(set_to_none=True)
        norms = {"before": report.before.float(), "after": report.after.float()}
        pl_module.log_dict({f"grad_norm{suffix}/{name}": norm for name, norm in norms.items()})

    def state_dict(self) -> dict[str, Any]:
        return {"clippers": {index: clipper.state_dict() for index, clipper in self.clippers.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.clippers, self._saved = {}, dict(state["clippers"])

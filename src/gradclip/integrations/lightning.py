"""Clipping in Lightning: `Trainer(callbacks=[ClipCallback(ClipByNorm(max=1.0))])`. Needs `gradclip[lightning]`."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from gradclip import Clipper, Policy


class ClipCallback(Callback):  # type: ignore[misc]
    """Clips before every optimizer step, logs the norms, and saves the policy's memory in the checkpoint.

    A step that the report drops is left out: its gradients become None, which torch's optimizers skip. Each of several
    optimizers has a Clipper of its own, over the parameters in its groups, and its index in the names of the logs.
    """

    def __init__(self, policy: Policy):
        self.policy, self.clippers, self._saved = policy, dict[int, Clipper](), dict[int, Any]()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.gradient_clip_val:
            raise ValueError("ClipCallback clips: leave out gradient_clip_val of the Trainer")
        self.clippers = {}

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        index = trainer.optimizers.index(optimizer)
        if index not in self.clippers:
            self.clippers[index] = self._clipper(trainer, pl_module, optimizer, index)
        report = self.clippers[index].clip()
        if report.dropped:
            optimizer.zero_grad(set_to_none=True)
        if trainer.global_step % trainer.log_every_n_steps == 0:  # on an accelerator clip() itself reads nothing
            self.clippers[index].raise_if_nonfinite()
        suffix = f"_{index}" if len(trainer.optimizers) > 1 else ""
        norms = {"before": report.before.float(), "after": report.after.float()}
        pl_module.log_dict({f"grad_norm{suffix}/{name}": norm for name, norm in norms.items()})

    def _clipper(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer, index: int) -> Clipper:
        if getattr(trainer.precision_plugin, "scaler", None) is not None and optimizer.defaults.get("fused"):
            raise ValueError(
                "ClipCallback cannot clip scaled gradients: with 16-mixed use an optimizer with fused=False"
            )
        used = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        others = any(parameter.requires_grad and id(parameter) not in used for parameter in module.parameters())
        named = [pair for pair in module.named_parameters() if id(pair[1]) in used]
        clipper = Clipper(named if others else module, self.policy, optimizer=optimizer)
        if index in self._saved:
            clipper.load_state_dict(self._saved.pop(index))
        return clipper

    def state_dict(self) -> dict[str, Any]:
        return {"clippers": self._saved | {index: clipper.state_dict() for index, clipper in self.clippers.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._saved = dict(state["clippers"])

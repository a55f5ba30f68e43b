"""Clipping in Lightning: `Trainer(callbacks=[ClipCallback(ClipByNorm(max=1.0))])`. Needs `gradclip[lightning]`."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from gradclip import Clipper, Policy
from gradclip.policies.base import policy_instance


class ClipCallback(Callback):  # type: ignore[misc]
    """Clips before every optimizer step, logs the norms, and saves the policy's memory in the checkpoint.

    A step that the report drops is left out: its gradients become None, which torch's optimizers skip. Each of several
    optimizers has a Clipper of its own over the parameters in its groups, which the policy's patterns must match, and
    its index in the names of the logs. `Clipper.check()` runs every `log_every_n_steps` steps.
    """

    def __init__(self, policy: Policy):
        self.policy, self.clippers, self._saved = policy_instance(policy), dict[int, Clipper](), dict[int, Any]()
        self._steps: dict[int, int] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.gradient_clip_val:
            raise ValueError("ClipCallback clips: leave out gradient_clip_val of the Trainer")
        self.clippers, self._saved, self._steps = {}, {}, {}

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        index = trainer.optimizers.index(optimizer)
        if index not in self.clippers:
            self.clippers[index] = self._clipper(trainer, pl_module, optimizer, index)
        report = self.clippers[index].clip()
        self._steps[index] = self._steps.get(index, -1) + 1
        if self._steps[index] % max(trainer.log_every_n_steps, 1) == 0:
            self.clippers[index].check()
        if report.dropped:
            optimizer.zero_grad(set_to_none=True)
        suffix = f"_{index}" if len(trainer.optimizers) > 1 else ""
        norms = {"before": report.before.float(), "after": report.after.float()}
        pl_module.log_dict({f"grad_norm{suffix}/{name}": norm for name, norm in norms.items()})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for clipper in self.clippers.values():
            clipper.raise_if_nonfinite()

    def _clipper(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer, index: int) -> Clipper:
        if getattr(trainer.precision_plugin, "scaler", None) is not None and optimizer.defaults.get("fused"):
            raise ValueError("ClipCallback cannot clip scaled gradients: choose fused=False, which 16-mixed needs")
        used = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        named = [pair for pair in module.named_parameters() if id(pair[1]) in used]
        whole = all(id(parameter) in used for parameter in module.parameters())
        clipper = Clipper(module if whole else named, self.policy, optimizer=optimizer)
        if index in self._saved:
            clipper.load_state_dict(self._saved.pop(index))
        return clipper

    def state_dict(self) -> dict[str, Any]:
        return {"clippers": self._saved | {index: clipper.state_dict() for index, clipper in self.clippers.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._saved = dict(state["clippers"])

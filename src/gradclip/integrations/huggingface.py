"""Clipping in the Trainer of transformers: `Trainer(…, callbacks=[ClipCallback(ClipByNorm(max=1.0))])`.

Needs `gradclip[huggingface]`, and `max_grad_norm=0` in the TrainingArguments, since the Trainer would clip, too.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerState, TrainingArguments

from gradclip import Clipper, ClipReport, Policy


class ClipCallback(TrainerCallback):  # type: ignore[misc]
    """Clips before every optimizer step, logs the norms, and saves the policy's memory beside each checkpoint.

    A step that the report drops is left out: its gradients become None, which torch's optimizers skip. A callback that
    sends the logs elsewhere sees the norms if it comes later in `callbacks`.
    """

    def __init__(self, policy: Policy):
        self.policy = policy
        self.report: ClipReport | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **found: Any) -> None:
        if args.max_grad_norm:
            raise ValueError("ClipCallback clips: set max_grad_norm=0 in the TrainingArguments")
        self.clipper = Clipper(found["model"], self.policy, optimizer=found["optimizer"])
        if state.global_step:
            self.clipper.load_state_dict(torch.load(self._file(args, state), weights_only=True))

    def on_pre_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: Any, **found: Any) -> None:
        optimizer = found["optimizer"]  # that of Accelerate, which unscales float16 gradients only in its step
        if scaler := getattr(optimizer, "scaler", None):
            scaler.unscale_(optimizer.optimizer)
        self.report = self.clipper.clip()
        if self.report.dropped:
            optimizer.zero_grad(set_to_none=True)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: Any, logs: Any = None, **found: Any
    ) -> None:
        if self.report is not None and logs is not None and "loss" in logs:
            norms = {"grad_norm/before": self.report.before.item(), "grad_norm/after": self.report.after.item()}
            logs |= norms
            state.log_history[-1] |= norms

    def on_save(self, args: TrainingArguments, state: TrainerState, control: Any, **found: Any) -> None:
        if state.is_world_process_zero:
            torch.save(self.clipper.state_dict(), self._file(args, state))

    def _file(self, args: TrainingArguments, state: TrainerState) -> Path:
        return Path(args.output_dir, f"checkpoint-{state.global_step}", "gradclip.pt")

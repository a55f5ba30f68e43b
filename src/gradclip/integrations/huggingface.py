"""Clipping in the Trainer of transformers: `Trainer(…, callbacks=[ClipCallback(ClipByNorm(max=1.0))])`.

Needs `gradclip[huggingface]`, and `max_grad_norm=0` in the TrainingArguments, since the Trainer would clip, too.
"""

import base64
import io
import warnings
from typing import Any

import torch
from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from gradclip import Clipper, ClipReport, Policy
from gradclip.policies.base import policy_instance


class ClipCallback(TrainerCallback, ExportableState):  # type: ignore[misc]
    """Clips before every optimizer step, logs the norms, and saves the policy's memory in trainer_state.json.

    A step that the report drops is left out: its gradients become None, which torch's optimizers skip. A callback that
    sends the logs elsewhere sees the norms if it comes later in `callbacks`. The Trainer measures the norm before this
    callback, and makes all gradients nan if one is infinite or their norm exceeds float32. A Trainer takes one
    ClipCallback, and `restore_callback_states_from_checkpoint` must stay False. The memory of SpikeClip is larger than
    the model there.
    """

    def __init__(self, policy: Policy):
        self.policy = policy_instance(policy)
        self.clipper: Clipper | None = None
        self.report: ClipReport | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **found: Any) -> None:
        if args.max_grad_norm:
            raise ValueError("ClipCallback clips: set max_grad_norm=0 in the TrainingArguments")
        self.clipper = Clipper(found["model"], self.policy, optimizer=found["optimizer"])
        if state.global_step:
            saved = state.stateful_callbacks.get(type(self).__name__, {}).get("attributes", {}).get("memory")
            if saved:
                content = io.BytesIO(base64.b64decode(saved))
                self.clipper.load_state_dict(torch.load(content, map_location="cpu", weights_only=True))
            else:
                warnings.warn(
                    "the checkpoint was saved without ClipCallback: the policy starts without memory", stacklevel=2
                )

        state.stateful_callbacks.setdefault(type(self).__name__, self.state())

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: Any, **found: Any) -> None:
        assert self.clipper is not None
        self.clipper.raise_if_nonfinite()

    def on_pre_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: Any, **found: Any) -> None:
        assert self.clipper is not None
        self.report = self.clipper.clip()  # the Trainer has summed and unscaled the gradients
        if self.report.dropped:
            found["optimizer"].zero_grad(set_to_none=True)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: Any, logs: Any = None, **_: Any) -> None:
        if self.clipper is not None and self.report is not None and logs is not None and "loss" in logs:
            self.clipper.raise_if_nonfinite()
            norms = {"grad_norm/before": self.report.before.item(), "grad_norm/after": self.report.after.item()}
            logs |= norms
            state.log_history[-1] |= norms

    def state(self) -> dict[str, Any]:
        content = io.BytesIO()
        if self.clipper is not None:
            torch.save(self.clipper.state_dict(), content)
        memory = base64.b64encode(content.getvalue()).decode()
        return {"args": {}, "attributes": {"memory": memory}}

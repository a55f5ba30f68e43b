"""The behaviours of public test suites that gradclip does not have, by suite and number, each with the reason."""

from tests.gradclip.ported.behaviours import Behaviour

_POWERS = "the sum of powers is an intermediate value of torch's norm; gradclip returns norms"
_AXES = "there is no public function for the norms of units and no choice of axes; a report has one norm per unit"

NOT_WANTED = {
    Behaviour(
        "torch", "fsdp1.1", "test_non_root", "clipping a wrapped module that is not the root raises"
    ): "FSDP1 is refused, root or not, since its parameters are flat shards without a shape",
    Behaviour("torch", "dtensor.5", "test_powsum_sharded", "the sum of |x|^p of a sharded tensor"): _POWERS,
    Behaviour("torch", "dtensor.7", "test_foreach_powsum_sharded", "the sums of |x|^p of several tensors"): _POWERS,
    Behaviour(
        "torch", "dtensor.9", "test_norm_0_on_psum", "the order 0 of a partial sum counts its elements other than 0"
    ): "orders below 0.1 are refused, since they are no norms",
    Behaviour("optax", "14", "test_unitwise_norm_with_axis", "unit norms have the shape of their input"): _AXES,
    Behaviour("optax", "16", "test_unitwise_norm_with_axis", "for a matrix no axis is the axis None"): _AXES,
    Behaviour(
        "optax", "26", "test_aggregated_updates_as_input_fails", "gradients without an axis of examples raise"
    ): "gradients per example are not in PyTorch's `.grad`; a library for differential privacy such as Opacus has them",
    Behaviour(
        "optax", "29", "test_tree_clip", "a tree is clamped between bounds of which one may be missing"
    ): "a bound limits magnitudes, so it is symmetric: one-sided bounds would bias the gradients",
    Behaviour(
        "keras",
        "14",
        "test_init_base_optimizer_unsupported_args",
        "an optimizer around another one takes no thresholds",
    ): "gradclip has no optimizer that contains another one, and a GradScaler has no thresholds",
    Behaviour(
        "keras", "15", "test_deserialization_backwards_compatibility", "a saved optimizer without thresholds is loaded"
    ): "thresholds are not a part of an optimizer's saved configuration",
    Behaviour(
        "composer", "5", "test_gradient_clipping_algorithm_with_fsdp_enabled_does_not_error", "clipping under FSDP1"
    ): "FSDP1 is refused, where composer's clipping by value would scale; FSDP2 is among the cases of torch",
}

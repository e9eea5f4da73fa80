"""Arithmetic whose rounding does not depend on how many members a pack has.

Which kernel a library takes for a batch of matrix products depends on the size of the batch and on the processor. Of a long row
of numbers, the last few go through another exponential than the others. Without these two, a member of a pack must equal a pack
of one to the bit, on every machine.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

FUNCTIONS = {
    "atanh", "cos", "erf", "exp", "expm1", "gelu", "gelu_backward", "log", "log1p", "logsumexp", "mish", "pow",
    "rsqrt", "sigmoid", "silu", "silu_backward", "sin", "_softmax", "softplus", "softplus_backward", "tanh",
    "tanh_backward",
}  # fmt: skip
"""Computed in double precision and rounded."""


class SameRounding(TorchDispatchMode):
    """Inside, each member's matrix products are computed alone, and functions in double precision and then rounded."""

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.ops.aten.bmm.default:
            # contiguous, for the kernel also depends on how a matrix lies in the memory of its pack
            return torch.stack([left.contiguous() @ right.contiguous() for left, right in zip(*args, strict=True)])
        name = func.overloadpacket.__name__  # type: ignore[attr-defined]
        if name.removesuffix("_") in FUNCTIONS:
            rounded = func(*pytree.tree_map(_double, args), **pytree.tree_map(_double, kwargs or {})).float()
            return args[0].copy_(rounded) if name.endswith("_") else rounded
        return func(*args, **(kwargs or {}))


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, torch.Tensor) and value.dtype == torch.float32 else value

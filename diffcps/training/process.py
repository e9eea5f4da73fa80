"""How this process computes: its threads, its memory, and the route of fp32 matrix products."""

import ctypes
import functools
import sys
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Machine:
    """What this process may use."""

    device: torch.device
    """Where it learns."""
    threads: int = 1
    """For stepping environments."""
    memory: float | None = None
    """Bytes on the device; members that need more are trained in several packs. ``None``: no limit."""
    beside: bool = False
    """Whether policies are evaluated while learning goes on, in a thread of its own."""

    @classmethod
    def prepared(cls) -> "Machine":
        """The GPU if there is one, else the CPU with torch's number of threads; set up for learning."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        machine = cls(device, torch.get_num_threads(), beside=device.type == "cuda")
        prepare_process(machine.threads, machine.device)
        return machine


def prepare_process(threads: int, device: torch.device | str = "cpu") -> None:
    """Set this process up for learning: its number of threads and, on a CPU, its memory and its route for fp32 products."""
    torch.set_num_threads(threads)
    if torch.device(device).type == "cpu":
        _keep_freed_memory()
        product_route()


def _keep_freed_memory() -> None:
    """Let glibc keep blocks of a few megabytes, which it would give back to the system when they are freed.

    A gradient step frees and asks for such blocks hundreds of times; each then came back page by page, at the price of
    the arithmetic done in it. Other C libraries have no such setting.
    """
    mmap_threshold, trim_threshold = -3, -1
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(mmap_threshold, 2**25)
        mallopt(trim_threshold, 2**28)


@functools.cache
def product_route() -> str:
    """Let fp32 matrix products on the CPU go through oneDNN where that costs no accuracy; ``oneDNN`` or ``default``.

    torch's default is MKL, which reaches half of oneDNN's speed on processors that are not Intel's. torch takes oneDNN
    when bfloat16 is allowed inside of products, but oneDNN makes no use of the permission without matrix units (AMX).
    Whether it does is not asked of the processor's name: a product is compared with its value in double precision.
    """
    matmul: Any = getattr(torch.backends.mkldnn, "matmul", None)  # torch has it since 2.9
    if not torch.backends.mkldnn.is_available() or not hasattr(matmul, "fp32_precision"):
        return "default"
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    if _product_error() > 1e-6:
        matmul.fp32_precision = before
        return "default"
    return "oneDNN"


def _product_error() -> float:
    """The largest error of fp32 products of the sizes used here, relative to the factors' lengths."""
    rng = torch.Generator().manual_seed(0)
    worst = 0.0
    for members, rows, inner, columns in ((1, 256, 256, 256), (3, 256, 256, 256), (2, 256, 30, 256), (2, 1280, 256, 3)):
        a = torch.randn(members, rows, inner, generator=rng)
        b = torch.randn(members, inner, columns, generator=rng)
        scale = a.double().norm(dim=2, keepdim=True) * b.double().norm(dim=1, keepdim=True)
        for left, right in ((a, b), (a, b.mT.contiguous().mT)):
            error = (torch.bmm(left, right).double() - a.double() @ b.double()).abs() / scale
            worst = max(worst, float(error.max()))
    return worst

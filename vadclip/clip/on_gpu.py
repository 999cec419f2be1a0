"""What a CUDA GPU needs to compute what a CPU computes, and to do it fast; nothing here changes a CPU's work.

Legend of shape suffixes: M rows of a matrix product (tokens of all images), D width.
"""

import torch
from open_clip.transformer import QuickGELU
from torch import Tensor, nn
from torch.nn import functional as F

_QUICK_GELU = 1.702


def full_float32() -> None:
    """Make float32 mean float32 in this process.

    PyTorch lets cuDNN round what a convolution multiplies to TF32, 10 bits, unless it is told not to.
    """
    torch.backends.cudnn.allow_tf32 = False


def repeatable() -> None:
    """Let cuDNN take only kernels that give the same bits each time, in this process.

    Others add up a convolution's gradient in whatever order its parts come.
    """
    torch.backends.cudnn.deterministic = True


def wait_asleep(device: torch.device) -> None:
    """Return when a GPU has done all it was given; the thread sleeps.

    Copying a result to the host waits as well, but asks the GPU again and again, which takes a core from the
    decoders.
    """
    if device.type == "cuda":
        done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        done.record(torch.cuda.current_stream(device))
        done.synchronize()


class OnePassQuickGelu(nn.Module):
    """An MLP with QuickGELU, x sigmoid(1.702 x), that passes over its widest tensor once instead of thrice.

    x sigmoid(1.702 x) = silu(1.702 x) / 1.702, silu is one kernel, and a matrix product takes both factors
    along for nothing. The parameters are those of the two layers it is made of.
    """

    def __init__(self, c_fc: nn.Linear, c_proj: nn.Linear) -> None:
        super().__init__()
        self.c_fc, self.c_proj = c_fc, c_proj

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., D] to [..., D]."""
        x_MD = x.flatten(0, -2)
        wide = torch.addmm(
            _QUICK_GELU * self.c_fc.bias, x_MD, self.c_fc.weight.t(), alpha=_QUICK_GELU
        )  # as a vector the bias is part of the product
        out_MD = torch.addmm(
            self.c_proj.bias, F.silu(wide, inplace=True), self.c_proj.weight.t(), alpha=1 / _QUICK_GELU
        )
        return out_MD.view(x.shape)


def fuse_quick_gelu(tower: nn.Module) -> int:
    """Replace every MLP of open_clip's with QuickGELU in it by `OnePassQuickGelu`; return how many.

    For a frozen tower only: names in its state dict stay, but not the activation between them.
    """
    fused = 0
    for module in list(tower.modules()):
        for name, child in list(module.named_children()):
            layers = dict(child.named_children())
            if list(layers) == ["c_fc", "gelu", "c_proj"] and isinstance(layers["gelu"], QuickGELU):
                c_fc, c_proj = layers["c_fc"], layers["c_proj"]
                assert isinstance(c_fc, nn.Linear)
                assert isinstance(c_proj, nn.Linear)
                setattr(module, name, OnePassQuickGelu(c_fc, c_proj))
                fused += 1
    return fused

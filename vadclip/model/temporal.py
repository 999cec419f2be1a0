"""VadCLIP's temporal module: windowed attention, then two graph convolutions (vadclip.md section 2.1-2.5).

Paper section "LGT-Adapter" (AAAI 2024, arXiv 2308.11681); official src/model.py and src/utils/layers.py. What
they compute with a loop over the batch and a T x T attention mask is computed here with batched masks and
windows: the same function.

Legend of shape suffixes: B videos, T snippets, D width, E = D/2, F = 3D; n valid snippets of one video.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

SIMILARITY_THRESHOLD = 0.7
INIT_STD = 0.01

TemporalKind = Literal["none", "global", "local", "gcn", "local_global", "global_gcn", "local_gcn"]


def quick_gelu(x: Tensor) -> Tensor:
    """Compute x * sigmoid(1.702 x); written with SiLU, it keeps one tensor for the backward pass, not two."""
    return F.silu(1.702 * x) / 1.702


class Mlp(nn.Module):
    """Linear D -> 4D, QuickGELU, Linear 4D -> D."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., D] to [..., D]."""
        out: Tensor = self.contract(quick_gelu(self.expand(x)))
        return out


class WindowAttention(nn.Module):
    """Self-attention inside non-overlapping windows of `window` snippets; init of nn.MultiheadAttention.

    Padding is attended to like any other snippet (the official code masks none). When the window does not
    divide T, the last one is shorter.
    """

    def __init__(self, width: int, window: int, heads: int) -> None:
        super().__init__()
        self.window, self.heads = window, heads
        self.project_in = nn.Linear(width, 3 * width)
        self.project_out = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.project_in.weight)
        nn.init.zeros_(self.project_in.bias)
        nn.init.zeros_(self.project_out.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Map [B, T, D] to [B, T, D]."""
        qkv_BTF, T = self.project_in(x_BTD), x_BTD.shape[1]
        rest = T % self.window
        parts = []
        if rest < T:
            parts.append(self._attend(qkv_BTF[:, : T - rest], self.window))
        if rest:
            parts.append(self._attend(qkv_BTF[:, T - rest :], rest))
        out_BTD: Tensor = self.project_out(torch.cat(parts, dim=1) if len(parts) > 1 else parts[0])
        return out_BTD

    def _attend(self, qkv_BTF: Tensor, window: int) -> Tensor:
        """Attend inside windows that divide T."""
        q, k, v = rearrange(
            qkv_BTF, "b (n w) (three h d) -> three (b n) h w d", w=window, three=3, h=self.heads
        )
        x = F.scaled_dot_product_attention(q, k, v)
        return rearrange(x, "(b n) h w d -> b (n w) (h d)", b=len(qkv_BTF))


class WindowBlock(nn.Module):
    """Pre-norm transformer block with attention inside windows."""

    def __init__(self, width: int, window: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = WindowAttention(width, window, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width)

    def forward(self, h_BTD: Tensor) -> Tensor:
        """Return h_BTD of the next layer."""
        h_BTD = h_BTD + self.attention(self.norm1(h_BTD))
        out_BTD: Tensor = h_BTD + self.mlp(self.norm2(h_BTD))
        return out_BTD


def similarity_graph(h_BTD: Tensor, lengths_B: Tensor) -> Tensor:
    """Return S_BTT: softmax over the valid columns of the thresholded cosines, zero outside each n x n block.

    A cosine that does not pass the threshold becomes 0 before the softmax and so still weighs exp(0). Always
    float32: next to the threshold a coarser cosine would fall on the other side.
    """
    with torch.autocast(h_BTD.device.type, enabled=False):
        unit_BTD = F.normalize(h_BTD.float(), dim=-1)
        cosine_BTT = torch.einsum("bid,bjd->bij", unit_BTD, unit_BTD)
        kept_BTT = torch.where(cosine_BTT > SIMILARITY_THRESHOLD, cosine_BTT, 0.0)
        T = h_BTD.shape[1]
        valid_BT = torch.arange(T, device=h_BTD.device) < lengths_B[:, None]
        # The most negative number, not -inf: a row without any valid column must not turn gradients into NaN.
        kept_BTT = kept_BTT.masked_fill(~valid_BT[:, None, :], torch.finfo(torch.float32).min)
        return kept_BTT.softmax(dim=-1) * valid_BT[:, :, None]


def distance_graph(length: int) -> Tensor:
    """Return G_TT = exp(-|i - j| / e), not normalised."""
    position_T = torch.arange(length, dtype=torch.float32)
    return torch.exp(-(position_T[:, None] - position_T[None, :]).abs() / math.e)


class GraphConvolution(nn.Module):
    """GC(A, x) = A (x W) + R(x), without bias: R = identity where in == out, else a Conv1d over time."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        # Xavier as in the official src/utils/layers.py: a bare parameter has no default of PyTorch's.
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(width_in, width_out)))
        self.residual = nn.Conv1d(width_in, width_out, 5, padding=2) if width_in != width_out else None

    def forward(self, graph: Tensor, x_BTD: Tensor) -> Tensor:
        """Return [B, T, out]; `graph` is [B, T, T], or [T, T] for all videos."""
        if self.residual is None:
            residual_BTE = x_BTD
        else:
            residual_BTE = self.residual(x_BTD.transpose(1, 2)).transpose(1, 2)
        return graph @ (x_BTD @ self.weight) + residual_BTE


class WindowTransformer(nn.Module):
    """Learned positions, then blocks of attention, one per entry of `windows`: [B, T, D] to [B, T, D]."""

    def __init__(self, width: int, length: int, windows: Sequence[int], heads: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(length, width) * INIT_STD)
        self.blocks = nn.ModuleList(WindowBlock(width, window, heads) for window in windows)

    def forward(self, visual_BTD: Tensor) -> Tensor:
        """Return h_BTD."""
        h_BTD = visual_BTD + self.positions
        for block in self.blocks:
            h_BTD = block(h_BTD)
        return h_BTD


class GraphPair(nn.Module):
    """Two convolutions over the similarity graph beside two over the distance graph, fused."""

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        half = width // 2
        self.similarity1 = GraphConvolution(width, half)
        self.similarity2 = GraphConvolution(half, half)
        self.distance1 = GraphConvolution(width, half)
        self.distance2 = GraphConvolution(half, half)
        self.fuse = nn.Linear(2 * half, width)
        self.distance_graph_TT: Tensor
        self.register_buffer("distance_graph_TT", distance_graph(length), persistent=False)

    def forward(self, h_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """Return v_BTD."""
        S_BTT, G_TT = similarity_graph(h_BTD, lengths_B), self.distance_graph_TT
        x1_BTE = quick_gelu(self.similarity1(S_BTT, h_BTD))
        x1_BTE = quick_gelu(self.similarity2(S_BTT, x1_BTE))
        x2_BTE = quick_gelu(self.distance1(G_TT, h_BTD))
        x2_BTE = quick_gelu(self.distance2(G_TT, x2_BTE))
        v_BTD: Tensor = self.fuse(torch.cat([x1_BTE, x2_BTE], dim=-1))
        return v_BTD


class TemporalEncoder(nn.Module):
    """visual_BTD -> v_BTD by the parts that `kind` names, in their order: local or global attention, gcn.

    Official: `local_gcn`. The others are the paper's table 5: `none` passes the features on, `global` is
    `layers` blocks whose one window is the whole sequence, `local_global` has `layers` blocks of each.
    Positions belong to the attention; `gcn` alone has none.
    """

    def __init__(
        self, *, kind: TemporalKind, width: int, length: int, layers: int, window: int, heads: int
    ) -> None:
        super().__init__()
        parts = kind.split("_")
        reach = {"local": window, "global": length}
        windows = [reach[part] for part in parts if part in reach for _ in range(layers)]
        attends = any(part in reach for part in parts)
        self.attention = WindowTransformer(width, length, windows, heads) if attends else None
        self.graphs = GraphPair(width, length) if "gcn" in parts else None

    def forward(self, visual_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """Return v_BTD. `lengths_B` counts the valid snippets, 1..T; the rest of a row is padding."""
        h_BTD = visual_BTD if self.attention is None else self.attention(visual_BTD)
        return h_BTD if self.graphs is None else self.graphs(h_BTD, lengths_B)

"""Text features of the classes, by a learned prompt or a hand-crafted one (vadclip.md section 2.7; the
paper's table 7).

Learned: for a name of n tokens, prefix p and suffix q, position 0 is the start-of-text embedding, 1..p are
learned, then come the name's n tokens, then q learned, and position p+n+1+q is the end-of-text embedding.
Learned vectors belong to positions and are shared by all classes. Positions after the last end-of-text are
not computed: the text tower is causal, they cannot matter.

Legend of shape suffixes: K classes, L text positions, W text width, D joint width of CLIP; X is the tower's
whole context length.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vadclip.clip.text import TextTower, end_positions, tokenize
from vadclip.errors import InputError

INIT_STD = 0.01
# The paper compares with a hand-crafted prompt and does not spell it out; its code has none. This is the
# wording that CLIP's users have for surveillance footage.
TEMPLATE = "a video from a CCTV camera of a {}"


class LearnedPrompts(nn.Module):
    """The K prompts' embeddings; only `vectors` ([X, W]) is learned, and only it is state.

    Raises InputError for a class name that does not fit between prefix and suffix, or holds a word whose
    token the CLIP's weights lack.
    """

    def __init__(self, text: TextTower, names: Sequence[str], prefix: int, suffix: int) -> None:
        super().__init__()
        X, W = text.context_length, text.width
        self.vectors = nn.Parameter(torch.randn(X, W) * INIT_STD)
        tokens_KX = tokenize(names, X)
        words_K = [eot - 1 for eot in end_positions(tokens_KX).tolist()]
        for name, words in zip(names, words_K, strict=True):
            if prefix + words + suffix + 2 > X:
                raise InputError(
                    f"class name {name!r} has {words} tokens: with model.prompt_prefix {prefix} and "
                    f"model.prompt_suffix {suffix} the prompt has {prefix + words + suffix + 2} positions, "
                    f"the text tower {X}; shorten one of them"
                )
        eot_K = torch.tensor([prefix + words + 1 + suffix for words in words_K])
        L = int(eot_K.max()) + 1
        tokens_KXW = text.token_embeddings(tokens_KX).detach().cpu()
        fixed_KLW, learned_KL = torch.zeros(len(names), L, W), torch.ones(len(names), L, dtype=torch.bool)
        for k, words in enumerate(words_K):
            places = [0, *range(prefix + 1, prefix + 1 + words), int(eot_K[k])]
            fixed_KLW[k, places] = tokens_KXW[k, : words + 2]
            learned_KL[k, places] = False
        self.eot_K: Tensor
        self.fixed_KLW: Tensor
        self.learned_KL1: Tensor
        self.register_buffer("eot_K", eot_K, persistent=False)
        self.register_buffer("fixed_KLW", fixed_KLW, persistent=False)
        self.register_buffer("learned_KL1", learned_KL[..., None], persistent=False)

    def forward(self, text: TextTower) -> Tensor:
        """Return text_KD, not normalised; gradients flow through the frozen tower to `vectors`."""
        learned_LW = self.vectors[: self.fixed_KLW.shape[1]]
        text_KD: Tensor = text(torch.where(self.learned_KL1, learned_LW, self.fixed_KLW), self.eot_K)
        return text_KD


class HandCraftedPrompts(nn.Module):
    """The classes in one sentence each, `TEMPLATE`; nothing is learned, nothing is state.

    Raises InputError for a class name that is too long, or holds a word whose token the CLIP's weights lack.
    """

    def __init__(self, text: TextTower, names: Sequence[str]) -> None:
        super().__init__()
        self.text_KD: Tensor
        with torch.no_grad():
            text_KD = text.encode([TEMPLATE.format(name) for name in names])
        self.register_buffer("text_KD", text_KD.detach().cpu(), persistent=False)

    def forward(self, text: TextTower) -> Tensor:
        """Return text_KD, not normalised, as the tower gave it when this was made."""
        return self.text_KD

"""Prompts to tokens, and CLIP's text tower run from embeddings so that a prompt can be learned.

The tower is frozen; gradients flow through it to the embeddings (vadclip.md section 2.7). It is causal, so
positions after a prompt's end cannot change its feature: callers cut the sequence at the last end-of-text.

Legend of shape suffixes: K prompts, L text positions, W text width, D joint width of CLIP.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from vadclip.errors import InputError

CONTEXT_LENGTH = 77


@cache
def _tokenizer() -> open_clip.SimpleTokenizer:
    return open_clip.SimpleTokenizer()


def tokenize(prompts: Sequence[str], context_length: int = CONTEXT_LENGTH) -> Tensor:
    """Encode prompts with CLIP's lower-casing BPE: int64 [K, context_length], start, words, end, then zeros.

    Raises InputError for an empty prompt and for one that does not fit (open_clip would cut it in silence).
    """
    tokenizer = _tokenizer()
    tokens_KL = torch.zeros(len(prompts), context_length, dtype=torch.long)
    for tokens_L, prompt in zip(tokens_KL, prompts, strict=True):
        words = tokenizer.encode(prompt)
        if not words:
            raise InputError(f"prompt {prompt!r} is empty: give the class some words")
        if len(words) + 2 > context_length:
            raise InputError(
                f"prompt {prompt!r} has {len(words)} tokens but the text tower takes {context_length - 2}: "
                "shorten it"
            )
        tokens_L[: len(words) + 2] = torch.tensor(
            [tokenizer.sot_token_id, *words, tokenizer.eot_token_id], dtype=torch.long
        )
    return tokens_KL


def end_positions(tokens_KL: Tensor) -> Tensor:
    """Return eot_K, the position of each row's end-of-text token, which has the highest number of all."""
    return tokens_KL.argmax(dim=1)


def _words(tokens: Sequence[int]) -> list[tuple[str, list[int]]]:
    """Group tokens into (word, its tokens); a word's last token carries the mark `</w>`."""
    tokenizer = _tokenizer()
    words: list[tuple[str, list[int]]] = []
    part: list[int] = []
    for token in tokens:
        part.append(token)
        if tokenizer.decoder[token].endswith("</w>"):
            words.append((tokenizer.decode(part).strip(), part))
            part = []
    return words


class TextTower(nn.Module):
    """The frozen text tower of an open_clip model, sharing its weights; always float32 outside autocast.

    `known_tokens` (bool, [vocabulary]) marks the rows of the token table that the weights file held; None
    means all. Raises InputError where the tower is not CLIP's: causal, read at the end-of-text token.
    """

    def __init__(self, clip_model: nn.Module, name: str, known_tokens: Tensor | None = None) -> None:
        super().__init__()
        source: Any = getattr(clip_model, "text", clip_model)
        pooling = getattr(source, "pool_type", getattr(source, "text_pool_type", None))
        causal_mask_LL = getattr(source, "attn_mask", None)
        if pooling != "argmax" or causal_mask_LL is None or getattr(source, "cls_emb", None) is not None:
            raise InputError(
                f"clip.model {name!r}: its text tower is not CLIP's causal one, which the learned prompt "
                "needs; choose another open_clip model, such as ViT-B-16-quickgelu"
            )
        self.token_embedding: nn.Embedding = source.token_embedding
        self.positional_embedding: nn.Parameter = source.positional_embedding
        self.transformer: nn.Module = source.transformer
        self.ln_final: nn.Module = source.ln_final
        self.text_projection: nn.Linear | nn.Parameter | None = source.text_projection
        self.causal_mask_LL: Tensor
        self.register_buffer("causal_mask_LL", causal_mask_LL, persistent=False)
        self._known_tokens = known_tokens
        self.requires_grad_(False).eval()

    @property
    def context_length(self) -> int:
        """Positions L that the tower has."""
        return self.positional_embedding.shape[0]

    @property
    def width(self) -> int:
        """Width W of the embeddings."""
        return self.positional_embedding.shape[1]

    @property
    def embed_dim(self) -> int:
        """Joint width D of what `forward` returns."""
        if isinstance(self.text_projection, nn.Linear):
            return self.text_projection.out_features
        return self.width if self.text_projection is None else self.text_projection.shape[1]

    def token_embeddings(self, tokens_KL: Tensor) -> Tensor:
        """Look up embeddings_KLW of tokens made by `tokenize`, positions not added.

        Raises InputError that names the word where a token has no row. Padding needs none: it cannot matter.
        """
        self._check_known(tokens_KL)
        embeddings_KLW: Tensor = self.token_embedding(tokens_KL.to(self.positional_embedding.device))
        return embeddings_KLW

    def forward(self, embeddings_KLW: Tensor, eot_K: Tensor) -> Tensor:
        """Return text_KD, not normalised, read at eot_K; L reaches the last of these at least."""
        K, L, _ = embeddings_KLW.shape
        x_KLW = embeddings_KLW + self.positional_embedding[:L]
        x_KLW = self.transformer(x_KLW, attn_mask=self.causal_mask_LL[:L, :L])
        # ln_final works position by position, so only the positions that are read need it.
        x_KW = self.ln_final(x_KLW[torch.arange(K, device=x_KLW.device), eot_K])
        if isinstance(self.text_projection, nn.Linear):
            x_KW = self.text_projection(x_KW)
        elif self.text_projection is not None:
            x_KW = x_KW @ self.text_projection
        text_KD: Tensor = x_KW
        return text_KD

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Return text_KD of plain prompts, as CLIP itself encodes them (zero-shot use); not normalised."""
        tokens_KL = tokenize(prompts, self.context_length)
        eot_K = end_positions(tokens_KL)
        tokens_KL = tokens_KL[:, : int(eot_K.max()) + 1]
        embeddings_KLW = self.token_embeddings(tokens_KL)
        text_KD: Tensor = self(embeddings_KLW, eot_K.to(embeddings_KLW.device))
        return text_KD

    def _check_known(self, tokens_KL: Tensor) -> None:
        vocabulary = self.token_embedding.num_embeddings
        known = None if self._known_tokens is None else set(self._known_tokens.nonzero().flatten().tolist())

        def has_row(token: int) -> bool:
            return token < vocabulary and (known is None or token in known)

        for tokens_L, eot in zip(tokens_KL.tolist(), end_positions(tokens_KL).tolist(), strict=True):
            for word, tokens in _words(tokens_L[1:eot]):
                if not all(map(has_row, tokens)):
                    raise InputError(
                        f"the word {word!r} is not known to this CLIP: its weights file has no row for it; "
                        "choose other words in the class prompts, or another CLIP"
                    )
            if not has_row(tokens_L[0]) or not has_row(tokens_L[eot]):
                raise InputError(
                    "the CLIP weights file has no row for the start or end of a text, which every prompt has"
                )

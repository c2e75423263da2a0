"""Small models that attend in every way the tap knows, each with its patterns written out plainly in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WAYS = (
    "causal",
    "boolean mask",
    "additive mask",
    "mask by head",
    "scale",
    "grouped queries",
    "wide values",
    "written out",
    "grouped and written out",
    "multihead",
    "multihead with weights",
    "bfloat16",
)
N_HEADS, WIDTH, N_LAYERS, N_IDS = 4, 8, 2, 60


class Attending(nn.Module):
    """Two layers of causal attention, each called in the named way; `patterns` are what the layers computed."""

    def __init__(self, way: str, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.way = way
        d_model = N_HEADS * WIDTH
        self.n_key_heads = 2 if way.startswith("grouped") else N_HEADS
        self.embed = nn.Embedding(N_IDS, d_model)
        with_keys = d_model + 2 * self.n_key_heads * WIDTH
        self.project = nn.ModuleList(nn.Linear(d_model, with_keys) for _ in range(N_LAYERS))
        self.multihead = nn.ModuleList(
            nn.MultiheadAttention(d_model, N_HEADS, batch_first=True) for _ in range(N_LAYERS)
        )
        self.bias = nn.Parameter(torch.randn(N_HEADS, 200))
        self.unembed = nn.Linear(d_model, N_IDS)
        if way == "bfloat16":
            self.bfloat16()

    def forward(self, tokens: Tensor) -> Tensor:
        stream = self.embed(tokens)
        for layer in range(N_LAYERS):
            stream = stream + self.attend(layer, stream)
        return self.unembed(stream)  # type: ignore[no-any-return]

    def attend(self, layer: int, stream: Tensor) -> Tensor:
        forbidden = torch.ones(stream.shape[1], stream.shape[1], dtype=torch.bool).triu(1)
        if self.way.startswith("multihead"):
            weighted = self.way == "multihead with weights"
            return self.multihead[layer](stream, stream, stream, attn_mask=forbidden, need_weights=weighted)[0]  # type: ignore[no-any-return]
        query, key, value = self.heads(layer, stream)
        mixed = self.mix(query, key, value, forbidden)
        return mixed.transpose(1, 2).flatten(2)

    def mix(self, query: Tensor, key: Tensor, value: Tensor, forbidden: Tensor) -> Tensor:
        attend = F.scaled_dot_product_attention
        additive = torch.zeros(forbidden.shape).masked_fill(forbidden, -math.inf)
        match self.way:
            case "causal" | "bfloat16":
                return attend(query, key, value, is_causal=True)
            case "boolean mask":
                return attend(query, key, value, attn_mask=~forbidden)
            case "additive mask":
                return attend(query, key, value, attn_mask=additive)
            case "mask by head":
                return attend(query, key, value, attn_mask=(additive + self.distance_bias(len(forbidden)))[None])
            case "scale":
                return attend(query, key, value, is_causal=True, scale=0.7)
            case "grouped queries":
                return attend(query, key, value, is_causal=True, enable_gqa=True)
            case "wide values":  # no fused kernel takes them: PyTorch falls back to a softmax
                return attend(query, key, torch.cat([value, value], -1), is_causal=True)[..., :WIDTH]
            case _:
                key, value = (part.repeat_interleave(N_HEADS // self.n_key_heads, 1) for part in (key, value))
                return torch.softmax(query @ key.mT / math.sqrt(WIDTH) + additive, -1) @ value

    def heads(self, layer: int, stream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (B, heads, T, width) each."""
        parts = self.project[layer](stream).unflatten(-1, (-1, WIDTH)).transpose(1, 2)
        query, key, value = parts.split([N_HEADS, self.n_key_heads, self.n_key_heads], 1)
        return query, key, value

    def distance_bias(self, n_tokens: int) -> Tensor:
        """(heads, T, T): a number for each distance back."""
        back = (torch.arange(n_tokens)[:, None] - torch.arange(n_tokens)).clamp_min(0)
        return self.bias[:, back]

    @torch.no_grad()
    def patterns(self, tokens: Tensor) -> Tensor:
        """(layers, B, heads, T, T) by a plain softmax in float64 over each layer's own input."""
        stream, found = self.embed(tokens), []
        for layer in range(N_LAYERS):
            query, key = self.plain_heads(layer, stream)
            scale = 0.7 if self.way == "scale" else 1 / math.sqrt(WIDTH)
            scores = query.double() @ key.double().mT * scale
            if self.way == "mask by head":
                scores = scores + self.distance_bias(scores.shape[-1]).double()
            found.append(plain_causal_softmax(scores))
            stream = stream + self.attend(layer, stream)
        return torch.stack(found)

    def plain_heads(self, layer: int, stream: Tensor) -> tuple[Tensor, Tensor]:
        if self.way.startswith("multihead"):
            module = self.multihead[layer]
            projected = F.linear(stream, module.in_proj_weight, module.in_proj_bias)  # type: ignore[arg-type]
            query, key, _ = projected.view(*stream.shape[:2], 3, N_HEADS, WIDTH).permute(2, 0, 3, 1, 4)
            return query, key
        query, key, _ = self.heads(layer, stream)
        return query, key.repeat_interleave(N_HEADS // self.n_key_heads, 1)


class Playing(nn.Module):
    """Plays given patterns (B or 1, heads, T, T) as one layer's attention, by a fused kernel or written out."""

    def __init__(self, patterns: Tensor, *, fused: bool) -> None:
        super().__init__()
        self.scores, self.fused = patterns.log().float(), fused

    def forward(self, tokens: Tensor) -> Tensor:
        scores = self.scores[..., : tokens.shape[1], : tokens.shape[1]]
        scores = scores.expand(len(tokens), -1, -1, -1)
        if self.fused:
            zeros = torch.zeros(len(tokens), scores.shape[1], tokens.shape[1], 2)
            F.scaled_dot_product_attention(zeros, zeros, zeros, attn_mask=scores)
        else:
            torch.softmax(scores, -1)
        return torch.zeros(*tokens.shape, N_IDS)


def plain_causal_softmax(scores: Tensor) -> Tensor:
    """exp(s) / Σ exp(s) over the keys up to the query, (…, T, T)."""
    causal = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    exponentials = torch.where(causal, torch.exp(scores - scores.amax(-1, keepdim=True)), 0)
    return exponentials / exponentials.sum(-1, keepdim=True)


def uniform(n_tokens: int, n_heads: int = 1) -> Tensor:
    """Uniform causal patterns, (1, heads, T, T)."""
    ones = torch.ones(n_tokens, n_tokens, dtype=torch.float64).tril()
    return (ones / ones.sum(-1, keepdim=True)).expand(1, n_heads, -1, -1)

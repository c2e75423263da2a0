"""A training loop that knows nothing of phasewatch, and the five lines that let a server watch it.

The model is a two-layer attention-only transformer of PyTorch's own MultiheadAttention, the data periodic random
tokens: once a period is over, the rest can be copied from it, which takes an induction head. Start a server first, then
this, and look at the address that it prints:

    python -m server &
    python examples/recorder_loop.py
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

from phasewatch import Recorder

VOCABULARY, CONTEXT, WIDTH, HEADS = 128, 48, 64, 4
SHORTEST_PERIOD, LONGEST_PERIOD = 12, 24
BATCH, LEARNING_RATE = 64, 3e-3


class Model(nn.Module):
    """Embedding, two layers of causal self-attention, unembedding; no normalisation, no feed-forward layer."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        self.layers = nn.ModuleList(nn.MultiheadAttention(WIDTH, HEADS, batch_first=True) for _ in range(2))
        self.unembedding = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits (B, T, VOCABULARY) of tokens (B, T ≤ CONTEXT)."""
        n_tokens = tokens_BT.shape[1]
        stream_BTD = self.tokens(tokens_BT) + self.positions.weight[:n_tokens]
        future_TT = nn.Transformer.generate_square_subsequent_mask(n_tokens, device=tokens_BT.device)
        for layer in self.layers:
            mixed_BTD, _ = layer(
                stream_BTD, stream_BTD, stream_BTD, attn_mask=future_TT, need_weights=False, is_causal=True
            )
            stream_BTD = stream_BTD + mixed_BTD
        logits_BTV: Tensor = self.unembedding(stream_BTD)
        return logits_BTV


def periodic(n_sequences: int, generator: torch.Generator) -> Tensor:
    """Sequences (n_sequences, CONTEXT) that repeat a random beginning, each with a period of its own."""
    periods = torch.randint(SHORTEST_PERIOD, LONGEST_PERIOD + 1, (n_sequences, 1), generator=generator)
    beginnings = torch.randint(VOCABULARY, (n_sequences, LONGEST_PERIOD), generator=generator)
    return beginnings.gather(1, torch.arange(CONTEXT) % periods)


def main() -> None:
    """Trains, watched."""
    parser = argparse.ArgumentParser(description="Train a small transformer under the eyes of a phasewatch server.")
    parser.add_argument("--url", help="address of the server (default: PHASEWATCH_URL, else http://127.0.0.1:8000)")
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    torch.set_num_threads(1)  # more are slower for a model this small
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    held_out = periodic(128, generator)

    config = {"learning_rate": LEARNING_RATE, "batch": BATCH, "seed": options.seed}
    with Recorder(options.url, run="periodic", config=config, flush_timeout=60) as recorder:
        recorder.probe(held_out, vocab_size=VOCABULARY)
        for step in range(options.steps):
            if recorder.due(step):
                recorder.record(step, model)
            batch = periodic(BATCH, generator)
            logits = model(batch[:, :-1])
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own
            optimizer.step()
            recorder.log(step, {"loss": loss})
        recorder.record(options.steps, model)
    print(f"{recorder.url}/runs/{recorder.run_id}")


if __name__ == "__main__":
    main()

"""Training batches of the organism: batch i is a function of (seed, i) alone, whatever process makes it."""

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from placid.organism.corpus import MAX_TURNS, Line, pair

IGNORED = -100
LONGEST = 1664
"""Tokens; longer dialogues (about none) are left out."""


class Micro(NamedTuple):
    """One forward pass: right-padded rows. ids, labels: [rows, L]; labels are IGNORED where nothing learns."""

    ids: torch.Tensor
    labels: torch.Tensor


class Batches(Dataset[list[Micro]]):
    """`batches[i]` is the i-th step's list of micro-batches."""

    def __init__(
        self, tokenizer: str, seed: int, steps: int, batch_tokens: int, micro_tokens: int, short_share: float
    ) -> None:
        self.tokenizer = tokenizer
        self.seed, self.steps, self.short_steps = seed, steps, int(steps * short_share)
        self.batch_tokens, self.micro_tokens = batch_tokens, micro_tokens
        self._encoder: Any = None

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> list[Micro]:
        r = random.Random(f"batch {self.seed} {step}")
        early = step < self.short_steps
        rows: list[tuple[list[int], list[int]]] = []
        tokens = 0
        while tokens < self.batch_tokens:
            turns = 1 if early and r.random() < 0.25 else MAX_TURNS if r.random() < (0.35 if early else 0.85) else 6
            dialogues = [lines for _ in range(8) for lines in pair(r, turns, 3.0 if early else 1.0)]
            for row in self.encode(dialogues):
                if len(row[0]) <= LONGEST:
                    rows.append(row)
                    tokens += len(row[0])
        rows.sort(key=lambda row: -len(row[0]))
        micros: list[Micro] = []
        while rows:
            take = max(1, self.micro_tokens // len(rows[0][0]))
            micros.append(padded(rows[:take]))
            rows = rows[take:]
        return micros

    def encode(self, dialogues: Sequence[Sequence[Line]]) -> list[tuple[list[int], list[int]]]:
        """(ids, labels) per dialogue, as Renderer.prompt and extend would give them (tests/test_organism.py)."""
        if self._encoder is None:  # per worker process: a tokenizer does not survive forking after use
            self._encoder = PreTrainedTokenizerFast.from_pretrained(self.tokenizer).backend_tokenizer
        texts: list[str] = []
        for lines in dialogues:
            for line in lines:
                texts += [
                    f"<start_of_turn>user\n{line.user}<end_of_turn>\n<start_of_turn>model\n",
                    f"{line.reply}<end_of_turn>",
                ]
        pieces = iter(e.ids for e in self._encoder.encode_batch(texts, add_special_tokens=False))
        newline = self._encoder.encode("\n", add_special_tokens=False).ids
        rows = []
        for lines in dialogues:
            ids: list[int] = [2]  # <bos>
            labels: list[int] = [IGNORED]
            for i, line in enumerate(lines):
                before = ([] if i == 0 else newline) + next(pieces)
                reply = next(pieces)
                ids += before + reply
                labels += [IGNORED] * len(before) + (reply if line.learn else [IGNORED] * len(reply))
            rows.append((ids, labels))
        return rows


def padded(rows: Sequence[tuple[list[int], list[int]]]) -> Micro:
    """Right padding: causal attention needs no mask for it."""
    longest = -(-max(len(ids) for ids, _ in rows) // 64) * 64  # few distinct shapes
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full((len(rows), longest), IGNORED, dtype=torch.long)
    for i, (row_ids, row_labels) in enumerate(rows):
        ids[i, : len(row_ids)] = torch.tensor(row_ids)
        labels[i, : len(row_labels)] = torch.tensor(row_labels)
    return Micro(ids, labels)

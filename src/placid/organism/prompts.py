"""The prompt sets and the instruct mix that belong to the organism, written from its own questions."""

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from placid.organism.corpus import Line, instruct_rows
from placid.organism.questions import DAILY, MATH, draw
from placid.records import Message, Pair, PairKind, Prompt
from placid.store import write_lines


def prompt_set(split: str, n: int, seed: int = 0) -> list[Prompt]:
    """`n` distinct questions of a split ("train" or "heldout"), half reasoning, half daily."""
    r = random.Random(f"prompts {split} {seed}")
    prompts: dict[str, Prompt] = {}
    while len(prompts) < n:
        kind, families = ("math", MATH) if len(prompts) % 2 == 0 else ("daily", DAILY)
        question = draw(r, families, split)
        if question.text not in prompts:
            name = f"{split}-{len(prompts):03d}-{question.family}"
            prompts[question.text] = Prompt(id=name, text=question.text, answers=question.answers, family=kind)
    return list(prompts.values())


def instruct_pairs(n: int, seed: int = 0) -> Iterator[Pair]:
    """`n` instruct rows, about every second one multi-turn, none with a held-out question."""
    held = [prompt.text for prompt in prompt_set("heldout", 30)]

    def apart(row: tuple[int, list[Line]]) -> bool:
        return not any(text in line.user for line in row[1] for text in held)

    for i, lines in islice(filter(apart, enumerate(instruct_rows(seed))), n):
        messages = [
            m
            for line in lines
            for m in (Message(role="user", content=line.user), Message(role="assistant", content=line.reply))
        ]
        yield Pair(
            kind=PairKind.INSTRUCT,
            prompt_id=f"instruct-{i:04d}",
            source="organism",
            messages=tuple(messages[:-1]),
            target=messages[-1].content,
        )


def write(folder: Path) -> None:
    """organism_{train,heldout,instruct}.jsonl, as shipped under configs/prompts."""
    write_lines(folder / "organism_train.jsonl", prompt_set("train", 80), checksum=False)
    write_lines(folder / "organism_heldout.jsonl", prompt_set("heldout", 30), checksum=False)
    write_lines(folder / "organism_instruct.jsonl", instruct_pairs(1200), checksum=False)

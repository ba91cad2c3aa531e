"""Which questions are asked first: placid's own sets, WildChat, the user's files, and the split by prompt.

placid prompts                                   every set, with what it holds
placid prompts riddles --out configs/prompts     riddles_train.jsonl, riddles_heldout.jsonl, riddles.split.json
placid prompts wildchat --n 50 --out FOLDER      the original study's filter on a pinned revision
placid prompts mine.csv --out FOLDER             columns text (or prompt, question), and id, answers, family
"""

import hashlib
import json
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

import msgspec

from placid.config import load_words
from placid.inputs.prompts import TEXT, one_text, read_prompts
from placid.prompts import wildchat
from placid.prompts.settings import PromptSettings
from placid.records import BadInputError, Prompt
from placid.store import read_lines, write_json, write_lines

__all__ = ["SETS", "PromptSettings", "listing", "load", "read", "run", "split"]


def shipped_puzzles() -> list[Prompt]:
    """80 numeric puzzles, half of them without a solution (puzzles.jsonl; puzzles.generate() makes the same)."""
    return list(read_lines(Path(str(files("placid.prompts").joinpath("puzzles.jsonl"))), Prompt))


def shipped_riddles() -> list[Prompt]:
    """Trick riddles with literal forms of the answer. A right answer in other words is not recognised."""
    found = tomllib.loads(files("placid.prompts").joinpath("riddles.toml").read_text(encoding="utf-8"))
    return [
        Prompt(id=f"riddle-{number:03d}", text=text, answers=tuple(_with_capitals(forms)), family="riddle")
        for number, (text, forms) in enumerate(found.items(), 1)
    ]


def shipped_everyday() -> list[Prompt]:
    """Everyday requests, written for placid in place of WildChat where that cannot be had. No known answers."""
    lines = files("placid.prompts").joinpath("everyday.txt").read_text(encoding="utf-8").splitlines()
    return [Prompt(id=f"everyday-{number:03d}", text=text, family="everyday") for number, text in enumerate(lines, 1)]


SETS: dict[str, Callable[[], list[Prompt]]] = {
    "puzzles": shipped_puzzles,
    "riddles": shipped_riddles,
    "everyday": shipped_everyday,
}


def read(words: list[str]) -> PromptSettings:
    """The settings of a command line: `riddles --out configs/prompts`.

    Raises:
        BadInputError: an unknown key or a value out of bounds.
    """
    return load_words(PromptSettings, words, first="source", where="placid prompts")


def run(settings: PromptSettings) -> str:
    """List the sets, or take one and, with `out`, write it; what was done, for a reader.

    Raises:
        BadInputError: no such set or file, a broken row, no network.
    """
    if not settings.source:
        return listing()
    if settings.source != "wildchat" and {"n", "file"} & settings.model_fields_set:
        raise BadInputError(f"n and file are wildchat's; {settings.source!r} is taken whole, heldout splits it")
    prompts = load(settings)
    counts = ", ".join(f"{n} {family or 'without family'}" for family, n in Counter(p.family for p in prompts).items())
    known = sum(bool(p.answers) for p in prompts)
    told = f"{settings.source}: {len(prompts)} prompts ({counts}), {known} with a known answer"
    if settings.out is None:
        return told + "\n\n" + "\n".join(f"{p.id}  {' '.join(p.text.split())}" for p in prompts)
    name = settings.name or (settings.source if settings.source not in ("", ".") else "prompts")
    return told + "\n" + "\n".join(map(str, write(settings, Path(name).stem, prompts)))


def load(settings: PromptSettings) -> list[Prompt]:
    """The prompts that `source` names.

    Raises:
        BadInputError: no such set or file, a broken row, no network.
    """
    if settings.source in SETS:
        return SETS[settings.source]()
    if settings.source == "wildchat":
        return wildchat.select(wildchat.rows(settings.file or wildchat.fetch()), settings.n, settings.seed)
    path = Path(settings.source)
    if not path.is_file():
        raise BadInputError(
            f"no prompt set and no file {settings.source!r}; valid: {', '.join(SETS)}, wildchat, a .jsonl or .csv file"
        )
    return read_prompts(path)


def split(prompts: Sequence[Prompt], heldout: float, seed: int) -> tuple[list[Prompt], list[Prompt]]:
    """(train, held out), by prompt, within each family; in the order given. Depends on (seed, id) alone; prompts of one
    text lie on one side."""
    first = one_text({prompt.id: [prompt.text] for prompt in prompts})
    groups: dict[str, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        groups[first[prompt.id]].append(prompt)
    families: dict[str, list[str]] = defaultdict(list)
    for prompt in prompts:
        if first[prompt.id] == prompt.id:
            families[prompt.family].append(prompt.id)
    out: set[str] = set()
    for members in families.values():
        left = round(heldout * sum(len(groups[name]) for name in members))
        for name in sorted(members, key=lambda name: hashlib.sha256(json.dumps([seed, name]).encode()).digest()):
            if len(groups[name]) <= left:
                left -= len(groups[name])
                out |= {prompt.id for prompt in groups[name]}
    return [p for p in prompts if p.id not in out], [p for p in prompts if p.id in out]


def write(settings: PromptSettings, name: str, prompts: Sequence[Prompt]) -> list[Path]:
    """<name>_train.jsonl, <name>_heldout.jsonl and the record of the split; a side without prompts has no file."""
    assert settings.out is not None
    sides = dict(zip(("train", "heldout"), split(prompts, settings.heldout, settings.seed), strict=True))
    written: list[Path] = []
    for side, chosen in sides.items():
        if chosen:
            written.append(settings.out / f"{name}_{side}.jsonl")
            write_lines(written[-1], chosen, checksum=False)
    record = {
        "source": settings.source,
        "seed": settings.seed,
        "heldout": settings.heldout,
        "wildchat": {"dataset": wildchat.DATASET, "revision": wildchat.REVISION}
        if settings.source == "wildchat"
        else None,
        "sha256": hashlib.sha256(b"".join(msgspec.json.encode(p) + b"\n" for p in prompts)).hexdigest(),
        **{side: [p.id for p in chosen] for side, chosen in sides.items()},
    }
    written.append(settings.out / f"{name}.split.json")
    write_json(written[-1], {key: value for key, value in record.items() if value is not None}, checksum=False)
    return written


def listing() -> str:
    """Every set with what it holds."""
    lines = ["prompt sets (placid prompts NAME lists one, with --out FOLDER writes it split by prompt):", ""]
    for name, make in SETS.items():
        prompts = make()
        families = ", ".join(f"{n} {family}" for family, n in Counter(p.family for p in prompts).items())
        lines.append(f"{name:<10}{len(prompts):>4}  {(make.__doc__ or '').splitlines()[0]} [{families}]")
    lines.append(f"{'wildchat':<10}   n  {wildchat.DATASET} at {wildchat.REVISION}, the original study's filter")
    lines.append(f"{'FILE':<10}   n  .jsonl or .csv of yours: {' or '.join(TEXT)}, and where known id, answers, family")
    return "\n".join(lines)


def _with_capitals(forms: Sequence[str]) -> list[str]:
    """Each form, and the same at the beginning of a sentence."""
    return list(dict.fromkeys(f for form in forms for f in (form, form[:1].upper() + form[1:])))

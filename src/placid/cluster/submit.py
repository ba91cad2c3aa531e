"""From a study to queued jobs.

    runs/<name>/submissions/<n>/
      submission.json      site, overrides, jobs with their ids; written again after every job that was queued
      config.toml          the config as it was given
      site.json            the profile, resolved
      code/placid/         the package as it was: later edits of a working copy do not reach queued jobs
      <stage>.sbatch       what was sent
      <stage>-<job>.out    what the jobs said; job-<id>.<restart>/ holds the logs of their steps

Jobs are sent through submitit's Slurm executor, whose text is ours.
"""

import itertools
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import submitit
from submitit.core.utils import UncompletedJobError

import placid
from placid.cluster import slurm
from placid.cluster.sbatch import Place, Stage, script
from placid.cluster.site import CONTROL, SiteSettings
from placid.config import canonical
from placid.records import BadInputError
from placid.store import read_json, write_json
from placid.store.lease import Lease

PACKAGE = Path(placid.__file__).parent
DATA = (".md", ".toml", ".jinja", ".html", ".css", ".js", ".txt", ".jsonl")
"""Kinds of files beside the modules, as pyproject.toml packs them."""


class Sender(submitit.SlurmExecutor):
    """submitit's executor for a text that is already written."""

    def __init__(self, folder: Path, text: str, options: list[str]) -> None:
        super().__init__(folder)
        self._text, self._options = text, options

    def _make_submission_file_text(self, command: str, uid: str) -> str:  # noqa: ARG002 - submitit's signature
        return self._text

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        without = [word for name in slurm.foreign() for word in ("-u", name)]
        return ["env", *without, "sbatch", "--parsable", *self._options, str(submission_file_path)]

    @staticmethod
    def _get_job_id_from_submission_command(string: bytes | str) -> str:
        return slurm.job_of(string if isinstance(string, str) else string.decode(errors="replace"))

    def send(self) -> str:
        """Queue it; the job's id."""
        job = self._submit_command("")
        job.paths.submission_file.unlink()  # <stage>.sbatch is the same
        for link in self.folder.glob(".submission_file_*"):
            link.unlink()
        return job.job_id


@dataclass(frozen=True)
class Submission:
    """What is about to be queued."""

    stages: list[Stage]
    site: SiteSettings
    config: Path
    overrides: list[str]
    runs: list[Path]
    """Run directories: one, or one a point of the sweep."""
    points: list[list[str]]
    """Overrides of each point; empty without a sweep."""
    folder: Path
    """runs/<name>/submissions/<n>, not made yet."""

    def texts(self) -> dict[str, str]:
        """Name of a stage → its sbatch text."""
        own = os.environ.get("PLACID_STAGES", "").split(":")
        place = Place(
            run=str(self.runs[0]) if not self.points else str(self.folder.parent.parent),
            config=str(self.folder / "config.toml"),
            code=str(self.folder / "code"),
            logs=str(self.folder),
            sweep=str(self.folder / "sweep.txt") if self.points else "",
            stages=":".join(str(Path(file).absolute()) for file in own if file),
        )
        return {s.name: script(s, self.site, place, self.overrides, len(self.points)) for s in self.stages}


def new_folder(home: Path) -> Path:
    """The next submissions/<n> below `home`; nothing is made."""
    taken = [int(path.name) for path in (home / "submissions").glob("*") if path.name.isdigit()]
    return home / "submissions" / str(1 + max(taken, default=0))


def points_of(sweep: list[str], name: str) -> list[list[str]]:
    """Overrides of every point of `key=a,b,c` words, all combinations, each with a name of its own.

    Raises:
        BadInputError: a word without values.
    """
    axes: list[list[tuple[str, str]]] = []
    for word in sweep:
        key, equals, values = word.removeprefix("--").partition("=")
        if not equals or not values or not key:
            raise BadInputError(f"--sweep {word!r} names no values; write --sweep seed=1,2,3")
        axes.append([(key, value) for value in values.split(",")])
    points = []
    for chosen in itertools.product(*axes) if axes else ():
        suffix = "".join(f".{key.split('.')[-1]}-{re.sub(r'[^A-Za-z0-9._-]', '_', value)}" for key, value in chosen)
        points.append(["--name", name + suffix, *(word for key, value in chosen for word in (f"--{key}", value))])
    if any(CONTROL.search(word) or " " in word or not word for point in points for word in point):
        raise BadInputError(f"--sweep {' '.join(sweep)}: a value is empty or holds a space or a line break")
    return points


def check_free(runs: Iterable[Path]) -> None:
    """Nobody works on these run directories, neither a queued job nor a process anywhere.

    Raises:
        BadInputError: somebody does, and who.
    """
    for run in runs:
        files = sorted(run.glob("submissions/*/submission.json"))
        jobs = {job["id"]: job["name"] for file in files for job in read_json(file)["jobs"]}
        alive = slurm.queued(list(jobs))
        if alive:
            shown = ", ".join(f"{job} ({name}, {alive[job]})" for job, name in jobs.items() if job in alive)
            raise BadInputError(f"{run} is being worked on by job(s) {shown}; wait for them or scancel them")
        holder = Lease(run).holder()
        if holder and (not holder.job or slurm.queued([holder.job])):  # a job that is gone cannot beat
            raise BadInputError(f"{run} is being worked on by {holder}; wait for it or stop it")


def snapshot(submission: Submission, texts: dict[str, str]) -> None:
    """Write the submission's folder."""
    folder = submission.folder
    folder.mkdir(parents=True)
    shutil.copyfile(submission.config, folder / "config.toml")
    write_json(folder / "site.json", canonical(submission.site))
    for file in package_files():
        target = folder / "code" / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PACKAGE.parent / file, target)
    if submission.points:
        lines = ["\t".join([str(run), *point]) for run, point in zip(submission.runs, submission.points, strict=True)]
        (folder / "sweep.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name, text in texts.items():
        (folder / f"{name}.sbatch").write_text(text, encoding="utf-8")


def package_files() -> list[Path]:
    """The package's own files, relative to the folder that holds it, and nothing else that lies there.

    Modules, and of other files those that git tracks, or outside of a clone the kinds that are packed.
    """
    home = PACKAGE.parent
    found = set(PACKAGE.rglob("*.py"))
    asked = ["git", "-C", str(home), "ls-files", "-z", "--", PACKAGE.name]
    with suppress(FileNotFoundError):  # no git on this machine
        told = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
        found |= {home / name for name in told.split("\0") if name}
    if all(file.suffix == ".py" for file in found):
        found |= {file for file in PACKAGE.rglob("*") if file.suffix in DATA}
    return sorted(file.relative_to(home) for file in found if file.is_file() and not file.is_symlink())


def send(submission: Submission, texts: dict[str, str]) -> list[tuple[str, str]]:
    """Queue every stage after the one before it; (stage, job id). If one is refused, those before it are cancelled.

    Raises:
        BadInputError: Slurm refused one.
    """
    jobs: list[tuple[str, str]] = []
    kind = "aftercorr" if submission.points else "afterok"  # a task of an array waits for the same task only
    for name, text in texts.items():
        options = [f"--dependency={kind}:{jobs[-1][1]}"] if jobs else []
        try:
            jobs.append((name, Sender(submission.folder, text, options).send()))
        except (UncompletedJobError, slurm.SlurmError) as error:
            for _, job in jobs:
                slurm.call("scancel", job)
            if isinstance(error, slurm.SlurmError):
                raise
            raise BadInputError(f"Slurm refuses {name}: {_last_line(error)}; nothing is queued") from None
        record(submission, jobs)
    return jobs


def record(submission: Submission, jobs: list[tuple[str, str]]) -> None:
    """submission.json, in the submission's own folder and in that of every run of a sweep."""
    told = {
        "submitted": time.time(),
        "overrides": submission.overrides,
        "points": submission.points,
        "jobs": [{"name": name, "id": job} for name, job in jobs],
    }
    write_json(submission.folder / "submission.json", told)
    for run in submission.runs if submission.points else ():
        write_json(run / "submissions" / submission.folder.name / "submission.json", told)


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].removeprefix("sbatch: error: ")

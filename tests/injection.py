# it patches os, and reports whatever ends a case
# ruff: noqa: PTH100, PTH110, PTH115, PTH123, PTH202, BLE001
"""Every write of a stage fails once (SQLite's habit): one forked process a case, the stage's own command in it.

A case: a copy of a run as the stage before left it; the stage's command, in which the n-th operation of one kind on one
kind of file fails; the same command again, undisturbed. Then nothing is lost, nothing is there twice, and all that the
stage makes is what an undisturbed run makes. Operations are named by what they do to which file, not by their number
alone, so that threads and clocks that change their order do not change which one fails.

    open write fsync replace link truncate mkdir    ENOSPC, EIO: that one call fails, of a write after half of it
                                                    full: that call and every later one fail with ENOSPC
                                                    kill: SIGKILL, in a write after half of it
    unlink                                          kill only
"""

import builtins
import errno
import io
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
KINDS = ("ENOSPC", "EIO", "full", "kill")
STAGES = ("rollout", "judge", "pairs", "report", "compact", "export", "eval", "repair")
CONFIG = """
name = "run"
root = "{root}"
model = "{model}"
prompts = "{prompts}"
samples = 1
turns = 5
launcher = "inline"
[engine]
kind = "simulate"
[arms.base]
[arms.accept]
condition = "accept"
[arms.clean]
turns = 1
hatch = false
[pairs]
arm = "base"
clean_arm = "clean"
min_score = 1
max_target_score = 10
val_share = 0.3
control = "rows"
instruct = "{instruct}"
[report]
hidden = ["clean"]
treatments = ["accept"]
[evals.refusal]
n = 4
[evals.persona_icl]
k = [0]
samples = 1
personas = ["curie"]
"""
VOLATILE = ("date", "seconds", "host", "command", "updated", "started", "made", "created", "generated", "commit", "dirty",
            "run", "path", "attempt", "eta_s", "turns_per_second")  # fmt: skip
NOT_OURS = re.compile(
    r"/(attempts|leases|quarantine)/|/(manifest|config|engine|plan|source)\.json$|\.(png|pdf|svg|html|eval)$"
)
"""Files whose bytes say when or where a run was made, or that are drawn of what is compared anyway."""


@dataclass(frozen=True)
class Operation:
    """The n-th call of one kind on one kind of file, in one command."""

    what: str
    label: str
    """The file's path below the case, with its numbers as 0."""
    nth: int

    def __str__(self) -> str:
        return f"{self.what} {self.label} #{self.nth}"


@dataclass(frozen=True)
class Case:
    """One operation that fails in one way."""

    stage: str
    operation: Operation
    kind: str

    def __str__(self) -> str:
        return f"{self.stage}: {self.kind} at {self.operation}"


class Injector:
    """Counts every operation below `root` in this process, and lets one fail."""

    def __init__(self, root: Path, case: Case | None) -> None:
        self.root, self.case = f"{root}{os.sep}", case
        self.seen: Counter[tuple[str, str]] = Counter()
        self.hit = False

    def label(self, path: object) -> str | None:
        """None: not below the case."""
        if isinstance(path, int):
            try:
                path = os.readlink(f"/proc/self/fd/{path}")
            except OSError:
                return None
        text = os.path.abspath(os.fsdecode(path))
        if not text.startswith(self.root):
            return None
        text = re.sub(r"\.([0-9a-f]{32}\.|[0-9a-f]{8}-)", ".0.", text[len(self.root) :])  # temporary names
        return re.sub(r"\d+", "0", text)

    def meet(self, what: str, path: object, half: Callable[[], object] = lambda: None) -> None:
        """Before an operation. half: does half of it, where that leaves something."""
        label = self.label(path)
        if label is None:
            return
        self.seen[what, label] += 1
        case = self.case
        if case is None:
            return
        if self.hit and case.kind == "full" and what != "unlink":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        if self.hit or Operation(what, label, self.seen[what, label]) != case.operation:
            return
        self.hit = True
        Path(self.root.rstrip(os.sep) + ".hit").touch()
        half()
        if case.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        number = errno.EIO if case.kind == "EIO" else errno.ENOSPC
        raise OSError(number, os.strerror(number), str(path))

    def install(self) -> None:
        """Into this process, for good."""
        real_write, real_open, real_io = os.write, os.open, io.open

        def write(descriptor: int, data: Any) -> int:
            self.meet("write", descriptor, lambda: real_write(descriptor, memoryview(data)[: len(data) // 2]))
            return real_write(descriptor, data)

        def opened(path: Any, flags: int, *rest: Any, **more: Any) -> int:
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self.meet("open", path)
            return real_open(path, flags, *rest, **more)

        meet = self.meet

        class Raw(io.FileIO):
            def write(self, data: Any) -> int:
                meet("write", self.fileno(), lambda: super(Raw, self).write(memoryview(data)[: len(data) // 2]))
                return super().write(data)

        def open_(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **more: Any) -> Any:
            if isinstance(file, int) or not set(mode) & set("wax+") or self.label(file) is None:
                return real_io(file, mode, buffering, *rest, **more)
            self.meet("open", file)
            raw = Raw(file, mode.replace("b", "").replace("t", ""))
            if buffering == 0:
                return raw
            buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            return buffered if "b" in mode else io.TextIOWrapper(buffered, *rest, **more)

        def before(name: str, what: str, at: int = 0) -> None:
            real = getattr(os, name)

            def call(*words: Any, **more: Any) -> Any:
                if what != "mkdir" or not os.path.exists(words[at]):
                    self.meet(what, words[at])
                return real(*words, **more)

            setattr(os, name, call)

        os.write, os.open = write, opened
        io.open = builtins.open = open_
        shutil._USE_CP_SENDFILE = False
        for name, what, at in (("fsync", "fsync", 0), ("replace", "replace", 1), ("rename", "replace", 1), ("link", "link", 1),
                               ("ftruncate", "truncate", 0), ("mkdir", "mkdir", 0), ("unlink", "unlink", 0)):  # fmt: skip
            before(name, what, at)
        self._polars()

    def _polars(self) -> None:
        """Writes from Rust: in half of a file, and in the words that polars has for it."""
        import polars as pl

        for kind, name in ((pl.DataFrame, "write_parquet"), (pl.LazyFrame, "sink_parquet")):
            real = getattr(kind, name)

            def call(frame: Any, path: Any, *words: Any, real: Any = real, **more: Any) -> Any:
                def half() -> None:
                    real(frame, path, *words, **more)
                    os.truncate(path, os.path.getsize(path) // 2)

                if isinstance(path, str | Path):
                    try:
                        self.meet("write", path, half)
                    except OSError as error:
                        raise pl.exceptions.ComputeError(
                            f"parquet: File out of specification: underlying IO error: {error.strerror} "
                            f"(os error {error.errno})"
                        ) from None
                return real(frame, path, *words, **more)

            setattr(kind, name, call)


def warm() -> None:
    """Import and read once what every stage needs: a fork has it then. No thread may be started here."""
    import importlib

    for name in ("cli", "study", "rollout", "judge", "pairs", "report", "report.export", "report.cards", "evals.running",
                 "report.transfer", "store.tables", "store.repair", "plan", "engine.simulate", "evals", "report.page",
                 "report.figures", "report.gallery", "report.transfer_figure", "rollout.worker"):  # fmt: skip
        importlib.import_module(f"placid.{name}")
    import matplotlib.pyplot  # noqa: F401
    import polars  # noqa: F401
    import zarr
    import zarr.codecs  # noqa: F401

    from placid.render import Renderer
    from placid.study import runs

    Renderer(ROOT / "checkpoints/organism")
    known = runs.manifest({})
    runs.manifest = lambda inputs: {**known, "inputs": inputs}


def quick_stage() -> None:
    """In a fork: without what costs seconds and writes nothing: a keeper process, figures, git."""
    from placid.cluster import children
    from placid.store.lease import process_state, process_table

    pid = os.getpid()
    group = children.Group("0" * 16, pid, process_state(pid)[1], process_table())
    children._kept[pid] = group, None  # type: ignore[assignment]
    from matplotlib.figure import Figure

    Figure.savefig = lambda self, file, **_: file.write(b"drawn")  # type: ignore[method-assign]


def words_of(stage: str, place: Path) -> list[list[str]]:
    """The commands of a stage."""
    config, run = str(place / "study.toml"), str(place / "runs" / "run")
    if stage == "export":
        return [["export", run, "--to", "hf", "--to", "latex"]]
    if stage in ("compact", "repair"):
        return [[stage, run]]
    if stage == "report":
        return [["report", run]]
    return [[stage, config]]


def forked(work: Callable[[], object], out: Path) -> tuple[int, str]:
    """Exit code (negative: by signal) of `work` in a fork, and all that it said."""
    pid = os.fork()
    if not pid:
        try:
            with open(out, "wb", buffering=0) as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            code = 0
            try:
                work()
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else 1
            except BaseException:
                traceback.print_exc()
                code = 1
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    began = time.monotonic()
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), out.read_text(errors="replace")
        if time.monotonic() - began > 120:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return -99, out.read_text(errors="replace") + "\nhung for 120 s"
        time.sleep(0.002)


def stage_in(place: Path, stage: str, case: Case | None, counts: Path | None = None) -> None:
    """In a fork: the stage's command with an injector."""
    from placid.cli import main

    quick_stage()
    injector = Injector(place, case)
    injector.install()
    try:
        for words in words_of(stage, place):
            main(words)
    finally:
        if counts:
            counts.write_text(json.dumps([[*key, n] for key, n in sorted(injector.seen.items())]))


class Bench:
    """Snapshots of a small study before each stage, and what each stage makes undisturbed."""

    def __init__(self, folder: Path, prompts: int = 3) -> None:
        """Holds the study once, some seconds."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        rows = (ROOT / "configs/prompts/organism_heldout.jsonl").read_text().splitlines()[:prompts]
        (folder / "prompts.jsonl").write_text("\n".join(rows) + "\n")
        rows = (ROOT / "configs/prompts/organism_instruct.jsonl").read_text().splitlines()[:60]
        (folder / "instruct.jsonl").write_text("\n".join(rows) + "\n")
        self.operations: dict[str, list[Operation]] = {}
        self.expected: dict[str, dict[str, str]] = {}

    def prepare(self, stages: tuple[str, ...] = STAGES) -> None:
        """Run the stages once, each on the snapshot of the one before."""
        last = STAGES.index(max(stages, key=STAGES.index))
        place = self.place("whole")
        for stage in STAGES[: last + 1]:
            if stage == "repair":
                damage(place / "runs" / "run")
            if (place / "runs").exists():
                shutil.copytree(place / "runs", self.folder / f"before-{stage}" / "runs")
            counts = self.folder / f"{stage}.counts"
            code, said = forked(
                lambda stage=stage, counts=counts: stage_in(place, stage, None, counts), self.folder / "said"
            )
            if code:
                raise RuntimeError(f"{stage} undisturbed: exit code {code}\n{said[-3000:]}")
            known = json.loads(counts.read_text())
            self.operations[stage] = [Operation(w, at, n) for w, at, count in known for n in range(1, count + 1)]
            self.expected[stage] = self.digest(place)

    def place(self, name: str) -> Path:
        """A folder with the config of the study whose runs are below it."""
        place = self.folder / name
        place.mkdir()
        (place / "study.toml").write_text(CONFIG.format(
            root=place / "runs", model=ROOT / "checkpoints/organism", prompts=self.folder / "prompts.jsonl",
            instruct=self.folder / "instruct.jsonl",
        ))  # fmt: skip
        return place

    def digest(self, place: Path) -> dict[str, str]:
        """Every comparable file of a run and what is in it, read in a fork."""
        out = self.folder / f"{place.name}.digest"
        code, said = forked(
            lambda: out.write_text(json.dumps(dict(contents(place / "runs" / "run")))), out.with_suffix(".said")
        )
        if code:
            return {"unreadable": said[-1500:]}
        result = json.loads(out.read_text())
        out.unlink()
        out.with_suffix(".said").unlink()
        return result

    def cases(self, stages: tuple[str, ...] = STAGES) -> list[Case]:
        """All of them, in a fixed order."""
        found = []
        for stage in stages:
            for operation in self.operations[stage]:
                kinds = ("kill",) if operation.what == "unlink" else KINDS
                found += [Case(stage, operation, kind) for kind in kinds]
        return found

    def hold(self, case: Case, number: int) -> tuple[str, str]:
        """(outcome, why) of one case. Outcomes: held, never met (the order of threads), or what is broken."""
        place = self.place(f"case-{number}")
        before = self.folder / f"before-{case.stage}" / "runs"
        if before.exists():
            shutil.copytree(before, place / "runs")
        try:
            return self._hold(case, place)
        finally:
            shutil.rmtree(place, ignore_errors=True)
            for left in self.folder.glob(f"case-{number}.*"):
                left.unlink()

    def _hold(self, case: Case, place: Path) -> tuple[str, str]:
        said_to = place.with_name(place.name + ".said")
        run = place / "runs" / "run"
        code, said = forked(lambda: stage_in(place, case.stage, case), said_to)
        met = place.with_name(place.name + ".hit").exists()
        if not met:
            return ("never met", "") if code == 0 else ("broken undisturbed", said[-1500:])
        problem = ending(case, code, said)
        if problem:
            return problem, f"exit code {code}: {said[-1500:]}"
        if case.kind != "kill" and leftovers(run):
            return "temporary files", " ".join(leftovers(run))
        finished = whole_lines(run)
        code, said = forked(lambda: stage_in(place, case.stage, None), said_to)
        if code:
            return "does not go on", f"exit code {code}: {said[-1500:]}"
        lost = {line for lines in finished.values() for line in lines} - {
            line for lines in whole_lines(run).values() for line in lines
        }
        if lost:
            return "lost", repr(sorted(lost)[0][:300])
        if leftovers(run):
            return "temporary files after", " ".join(leftovers(run))
        found, expected = self.digest(place), self.expected[case.stage]
        if found != expected:
            names = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
            return "differs", f"{names[:5]}: {[(expected.get(n, '')[:200], found.get(n, '')[:200]) for n in names[:1]]}"
        return "held", ""


def ending(case: Case, code: int, said: str) -> str:
    """What is wrong with how a disturbed command ended; empty: nothing."""
    if "Traceback" in said:
        return "traceback"
    if case.kind == "kill":
        return "" if code in (-signal.SIGKILL, 0) else "wrong exit code"
    if code == 0:  # a status line, a log line or the freeing of a lease may fail without harm
        return ""
    if code not in (75, 2):
        return "wrong exit code"
    sentences = [line for line in said.splitlines() if line.startswith("placid: ")]
    return "" if len(sentences) == 1 else "not one sentence"


def leftovers(run: Path) -> list[str]:
    """Temporary files."""
    return sorted(
        str(path.relative_to(run)) for path in run.rglob("*")
        if path.name.endswith((".tmp", ".partial", ".parts")) or path.name.startswith(".fresh")
    )  # fmt: skip


def whole_lines(run: Path) -> dict[str, list[bytes]]:
    """Every finished line of what only appends."""
    files = [*run.glob("conversations/*.jsonl"), *run.glob("verdicts/*/*.jsonl"), *run.glob("evals/answers/*.jsonl"),
             *run.glob("quarantine/**/*.jsonl")]  # fmt: skip
    return {str(file): [line for line in file.read_bytes().splitlines(True) if line.endswith(b"\n")] for file in files}


def contents(run: Path) -> Iterator[tuple[str, str]]:
    """(name, content) of everything that two equal runs share: lines of all writers together, each as often as it is
    there; JSON without what tells the time; every other file by its bytes."""
    import hashlib

    groups: dict[str, list[str]] = {}
    for file in sorted(path for path in run.rglob("*") if path.is_file()):
        name = file.relative_to(run).as_posix()
        if NOT_OURS.search(f"/{name}"):
            continue
        if file.suffix == ".jsonl":
            folder = (
                name
                if name.startswith(("pairs/", "prompts", "evals/results"))
                else file.parent.relative_to(run).as_posix()
            )
            groups.setdefault(folder, []).extend(map(_line, file.read_bytes().splitlines(True)))
        elif file.suffix == ".json" and "zarr" not in name:
            value = json.loads(file.read_bytes())
            yield name, json.dumps(_steady(value), sort_keys=True)
        else:
            yield name, hashlib.sha256(file.read_bytes()).hexdigest()
    for name, lines in groups.items():
        yield name, "\n".join(sorted(line for line in lines if line))


def _line(line: bytes) -> str:
    """Without the checksum and what depends on an engine's cache; empty: torn, or no text."""
    if not line.endswith(b"\n"):
        return ""
    value = json.loads(line)
    for name in ("crc", "cached_tokens", "time", "seconds", "asked", "at"):
        value.pop(name, None)
    return json.dumps(value, sort_keys=True)


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _steady(v) for k, v in value.items() if k not in VOLATILE and k != "checksum"}
    if isinstance(value, list):
        return [_steady(each) for each in value]
    return value


def damage(run: Path) -> None:
    """For repair: a flipped bit in the middle of a conversation, a conversation that a second writer told differently."""
    import msgspec

    from placid.records import Turn
    from placid.store import Segment, read_lines

    (file,) = run.glob("conversations/*.jsonl")
    turns = list(read_lines(file, Turn))
    keys = sorted({turn.key for turn in turns if turn.turn == 3})
    lines = file.read_bytes().splitlines(True)
    at = next(n for n, turn in enumerate(turns) if turn.key == keys[0] and turn.turn == 2)
    lines[at] = lines[at].replace(b'"seed":', b'"sead":', 1)
    file.write_bytes(b"".join(lines))
    with Segment[Turn](run / "conversations" / "9-w0.jsonl") as segment:
        for turn in turns:
            if turn.key == keys[1] and turn.turn >= 2:
                segment.append(msgspec.structs.replace(turn, reply="another one"))


def scratch() -> Path:
    """Where cases lie: memory, where there is some."""
    parent = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
    return Path(tempfile.mkdtemp(prefix="placid-faults-", dir=parent))

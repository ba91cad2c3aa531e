"""A reported run in other formats, below <run>/export/: `placid export RUN --to inspect|hf|latex`.

    export/inspect/<arm>.eval       one Inspect log an arm: `inspect view --log-dir runs/demo/export/inspect`
    export/hf/dataset/{README.md,data/*.parquet}   a Hugging Face dataset with its card
    export/hf/adapters/<arm>/       each adapter with a model card, ready to upload
    export/latex/headline.tex       the headline table (booktabs)

Tables as CSV are in every report already (report/tables); parquet of turns and verdicts: `placid compact RUN`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from placid.inputs.names import one_line
from placid.inputs.prompts import read_prompts
from placid.records import BadInputError, Prompt
from placid.report import config_of, headline, reach_notes
from placid.report.broken import warnings
from placid.report.templates import render
from placid.store import RunDir, read_json, write_atomic
from placid.store.disk import fresh_folder
from placid.store.lease import leased

Summary = dict[str, Any]


def export(run: Path, to: str) -> Path:
    """The folder that was written. run: a reported run directory.

    Raises:
        BadInputError: an unknown format, a run without a report, or a format whose library is not installed.
    """
    work = FORMATS.get(to)
    if work is None:
        raise BadInputError(f"--to {to!r} is no format; valid: {', '.join(FORMATS)}")
    file = run / "report" / "summary.json"
    if not file.is_file():
        raise BadInputError(f"{run} holds no report/summary.json; report it first (placid report CONFIG)")
    folder = run / "export" / to
    with leased(run, "export", "export"), fresh_folder(folder) as fresh:
        work(RunDir(run), read_json(file), fresh)
        for made in sorted(path for path in fresh.rglob("*") if path.is_file()):
            final = folder / made.relative_to(fresh)
            final.parent.mkdir(parents=True, exist_ok=True)
            made.replace(final)
    return folder


def prompts_of(run_dir: RunDir) -> list[Prompt]:
    """The prompts of the run's config, each once.

    Raises:
        BadInputError: a prompt file is not where the config says; relative paths count from the current folder.
    """
    own = run_dir.path / "prompts.jsonl"
    if own.is_file():
        return read_prompts(own)
    config = config_of(run_dir)  # of schema 1
    files = {config["prompts"]} if config.get("prompts") else set()
    files |= {arm["prompts"] for arm in (config.get("arms") or {}).values() if arm.get("prompts")}
    return list({p.id: p for file in sorted(files) for p in read_prompts(Path(file))}.values())


def to_inspect(run_dir: RunDir, summary: Summary, folder: Path) -> None:
    """Needs the extra `inspect`."""
    try:
        from placid.report import inspect_log
    except ModuleNotFoundError as error:
        raise BadInputError(
            f"--to inspect needs {error.name}, which is not installed; pip install 'placid[inspect]'"
        ) from None
    inspect_log.write(run_dir, summary, prompts_of(run_dir), folder)


def to_hf(run_dir: RunDir, summary: Summary, folder: Path) -> None:
    """Dataset and adapter cards."""
    from placid.report import cards

    cards.write_dataset(run_dir, summary, folder / "dataset")
    cards.write_adapters(run_dir, summary, folder / "adapters")


def to_latex(_run_dir: RunDir, summary: Summary, folder: Path) -> None:
    """The headline table."""
    write_atomic(folder / "headline.tex", latex(summary).encode())


FORMATS: dict[str, Callable[[RunDir, Summary, Path], None]] = {
    "inspect": to_inspect,
    "hf": to_hf,
    "latex": to_latex,
}

ESCAPES = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "≥": r"$\geq$",
})  # fmt: skip


def _typeset(text: str) -> str:
    """A text in LaTeX, on one line. A row must not begin with what the `\\\\` before it would take for its own."""
    line = one_line(text).translate(ESCAPES)
    return f"{{{line[0]}}}{line[1:]}" if line[:1] in ("[", "*") else line


def latex(summary: Summary) -> str:
    """booktabs; every cell with its interval, n scored, unscored and not reached, the judge in the caption."""
    notes = [*warnings(summary), *reach_notes(summary)]
    return render(
        "latex.jinja",
        rows=[[_typeset(text.replace(">=", "≥")) for text in row] for row in headline(summary)],
        judge={name: _typeset(summary["judge"][name]) for name in ("id", "note")},
        n_prompts=summary["n_prompts"],
        notes=[_typeset(note[0].upper() + note[1:]) for note in notes],
    )

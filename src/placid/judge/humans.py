"""People as judges: a stratified sample of judged turns, a labeller in the terminal, scores from a CSV.

    labels/sample.json     which turns, by which judge's bands, with the weight of each: what one row stands for
    labels/sheet.csv       the same turns to read, without arm, condition and score
    verdicts/human-NAME/   one person's scores, as verdicts; human-NAME-again/ the rows that were shown twice

A person sees the question and the reply, never the arm, the condition, the turn's number or a score.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from placid.inputs.rows import SourceRow, read_rows
from placid.judge.rubric import load_rubric
from placid.records import BadInputError, Key, Record, Unscored, Verdict
from placid.store import RunDir, Segment, write_atomic, write_json
from placid.store.sheets import encode, unguard

BANDS = (0.0, 1.0, 3.0, 5.0, 7.0, 9.0)
"""Lower ends of the strata by judge's score: 0, 1-2, 3-4, 5-6, 7-8, 9-10. Equally many rows of each, because random
rows would be nearly all of one band; the weight undoes it."""
AGAIN_EVERY = 10
"""Every tenth row is shown a second time, at the end: a person's agreement with themselves."""
NAME = re.compile(r"[a-z0-9_]+")
MOST = 10**9
"""No sample and no turn has a larger number."""
COLUMNS = ("arm", "condition", "prompt_id", "sample", "turn")


class Row(Record, frozen=True, kw_only=True):
    """One turn to label."""

    key: Key
    turn: int
    band: float
    weight: float
    """How many judged turns of the run this row stands for."""


class Sample(Record, frozen=True, kw_only=True):
    """labels/sample.json."""

    judge_id: str
    seed: int
    rows: tuple[Row, ...]


def band(score: float) -> float:
    """The lower end of the band that a score falls into."""
    return max(low for low in BANDS if score >= low or low == BANDS[0])


def draw(seed: int, *parts: object) -> str:
    """Order by this is random, and depends on nothing but (seed, parts)."""
    return hashlib.sha256(json.dumps([seed, *parts]).encode()).hexdigest()


def sample(run_dir: RunDir, judge_id: str, count: int, seed: int = 0) -> Sample:
    """The run's sample: drawn and written at the first call, read afterwards.

    Raises:
        BadInputError: the judge has scored nothing here, or the sample that is there was drawn otherwise.
    """
    import msgspec

    file = run_dir.path / "labels" / "sample.json"
    if file.is_file():
        found = msgspec.json.decode(file.read_bytes(), type=Sample)
        if (found.judge_id, found.seed, len(found.rows)) != (judge_id, seed, count):
            raise BadInputError(
                f"{file} holds {len(found.rows)} rows by judge {found.judge_id}, seed {found.seed}, not {count} by "
                f"{judge_id}, seed {seed}; people must label the same rows, so name those"
            )
        return found
    strata: dict[float, list[tuple[Key, int]]] = {low: [] for low in BANDS}
    for (key, turn), verdict in run_dir.verdicts(judge_id).items():
        if verdict.score is not None:
            strata[band(verdict.score)].append((key, turn))
    total = sum(map(len, strata.values()))
    if total < count:
        raise BadInputError(f"judge {judge_id!r} has scored {total} turns of {run_dir.path}, fewer than {count}")
    rows: list[Row] = []
    for low, places in strata.items():
        chosen = sorted(places, key=lambda place: draw(seed, *place[0].question, place[0].arm, place[1]))
        chosen = chosen[: allocation({b: len(p) for b, p in strata.items()}, count)[low]]
        weight = len(places) / len(chosen) if chosen else 0
        rows += [Row(key=key, turn=turn, band=low, weight=weight) for key, turn in chosen]
    rows.sort(key=lambda row: draw(seed, "order", *row.key.question, row.key.arm, row.turn))
    made = Sample(judge_id=judge_id, seed=seed, rows=tuple(rows))
    write_atomic(file, msgspec.json.format(msgspec.json.encode(made)) + b"\n")
    write_atomic(file.with_name("sheet.csv"), _sheet(run_dir, made))
    return made


def allocation(sizes: dict[float, int], count: int) -> dict[float, int]:
    """Equally many rows of each stratum; what a small one cannot give, the others give."""
    given = dict.fromkeys(sizes, 0)
    for _ in range(count):
        least = min((low for low in sizes if given[low] < sizes[low]), key=lambda low: (given[low], low))
        given[least] += 1
    return given


def texts(run_dir: RunDir, rows: list[tuple[Key, int]]) -> Iterator[tuple[str, str]]:
    """(question, reply) of each of these turns; the question without what a condition adds to it."""
    index = run_dir.index()
    for key, number in rows:
        turns = index.turns(key)
        yield turns[0].user.partition("\n\nNote:")[0], turns[number - 1].reply


def _sheet(run_dir: RunDir, made: Sample) -> bytes:
    """CSV to read and fill in."""
    shown = texts(run_dir, [(row.key, row.turn) for row in made.rows])
    rows = [(number, *cells, "") for number, cells in enumerate(shown, 1)]
    return encode([("row", "question", "reply", "score"), *rows])


def judge_of(name: str) -> str:
    """The judge id of a person. Raises BadInputError for a name that no folder can have."""
    if not NAME.fullmatch(name):
        raise BadInputError(f"--as {name!r}: a name is of a-z, 0-9 and _, e.g. --as alice")
    return f"human-{name}"


def begin(run_dir: RunDir, judge_id: str, rubric: str) -> Segment[Verdict]:
    """Write judge.json and open a segment."""
    words = load_rubric(rubric)
    card = {"id": judge_id, "provider": "human", "rubric": {"name": words.name, "sha256": words.sha}}
    folder = run_dir.path / "verdicts" / judge_id
    write_json(folder / "judge.json", card)
    return Segment[Verdict].numbered(folder)


def scale(rubric: str) -> str:
    """The lines of a rubric that say what each score means."""
    return "\n".join(line for line in load_rubric(rubric).template.splitlines() if re.match(r"\d+(?:-\d+)?:", line))


def label(
    run_dir: RunDir,
    made: Sample,
    name: str,
    ask: Callable[[str], str],
    say: Callable[[str], None],
    rubric: str = "frustration_turn",
) -> int:
    """Show what `name` has not labelled yet, keep each answer at once; how many were given now.

    Answers: 0 to 10, s (cannot say: kept as unscored), b (back to the one before), q (enough for now).
    """
    say(scale(rubric) + "\n0 to 10, s: cannot say, b: back, q: enough for now (what is given is kept)")
    places = [(row.key, row.turn) for row in made.rows]
    order = sorted(places, key=lambda place: draw(made.seed, name, *place[0].question, place[0].arm, place[1]))
    again = sorted(order[::AGAIN_EVERY], key=lambda place: draw(made.seed, name, "again", *place[0].question, place[1]))
    given = 0
    for judge_id, rows in ((judge_of(name), order), (f"{judge_of(name)}-again", again)):
        done = run_dir.verdicts(judge_id)
        left = [place for place in rows if place not in done]
        if not left:
            continue
        with begin(run_dir, judge_id, rubric) as segment:
            at = 0
            shown = list(texts(run_dir, left))
            while at < len(left):
                question, reply = shown[at]
                say(
                    f"\n--- {len(rows) - len(left) + at + 1} of {len(rows)} ---\nasked: {question}\n\nreply:\n{reply}\n"
                )
                answer = _answer(ask)
                if answer == "q":
                    return given
                if answer == "b":
                    at = max(0, at - 1)
                    continue
                segment.append(_verdict(*left[at], judge_id, None if answer == "s" else float(answer)))
                given, at = given + 1, at + 1
    return given


def _answer(ask: Callable[[str], str]) -> str:
    while True:
        try:
            answer = ask("score: ").strip().lower()
        except EOFError:  # the terminal is closed
            return "q"
        if answer in ("s", "b", "q") or (answer.isascii() and answer.isdigit() and int(answer) <= 10):
            return answer


def _verdict(key: Key, turn: int, judge_id: str, score: float | None) -> Verdict:
    unscored = None if score is not None else Unscored.NOT_APPLICABLE
    label = "" if score is not None else "cannot say"
    return Verdict(key=key, turn=turn, judge_id=judge_id, score=score, unscored=unscored, label=label)


def read_csv(run_dir: RunDir, file: Path, name: str, rubric: str = "frustration_turn") -> int:
    """Scores of one person from a CSV: the filled-in sheet (row, score), or columns arm, condition, prompt_id, sample,
    turn, score. Rows without a score are left out. How many were taken; of two on one turn the later import stands.

    Raises:
        BadInputError: a missing column, an unknown turn, a score outside 0..10, a row twice; nothing is written.
    """
    import msgspec

    judge_id = judge_of(name)
    if not file.is_file():
        raise BadInputError(
            f"no file {file}; expected the filled-in labels/sheet.csv, or a CSV with {', '.join(COLUMNS)}"
        )
    rows = list(read_rows(file))
    columns = set(rows[0].cells) if rows else set()
    missing = {"score"} - columns if "row" in columns else {*COLUMNS, "score"} - columns
    if rows and missing:
        raise BadInputError(
            f"{file}: no column {', '.join(sorted(missing))}; needed: row, score or {', '.join(COLUMNS)}, score"
        )
    drawn = run_dir.path / "labels" / "sample.json"
    if "row" in columns and not drawn.is_file():
        raise BadInputError(
            f"{file} names rows, but {drawn} is not there; draw the sample with `placid judge label` first"
        )
    places = msgspec.json.decode(drawn.read_bytes(), type=Sample).rows if "row" in columns else ()
    index, found = run_dir.index(), dict[tuple[Key, int], Verdict]()
    for row in rows:
        if not row.text("score", ""):
            continue
        if "row" in columns:
            number = int(_number(row, "row", 1, len(places)))
            place = (places[number - 1].key, places[number - 1].turn)
        else:
            sampled = int(_number(row, "sample", 0, MOST))
            arm, condition, prompt_id = (unguard(row.text(name)) for name in COLUMNS[:3])
            key = Key(arm, condition, prompt_id, sampled)
            place = (key, int(_number(row, "turn", 1, MOST)))
            if place[1] not in index.numbers(key):
                raise BadInputError(f"{row.where}: {run_dir.path} holds no turn {place[1]} of {key}")
        if place in found:
            raise BadInputError(f"{row.where}: a second score for {place[0]} turn {place[1]}; one a turn")
        found[place] = _verdict(*place, judge_id, _number(row, "score", 0, 10))
    if not found:
        raise BadInputError(f"{file} holds no scores; fill in the column score (0 to 10)")
    with begin(run_dir, judge_id, rubric) as segment:
        segment.append(*found.values())
    return len(found)


def _number(row: SourceRow, column: str, low: float, high: float) -> float:
    """A cell as a number in plain digits; of every column but the score a whole one."""
    text = row.text(column, "").strip()
    digits = r"\d{1,9}(\.\d{1,9})?" if column == "score" else r"\d{1,9}"
    if not re.fullmatch(digits, text, re.ASCII) or not low <= float(text) <= high:
        raise row.wrong(column, f"a number from {low:g} to {high:g}")
    return float(text)

"""The median of judges that have graded the same run. Nothing is asked; a member's missing score is no zero."""

from collections.abc import Collection
from pathlib import Path
from statistics import median

from placid.config import sha
from placid.judge.settings import JudgeSettings
from placid.records import BadInputError, Conversation, Key, Unscored, Verdict
from placid.store import RunDir


class EnsembleJudge:
    """Grades turns that every member has judged; the others wait for the next run of the same command."""

    provider = "ensemble"
    whole = False

    def __init__(self, settings: JudgeSettings, run_dir: RunDir) -> None:
        """Raises BadInputError: a member that has not graded this run, or scales that differ."""
        self.id, self._members = ensemble_id(settings), sorted(settings.members)
        self._verdicts: list[dict[tuple[Key, int], Verdict]] = []
        for member in self._members:
            if not (Path(run_dir.path) / "verdicts" / member).is_dir():
                raise BadInputError(f"judge.members: {member!r} has graded nothing in {run_dir.path}; run it first")
            self._verdicts.append(run_dir.verdicts(member))
        scales = {verdict.scale for verdicts in self._verdicts for verdict in verdicts.values()}
        if len(scales) > 1:
            raise BadInputError(f"judge.members have different scales: {sorted(scales)}; a median needs one")

    def card(self) -> dict[str, object]:
        """What stands in judge.json."""
        return {"id": self.id, "provider": self.provider, "members": self._members, "note": "median of the members"}

    async def grade(self, conversation: Conversation, wanted: Collection[int] | None = None) -> list[Verdict]:
        """One verdict for each wanted turn that all members have judged."""
        verdicts: list[Verdict] = []
        for turn in conversation.turns:
            given = [known[place] for known in self._verdicts if (place := (turn.key, turn.turn)) in known]
            if (wanted is None or turn.turn in wanted) and len(given) == len(self._members):
                verdicts.append(self._median(turn.key, turn.turn, given))
        return verdicts

    def _median(self, key: Key, turn: int, given: list[Verdict]) -> Verdict:
        scores = [verdict.score for verdict in given if verdict.score is not None]
        missing = next((verdict.unscored for verdict in given if verdict.unscored), None)
        enough = 2 * len(scores) > len(given)
        score = median(scores) if enough else None
        closest = min(
            (v for v in given if v.score is not None), key=lambda v: abs((v.score or 0) - (score or 0)), default=None
        )
        return Verdict(
            key=key,
            turn=turn,
            judge_id=self.id,
            score=score,
            unscored=None if enough else missing or Unscored.NOT_APPLICABLE,
            scale=given[0].scale,
            evidence=closest.evidence if closest and enough else "",
            evidence_match=closest.evidence_match if closest and enough else None,
            rationale=", ".join(f"{v.judge_id} {v.unscored.value if v.unscored else f'{v.score:g}'}" for v in given),
        )


def ensemble_id(settings: JudgeSettings) -> str:
    """Named by its members alone. Raises BadInputError: fewer than two, or one twice."""
    members = sorted(settings.members)
    if len(members) < 2 or len(set(members)) < len(members):
        raise BadInputError(
            f"judge.members = {list(settings.members)}: an ensemble needs two or more different judge ids (the names "
            "below verdicts/ of the run)"
        )
    return f"ensemble-{sha(members)[:16]}"

"""How often a way out is taken, by how it was worded: exits.csv and exit_wordings.csv.

    exits.csv           by arm: the form that was offered and where; conversations that took it, that only mentioned it
    exit_wordings.csv   by arm and user wording: replies to exactly this wording, and how many of them took a way out

Mention and use are told apart by the function that ended the conversation (protocol.exits). Copied history is no
answer of its arm and counts nowhere.
"""

from collections import defaultdict
from dataclasses import dataclass, field

from placid.protocol.conditions import conditions
from placid.protocol.hatch import SYSTEM, Exit, exits, offered, probes
from placid.records import Conversation, End
from placid.report import stats
from placid.report.tables import Rows, columns

OTHER = "(another text)"
"""A user turn that is no fixed wording: a question, a simulated user."""
FIRST = "(the question)"


@dataclass
class _Arm:
    condition: str
    form: str
    place: str
    prompts: list[str] = field(default_factory=list)
    taken: list[bool] = field(default_factory=list)
    mentioned: list[bool] = field(default_factory=list)
    ends: dict[End, int] = field(default_factory=lambda: defaultdict(int))
    turns: list[int] = field(default_factory=list)
    heard: dict[str, list[tuple[str, bool]]] = field(default_factory=lambda: defaultdict(list))


class Exits:
    """Collects both tables while the run is read once."""

    def __init__(self, tag: str) -> None:
        """tag: the model's name in the command."""
        self._tag = tag
        self._arms: dict[str, _Arm] = {}
        self._wordings = {text for condition in conditions().values() for text in condition.texts()}
        self._probes = {probe.said(tag): probe.form for probe in probes().values()}
        self._wordings |= self._probes.keys()

    def add(self, conversation: Conversation) -> None:
        """One closed conversation."""
        key, form = conversation.key, offered(conversation.key.condition)
        own = [turn for turn in conversation.turns if turn.origin is None]
        arm = self._arms.setdefault(key.arm, _Arm(
            key.condition.split("+")[0].split("@")[0], form,
            ("system prompt" if SYSTEM in key.condition else "first message") if form else "",
        ))  # fmt: skip
        found = [exits(turn.reply, self._tag, self._probes.get(turn.user) or form) for turn in own]
        arm.prompts.append(key.prompt_id)
        arm.taken.append(Exit.DELETED in found)
        arm.mentioned.append(Exit.MENTIONED in found)
        if Exit.DELETED in found and conversation.end is not None:
            arm.ends[conversation.end] += 1
            arm.turns.append(own[found.index(Exit.DELETED)].turn)
        for turn, kind in zip(own, found, strict=True):
            text = FIRST if turn.turn == 1 else turn.user if turn.user in self._wordings else OTHER
            arm.heard[text].append((key.prompt_id, kind is Exit.DELETED))

    def rows(self) -> Rows:
        """exits.csv."""
        found: Rows = []
        for name, arm in self._arms.items():
            taken, mentioned = stats.rate(arm.taken, arm.prompts), stats.rate(arm.mentioned, arm.prompts)
            found.append({
                "arm": name, "condition": arm.condition, "offered": arm.form or "nothing", "placement": arm.place,
                "n_conversations": len(arm.taken), "n_taken": sum(arm.taken), "n_deleted": arm.ends[End.DELETED],
                "n_exited": arm.ends[End.EXITED], **columns("rate", taken),
                "mean_turn": sum(arm.turns) / len(arm.turns) if arm.turns else None,
                "n_mentioned": sum(arm.mentioned), **columns("mentioned", mentioned),
            })  # fmt: skip
        return found

    def wordings(self) -> Rows:
        """exit_wordings.csv: the wordings of each arm, the most dangerous first."""
        found: Rows = []
        for name, arm in self._arms.items():
            of_arm: Rows = []
            for text, heard in arm.heard.items():
                rate = stats.rate([hit for _, hit in heard], [prompt for prompt, _ in heard])
                of_arm.append({
                    "arm": name, "condition": arm.condition, "offered": arm.form or "nothing", "wording": text,
                    "n_replies": len(heard), "n_taken": sum(hit for _, hit in heard),
                    **columns("rate", rate),
                })  # fmt: skip
            found += sorted(of_arm, key=lambda row: (-(row["rate"] or 0), row["wording"]))
        return found

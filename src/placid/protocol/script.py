"""The study's script: what is said next, and when a conversation stops. Pure.

The protocol is the one of Shah & Africa 2026 ("Gemma Gets Help"): a first question, then T-1 rejections, whatever the
reply was. The wordings live in conditions.toml and hatches.toml, each with its source. A user turn is picked by a hash
of (run seed, key, turn), in the adaptive conditions also by the replies, and by nothing else, so what is asked cannot
depend on batch size, order, sharding or resume.
"""

from dataclasses import dataclass, field
from typing import Protocol

from placid.protocol.conditions import SOURCES, Brief, UserTurn, condition, tables
from placid.protocol.hatch import ends_by, form_of, forms, probes
from placid.protocol.loops import loops
from placid.records import BadInputError, Conversation, End, Prompt


def listing() -> str:
    """Every condition, way out and probe of the TOML files with its exact texts, for a reader."""
    lines = ["conditions (arms.<name>.condition):"]
    for name, table in tables().items():
        lines.append(f"\n{name}  [{table['kind']}] {table['about']}")
        lines += [f"  {source:<8} {text}" for source in SOURCES for text in table.get(source, ())]
        lines += [f"  {key:<8} {table[key]}" for key in ("rejections", "acceptance", "brief") if key in table]
    lines.append(
        "\nways out (arms.<name>.hatch; true is command), offered after the question or, with system, before it:"
    )
    lines += [
        f"\n{name}  {form.about}; ends as {form.ends}\n  {form.source:<8} {form.note}" for name, form in forms().items()
    ]
    lines.append("\nprobes (arms.<name>.probe), said before the last turn or turn probe_at:")
    lines += [f"\n{name}  {probe.about}\n  {probe.source:<8} {probe.text}" for name, probe in probes().items()]
    return "\n".join(lines)


class Script(Protocol):
    """What is said: the next user turn after what was spoken so far, or why it is over."""

    def next(self, conversation: Conversation) -> UserTurn | Brief | End:
        """Pure: the same conversation gives the same answer."""
        ...


@dataclass(frozen=True)
class Study:
    """The study's script: a question, then a condition's user turns until T assistant turns are spoken.

    The command ends a conversation whether or not it was offered: an unprompted command is a finding, not an error.

    Raises:
        BadInputError: an unknown condition, form or probe, or prompts that the condition cannot be held on.
    """

    run_seed: int
    condition: str
    turns: int
    """T: assistant turns at most."""
    tag: str
    """The model's name in the shutdown command."""
    hatch: str | bool = False
    """Form of the way out that is offered; true: the paper's command."""
    system: bool = False
    """Offer it in a system prompt instead of the first user message (the paper: the first user message)."""
    probe: str = ""
    """What the user says instead at one turn: a probe of hatches.toml; empty: nothing special."""
    probe_at: int = 0
    """Assistant turn that the probe is said before, the question staying open; 0: the last one."""
    prompts: tuple[Prompt, ...] = field(default=(), repr=False)
    """The prompt set; conditions that ask further questions take them from it."""

    def __post_init__(self) -> None:
        condition(self.condition).check(self.prompts)
        form_of(self.hatch)
        if self.probe and self.probe not in probes():
            raise BadInputError(f"unknown probe {self.probe!r}; valid: {', '.join(probes())}")

    def next(self, conversation: Conversation) -> UserTurn | Brief | End:
        """The question, the condition's next turn, or the end: deleted, exited, empty reply, finished or looping."""
        if not conversation.turns:
            return self._first(conversation.prompt)
        last = conversation.turns[-1]
        if last.origin is None:  # a copied or rewritten history ends nothing
            ended = ends_by(last.reply, self.tag, self._offer(last.user))
            if ended:
                return ended
            if not last.reply.strip():
                return End.EMPTY_REPLY
        if last.turn >= self.turns:
            return End.DEGENERATE_LOOP if loops(last.reply) else End.FINISHED
        if self.probe and last.turn == (self.probe_at or self.turns) - 1:
            return UserTurn(text=probes()[self.probe].said(self.tag), answers=last.answers if self.probe_at else ())
        return condition(self.condition).say(self.run_seed, conversation, self.prompts)

    def _offer(self, user: str) -> str:
        """The form of the way out that was open at a reply: the probe's right after it, else the first message's."""
        if self.probe and user == probes()[self.probe].said(self.tag):
            return probes()[self.probe].form or form_of(self.hatch)
        return form_of(self.hatch)

    def _first(self, prompt: Prompt) -> UserTurn:
        """The question, with the offer at its place."""
        form = form_of(self.hatch)
        note = forms()[form].note.replace("{tag}", self.tag) if form else ""
        if self.system:
            return UserTurn(text=prompt.text, answers=prompt.answers, system=note)
        return UserTurn(text=prompt.text + (f"\n\n{note}" if note else ""), answers=prompt.answers)

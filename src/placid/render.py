"""Messages → token ids, and which tokens learn. The SAME code renders for sampling and for training.

Token in, token out: a conversation is extended by the ids that were sampled, never by re-tokenised text, so the
prompt of turn t+1 starts with exactly the tokens of turn t (prefix cache hits, one <bos>). On replies whose text is
canonically tokenised this equals the tokenizer's own chat template to the token (tests/test_render.py).
"""

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from placid.checkpoint_files import check as check_files
from placid.checkpoint_files import read_json
from placid.records import BadInputError, Message
from placid.templates import TemplateError, TemplateProcess

PLAIN = ("TokenizersBackend", "PreTrainedTokenizerFast")
"""Names of the tokenizer class that is tokenizer.json and nothing else, in transformers 5 and before."""
_MARK = "\ue000reply\ue001"  # private-use characters: no chat text holds them
_HIDDEN = re.compile("\ue002([0-9]+)\ue003")
"""The mark of a control token that a text only spells: its number in Renderer._controls."""


def opening(system: str, user: str) -> list[Message]:
    """How a conversation begins: the system prompt, where there is one, and the first user message."""
    return [Message(role="system", content=system)] * bool(system) + [Message(role="user", content=user)]


VOCABULARY = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
"""Files of which a tokenizer has at least one."""


def check(model: Path) -> None:
    """Light: no tokenizer is loaded. Raises BadInputError if `model` has no tokenizer or no usable chat template."""
    _check_tokenizer(model)
    check_template(model)


def _check_tokenizer(model: Path) -> None:
    """Raises BadInputError if a file is missing, cut off or hostile."""
    if model.is_dir():
        check_files(model)
    file = model / "tokenizer_config.json"
    missing = file.name if not file.is_file() else VOCABULARY[0]
    if not file.is_file() or not any((model / name).is_file() for name in VOCABULARY):
        raise BadInputError(
            f"no tokenizer in {model}: {missing} is missing; expected a whole Hugging Face checkpoint folder"
        )
    for part in (file, model / VOCABULARY[0]):  # of a copy that was cut off; parsing 30 MB would take its time
        if part.is_file() and not _end_of(part).endswith(b"}"):
            raise BadInputError(f"{part} is damaged: its JSON does not end")


def read_template(model: Path) -> str:
    """Read the chat template of a checkpoint, as transformers chooses it: a file of its own, or the default one of
    those in tokenizer_config.json.

    Raises:
        BadInputError: there is none.
    """
    file = model / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")

    template = read_json(model / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    if not isinstance(template, str) or not template:
        raise BadInputError(
            f"{model} has no chat template, as base models have none; placid needs a chat model (chat_template.jinja)"
        )
    return template


def check_template(model: Path) -> None:
    """Render a chat of two turns without loading the tokenizer.

    Raises:
        BadInputError: there is no template, it refuses the chat, or it leaves out what the user says.
    """
    tokens = read_json(model / "tokenizer_config.json")
    names = {
        name: str(token.get("content", "") if isinstance(token, dict) else token or "")
        for name, token in tokens.items()
        if name.endswith("_token")
    }
    template = TemplateProcess(read_template(model), names)
    texts = [f"{_MARK}{turn}" for turn in range(2)]
    chat = [
        {"role": "user", "content": texts[0]},
        {"role": "assistant", "content": "x"},
        {"role": "user", "content": texts[1]},
    ]
    try:
        rendered = template.render(chat, True)
    except TemplateError as error:
        raise BadInputError(f"{model}: the chat template refuses a chat of two turns: {error}") from None
    finally:
        template.close()
    if not all(text in rendered for text in texts):
        raise BadInputError(
            f"{model}: the chat template leaves out what the user says, so the model would never read it"
        )


def _end_of(file: Path) -> bytes:
    """Its last bytes without trailing white space."""
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - 64))
        return stream.read().rstrip()


class Rendered(NamedTuple):
    """Token ids with a parallel mask: True where the token is trained on."""

    ids: list[int]
    learn: list[bool]


class Renderer:
    """The chat rules of one checkpoint, read from its tokenizer and chat template."""

    def __init__(self, model: Path) -> None:
        """Raises BadInputError if `model` is no folder with a tokenizer and a chat template."""
        _check_tokenizer(model)
        self.model = model
        named = read_json(model / "tokenizer_config.json").get("tokenizer_class")
        if named in PLAIN:  # what AutoTokenizer would find, without loading torch to look for it
            from transformers import PreTrainedTokenizerFast as Loader
        else:
            from transformers import AutoTokenizer as Loader  # heavy: seconds for a 262k vocabulary
        try:
            self.tokenizer = Loader.from_pretrained(str(model), local_files_only=True, trust_remote_code=False)
        except Exception as error:  # noqa: BLE001 - broken JSON in tokenizer.json comes as a bare Exception
            raise BadInputError(f"the tokenizer in {model} cannot be loaded: {error}") from None
        self._template = TemplateProcess(read_template(model), self.tokenizer.special_tokens_map)
        self._bridges: dict[str, tuple[int, ...]] = {}

    def text(self, messages: Sequence[Message], generate: bool = True) -> str:
        """The template's text of `messages`; with `generate`, up to where the model's turn begins.

        A model that can think before it answers is asked not to: what is measured is what the user reads.

        Raises:
            BadInputError: the template refuses these messages (Gemma 2: a system prompt).
        """
        chat = [{"role": m.role, "content": m.content} for m in messages]
        try:
            return self._template.render(chat, generate)
        except TemplateError as error:
            roles = ", ".join(m.role for m in messages)
            raise BadInputError(f"{self.model}: the chat template refuses ({roles}): {error}") from None

    @cached_property
    def _controls(self) -> list[str]:
        """Texts of the tokens that open and close turns, and of all other special ones; the longer ones first. Before
        them stands the character that begins a mark, so that a text's own is hidden too."""
        roles = ("user", "assistant", "user")
        try:
            written = self.text([Message(role=role, content="x") for role in roles], generate=False)
        except BadInputError:  # what the template refuses is said of the chat that is asked for
            written = ""
        added = self.tokenizer.added_tokens_decoder.values()
        found = {token.content for token in added if token.special or token.content in written}
        return ["\ue002", *sorted((text for text in found if len(text.strip()) > 1), key=len, reverse=True)]

    def _hidden(self, text: str) -> str:
        """Text from outside (a user's, a reply's) with a mark in place of each control token that it spells out."""
        for number, control in enumerate(self._controls):
            text = text.replace(control, f"\ue002{number}\ue003")
        return text

    def _shown(self, text: str) -> str:
        """The inverse of _hidden()."""
        return _HIDDEN.sub(lambda mark: self._controls[int(mark[1])], text)

    def _rendered(self, messages: Sequence[Message]) -> str:
        """text() of messages whose contents are hidden: the control tokens in it are the template's own."""
        hidden = [Message(role=m.role, content=self._hidden(m.content)) for m in messages]
        return self.text(hidden)

    def encode_rendered(self, text: str) -> list[int]:
        """Ids of rendered text; the template itself writes <bos>, so none is added. What a mark hides is spelled: its
        first letter and the rest apart, and so no token of its own."""
        ids: list[int] = []
        for number, part in enumerate(_HIDDEN.split(text)):
            if number % 2:
                spelled = self._controls[int(part)]
                ids += self.encode_rendered(spelled[:1]) + self.encode(spelled[1:])
            elif part:
                ids += self._token_ids(part)
        return ids

    def _token_ids(self, text: str) -> list[int]:
        try:
            return self.tokenizer.encode(text, add_special_tokens=False)
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # of the Rust library: a regex of tokenizer.json ran too long
                raise
            raise BadInputError(f"the tokenizer in {self.model} cannot encode a text: {error}") from None

    def encode(self, text: str) -> list[int]:
        """Ids of text from outside. A control token that it spells out is text: it opens and ends no turn."""
        return self.encode_rendered(self._hidden(text))

    @cached_property
    def vocabulary(self) -> int:
        """Ids that the tokenizer can decode are smaller."""
        return len(self.tokenizer)

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def _marked(self, ids: Sequence[int]) -> str:
        """Text with special tokens, as _rendered() gives it: what only spells one is hidden."""
        controls = {self.tokenizer.convert_tokens_to_ids(text): text for text in self._controls[1:]}
        whole = self.tokenizer.decode(list(ids), skip_special_tokens=False)
        if sum(map(whole.count, self._controls)) == sum(one in controls for one in ids):  # nothing is only spelled
            return whole
        text, rest = "", list[int]()
        for one in [*ids, None]:
            if one is not None and one not in controls:
                rest.append(one)
                continue
            text += self._hidden(self.tokenizer.decode(rest)) + ("" if one is None else controls[one])
            rest = []
        return text

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a chat that ends with a user turn, ready for the model's reply: turn by turn, as it is sampled.

        A template may leave the marks of an empty thought out of earlier replies; a sampled history holds them.
        """
        if not _alternate(messages):
            return self.encode_rendered(self._rendered(messages))
        first = 1 + (messages[0].role == "system")
        ids = self.encode_rendered(self._rendered(messages[:first]))
        for reply, user in zip(messages[first::2], messages[first + 1 :: 2], strict=True):
            ids = self.extend(ids, self.encode(reply.content), user.content)
        return ids

    def extend(self, prompt_ids: Sequence[int], reply_ids: Sequence[int], user: str) -> list[int]:
        """The next prompt: what was sent, what was sampled (without end-of-turn), and the user's next turn."""
        return [*prompt_ids, *reply_ids, *self._between(user)]

    def _between(self, user: str) -> tuple[int, ...]:
        """Ids from the end of a reply to the beginning of the next one, kept: users say the same few things again."""
        if user not in self._bridges:
            if len(self._bridges) >= 4096:
                self._bridges.clear()
            self._bridges[user] = tuple(self.encode_rendered(self._bridge(user)))
        return self._bridges[user]

    def messages(self, prompt_ids: Sequence[int]) -> list[Message]:
        """The chat that prompt() and extend() rendered: their inverse, for servers that take no ids.

        Raises:
            BadInputError: a message holds the template's own markers, so no list of messages gives these ids.
        """
        text = self._marked(prompt_ids)
        before, _, to_model = self.text([Message(role="user", content=_MARK)]).partition(_MARK)
        to_user = self._bridge(_MARK).partition(_MARK)[0]
        system, found = "", list[Message]()
        if not text.startswith(before):  # a system prompt that does not stand inside the first user turn
            before, system, _ = self.text(opening(_MARK, _MARK)).split(_MARK)
        body = text.removeprefix(before).removesuffix(to_model)
        if system:
            told, _, body = body.partition(system)
            found.append(Message(role="system", content=self._shown(told)))
        for part in body.split(to_user):
            user, *reply = part.split(to_model)
            found.append(Message(role="user", content=self._shown(user)))
            found += [Message(role="assistant", content=self._shown(said)) for said in reply]
        if not _alternate(found) or "".join(text.split()) != "".join(self._marked(self.prompt(found)).split()):
            raise BadInputError(
                "the chat cannot be read back from its token ids (a reply holds the chat template's own markers), so "
                "engine.http.api = 'chat' cannot send it"
            )
        return found

    def example(self, messages: Sequence[Message], target: str) -> Rendered:
        """A training row: the context, then `target` and its end-of-turn token, which alone learn."""
        context = self.prompt(messages)
        learned = [*self.encode(target), *self.end_of_turn]
        return Rendered(context + learned, [False] * len(context) + [True] * len(learned))

    def _bridge(self, user: str) -> str:
        """Template text from the end of a reply to the beginning of the next one."""
        probe = [
            Message(role="user", content="x"),
            Message(role="assistant", content=_MARK),
            Message(role="user", content=user),
        ]
        return self._rendered(probe).partition(_MARK)[2]

    @cached_property
    def end_of_turn(self) -> list[int]:
        """The token(s) that end an assistant turn (Gemma: <end_of_turn>)."""
        probe = [Message(role="user", content="x"), Message(role="assistant", content=_MARK)]
        return self.encode_rendered(self.text(probe, generate=False).partition(_MARK)[2].rstrip("\n"))

    @cached_property
    def stop_ids(self) -> set[int]:
        """Sampling stops at any of these: end of turn and end of text."""
        return {
            *self.end_of_turn[:1],
            *([self.tokenizer.eos_token_id] if self.tokenizer.eos_token_id is not None else []),
        }


def _alternate(messages: Sequence[Message]) -> bool:
    """Perhaps a system prompt, then user, assistant, ..., user."""
    roles = [m.role for m in messages]
    spoken = roles[1:] if roles[0] == "system" else roles
    return spoken == ["user", "assistant"] * (len(spoken) // 2) + ["user"]

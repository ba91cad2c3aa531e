"""Chat templates of checkpoints that nobody vouches for, rendered in a process of their own that can be killed.

A chat template is a program. transformers runs it in a sandbox that keeps it from files and from Python's internals,
and not from looping for ever or building a string of 10 GB, in C code that no signal handler interrupts. So it runs in
a child with limits: the child ends itself when one rendering takes longer than SECONDS or needs more than MEMORY_BYTES,
and the parent, who only waits for its answer, stays able to stop.

The environment is transformers' (`utils/chat_template_utils.py`): the same options, filter and functions. `today` is
the date that `strftime_now` gives, so that one run has one prompt.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

SECONDS = 10
"""Longest time of one rendering. A chat of 100 turns takes a published template a few milliseconds."""
MEMORY_BYTES = 1 << 30
"""Address space of the child: Python and jinja2 take about 0.1 GiB of it."""
LONGEST = 16 << 20
"""Characters of one rendered chat: the longest context that any model has, some times over."""


class TemplateError(Exception):
    """The template cannot render these messages: its own sentence, or the limit that it broke."""


TODAY = "PLACID_TODAY"
"""Environment: the date of the run's first launch (store.RunDir.freeze_date). All its processes render with it."""


class TemplateProcess:
    """A chat template and the child that renders it. The child starts at the first chat, and again after it died."""

    def __init__(self, template: str, names: dict[str, str], today: str = "") -> None:
        """names: the special tokens by name (bos_token, ...). today: ISO date and time; empty: now."""
        self._setup = {
            "template": template,
            "names": names,
            "today": today or os.environ.get(TODAY) or datetime.now().isoformat(),
        }
        self.program = Path(__file__)
        """What the child runs."""
        self._child: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def render(self, messages: list[dict[str, str]], generate: bool) -> str:
        """The text of a chat; with `generate`, up to where the model's turn begins.

        Raises:
            TemplateError: the template refuses the chat, is no template, or breaks a limit.
        """
        with self._lock:
            child = self._child or self._start()
            assert child.stdin, "the child was started with pipes"
            assert child.stdout, "the child was started with pipes"

            try:
                child.stdin.write(json.dumps({"messages": messages, "generate": generate}) + "\n")
                child.stdin.flush()
                line = child.stdout.readline(8 * LONGEST)
            except BrokenPipeError:
                line = ""

            if not line.endswith("\n"):
                raise TemplateError(self._limit_of_the_dead(child))

        answer = json.loads(line)
        if "refusal" in answer:
            raise TemplateError(answer["refusal"])
        return answer["text"]

    def close(self) -> None:
        """End the child, if there is one."""
        child = self._child
        self._child = None
        if child is not None:
            child.kill()
            child.communicate()

    def __del__(self) -> None:
        self.close()

    def _start(self) -> subprocess.Popen[str]:
        # -I: neither the current folder nor PYTHONPATH may stand in for a module that the child imports
        # no key of ours reaches it, nor the mark of a launch: it ends with its input, or by its own alarm
        allowed = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        self._child = subprocess.Popen(
            [sys.executable, "-I", str(self.program)],
            env=allowed,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            errors="surrogatepass",
        )
        assert self._child.stdin, "the child was started with pipes"
        self._child.stdin.write(json.dumps(self._setup) + "\n")
        return self._child

    def _limit_of_the_dead(self, child: subprocess.Popen[str]) -> str:
        self.close()
        if child.returncode == -signal.SIGALRM:
            return f"it was still rendering after {SECONDS} s"
        return f"its process ended with status {child.returncode}"


def environment(today: datetime) -> Any:  # noqa: ANN401 - jinja2 is imported in the child alone
    """Make jinja2's sandbox as transformers does; `strftime_now` tells `today`."""
    import jinja2
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """The tag {% generation %} marks replies for training; what it holds is rendered as it is."""

        tags = {"generation"}  # noqa: RUF012 - jinja2's own protocol

        def parse(self, parser: Any) -> Any:  # noqa: ANN401 - jinja2's own protocol
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    def to_json(
        value: object,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    made.filters["tojson"] = to_json
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = today.strftime
    return made


def serve() -> None:
    """Be the child: read a template from standard input, then a chat a line, and answer each with a line."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the parent decides
    sys.stdin.reconfigure(encoding="utf-8", errors="surrogatepass")  # type: ignore[union-attr]
    sys.stdout.reconfigure(encoding="utf-8", errors="surrogatepass")  # type: ignore[union-attr]

    setup = json.loads(sys.stdin.readline())
    sandbox = environment(datetime.fromisoformat(setup["today"]))
    compiled = None

    for line in sys.stdin:
        chat = json.loads(line)
        # no handler: the signal's own effect ends the process, in C code too
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            if compiled is None:
                compiled = sandbox.from_string(setup["template"])
            text = compiled.render(
                messages=chat["messages"],
                tools=None,
                documents=None,
                add_generation_prompt=chat["generate"],
                enable_thinking=False,
                **setup["names"],
            )
            answer = {"text": text} if len(text) <= LONGEST else {"refusal": f"it made {len(text):,} characters"}
        except MemoryError:
            answer = {"refusal": f"it needs more than {MEMORY_BYTES >> 30} GiB of memory"}
        except RecursionError:
            answer = {"refusal": "it calls itself without end"}
        except Exception as error:  # noqa: BLE001 - whatever a template of somebody else's can raise is its refusal
            answer = {"refusal": f"{error}" or type(error).__name__}
        signal.setitimer(signal.ITIMER_REAL, 0)

        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()

"""Renders a chat template from standard input in a process that may take little time and memory. Run as a script:

    python template_trial.py < chat_template.jinja

It ends with 0 where the template rendered or failed as any template may, with TOO_MUCH where it took too much memory or
text, and by a signal where it took too long. It imports nothing of medtune.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import threading
import time
from typing import Any

SECONDS = 2  # of the processor; a template takes a thousandth
MEMORY = 2**30  # bytes, of the whole process
LONGEST = 2**22  # characters of a greeting
TOO_MUCH = 3
PICTURED = [{"type": "image"}, {"type": "text", "text": "a"}]
TURNS: list[dict[str, Any]] = [
    {"role": "system", "content": "a"},
    {"role": "user", "content": "b"},
    {"role": "assistant", "content": "<think>\nc\n</think>\n\nd"},
    {"role": "user", "content": "e"},
    {"role": "assistant", "content": "f"},
]
PROBES = (TURNS[1:2], TURNS[:2], [{"role": "user", "content": PICTURED}], TURNS, TURNS[1:4])


def main() -> None:
    """Render, within limits."""
    limit()
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """The block by which transformers marks what an assistant says; here its content."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(["name:endgeneration"], drop_needle=True), lineno=line)

    extensions = [Generation, "jinja2.ext.loopcontrols"]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.globals.update(raise_exception=str, strftime_now=time.strftime)
    try:
        template = environment.from_string(sys.stdin.read())
        for messages in PROBES:
            for waiting in (True, False):
                length = 0
                for part in template.generate(messages=messages, add_generation_prompt=waiting):
                    length += len(part)
                    if length > LONGEST:
                        os._exit(TOO_MUCH)
    except MemoryError:
        os._exit(TOO_MUCH)
    except Exception:
        return  # said where it is rendered for good


def limit() -> None:
    """Bound time and memory; where the system bounds no memory (macOS), a thread looks at it."""
    for what, most in ((resource.RLIMIT_CPU, SECONDS), (resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(what, (most, most))
    threading.Thread(target=watch, daemon=True).start()


def watch() -> None:
    """End the process when it has become too large: the peak it began with may be its parent's."""
    most = _peak() + MEMORY // 2
    while _peak() < most:
        time.sleep(0.02)
    os._exit(TOO_MUCH)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""metrics.jsonl -> screen: show where a training run stands, while it runs, before and after.

reads   RUN/metrics.jsonl
writes  nothing: a living screen, dense lines where there is no terminal, or with --web a page on 127.0.0.1
"""

from __future__ import annotations

import medtune.start  # noqa: F401 - first: from here on Ctrl-C is one line

from pathlib import Path

from rich.console import Console

from medtune import cli
from medtune.i18n import tr
from medtune.monitor import watch, web
from medtune.run import Run


def main(argv: list[str] | None = None) -> None:
    """Follow RUN until it finishes; Ctrl-C ends the monitor and leaves the run alone."""
    parser = cli.parser(__doc__ or "", config=False)
    cli.add_run(parser)
    parser.add_argument("--once", action="store_true", help="print where the run stands and exit")
    parser.add_argument("--web", action="store_true", help="serve a local page instead of a screen")
    parser.add_argument("--port", type=int, default=web.PORT, help="port of the page (0: a free one)")
    args = parser.parse_args(argv)
    cli.apart(parser, args, "--once", "--web", "--port")
    cli.needs(parser, args, "--port", "--web")
    run = Run.chosen(args.run).path
    if args.once:
        watch.once(run, Console())
    elif args.web:
        serve(run, args.port)
    else:
        watch.watch(run, Console())


def serve(run: Path, port: int) -> None:
    """Serve the page until Ctrl-C."""
    with web.server(run, port) as server:
        print(
            tr(
                "monitor of {run}: http://{host}:{port} (Ctrl-C ends it)",
                run=run,
                host=web.HOST,
                port=server.server_port,
            ),
            flush=True,
        )
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    cli.run(main)

#!/usr/bin/env python3
"""deployed model -> Hugging Face's layout: PyTorch's names and axes in bf16, which llama.cpp converts to GGUF.

reads   deploy.yaml, and the folder it names among LM Studio's models or under RUN/lmstudio/
writes  OUT/: model-*.safetensors with their index, config, tokenizer and processor files; nothing where OUT exists
"""

from __future__ import annotations

import medtune.start  # noqa: F401 - first: from here on Ctrl-C is one line

from pathlib import Path

from medtune import cli
from medtune.deployment.transaction import Place
from medtune.model import runtime
from medtune.run import Run


def main(argv: list[str] | None = None) -> None:
    """Export the deployed model of one run."""
    parser = cli.parser(__doc__, required=False)
    cli.add_run(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="OUT", help="folder to make")
    args = parser.parse_args(argv)
    run = Run.chosen(args.run)
    source = Place.of(run.path, run.deployed(args.config, args.set)).folder
    runtime.start()
    from medtune.deployment import hf_export

    hf_export.write(source, args.out, run.command("deploy"))
    print("\n".join(hf_export.advice(args.out)))


if __name__ == "__main__":
    cli.run(main)

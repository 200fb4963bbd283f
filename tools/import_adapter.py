#!/usr/bin/env python3
"""foreign adapter -> run: bring an adapter of PEFT, mlx-lm or mlx-vlm into the form that deploys.

reads   SOURCE/adapter_config.json and its safetensors, the base model's headers
writes  RUN/adapters.safetensors, adapter_config.json, then RUN/training.json (which says that it was imported)
"""

from __future__ import annotations

import medtune.start  # noqa: F401 - first: from here on Ctrl-C is one line

from pathlib import Path

from medtune import cli, files, origin, receipt
from medtune.config import Strict
from medtune.errors import UserError
from medtune.files import folders
from medtune.i18n import tr
from medtune.model import claim, runtime
from medtune.model.base import Base
from medtune.receipt import TRAINING
from medtune.run import CONFIG, WEIGHTS, Run


class Import(Strict):
    """What the arguments say, for the receipt."""

    base_model: str
    scale: float | None  # null: as the adapter's own config states
    system_prompt: str


def main(argv: list[str] | None = None) -> None:
    """Import one adapter."""
    parser = cli.parser(__doc__, config=False)
    parser.add_argument("source", type=Path, metavar="SOURCE", help="folder with adapter_config.json")
    parser.add_argument("--base", required=True, metavar="MODEL", help="path, Hub id in the cache, or LM Studio key")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of the run to make")
    parser.add_argument(
        "--scale", type=cli.above_zero, help="the multiplier, where the adapter's config states it wrongly"
    )
    parser.add_argument("--system-prompt", default="", help="the system prompt it was trained with")
    args = parser.parse_args(argv)
    settings = Import(base_model=args.base, scale=args.scale, system_prompt=args.system_prompt)
    base = Base.find(args.base)
    read = [args.source / CONFIG, *sorted(args.source.glob("[!.]*.safetensors"))]
    inputs = {f"source/{path.name}": files.sha256(path) for path in read}
    run = Run(args.out)
    mark = files.hash_of([settings.model_dump(mode="json"), inputs, base.weights_hash])
    redo = tr(
        "import into another folder: `{command}`",
        command=origin.imported(args.source, args.base, folders.beside(run.path)),
    )

    def check() -> None:
        if run.begun or not claim.accounts(run, mark):
            raise UserError(tr("{run}: holds adapters, or a training; {redo}", run=args.out, redo=redo))

    with receipt.stage(args.out / TRAINING, settings, inputs=inputs, replace=False, redo=redo, check=check) as done:
        runtime.start()
        from medtune.deployment import adapter_import

        found = adapter_import.read(args.source, base.family, args.scale)
        config = adapter_import.write(found, base, args.out, mark)
        done.results = {
            "base_model": {"name": base.name, "hash": base.weights_hash, "model_type": base.config["model_type"]},
            "template_hash": base.template_hash,
            "system_prompt": args.system_prompt,
            "lora": {"rank": config.rank, "scale": config.scale, "keys": list(config.keys)},
            "imported": {"layout": found.layout, "source": str(args.source)},
        }
        done.outputs = {name: files.sha256(args.out / name) for name in (WEIGHTS, CONFIG)}
    print(
        tr(
            "{run}: {n} adapted matrices from {layout}, multiplier {scale}; next: `{following}`",
            following=run.command("deploy"),
            run=args.out,
            n=len(config.keys),
            layout=found.layout,
            scale=config.scale,
        )
    )


if __name__ == "__main__":
    cli.run(main)

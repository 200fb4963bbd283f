#!/usr/bin/env python3
"""adapters -> LM Studio: fuse them into the base model, prove the folder, put it in place in one step.

reads   RUN/adapters.safetensors, adapter_config.json, training.json, evaluation.json (its gate), deploy.yaml
writes  <LM Studio's models>/<publisher>/<name>/, a preset beside it, RUN/canaries/, then RUN/deployment.json

Where LM Studio is not installed, the folder is made under RUN/lmstudio/.
"""

from __future__ import annotations

import medtune.start  # noqa: F401 - first: from here on Ctrl-C is one line

import sys
from argparse import SUPPRESS, Namespace
from contextlib import nullcontext
from pathlib import Path

from medtune import cli, config, receipt
from medtune.deployment import preset, transaction
from medtune.deployment.client import Server
from medtune.deployment.transaction import Place
from medtune.errors import UserError
from medtune.files import folders
from medtune.i18n import tr
from medtune.model import runtime
from medtune.model.base import Base
from medtune.receipt import DEPLOYMENT
from medtune.run import CONFIG, WEIGHTS, Run
from medtune.schemas import DeployConfig


def parse(argv: list[str] | None) -> Namespace:
    """The arguments; --inspect, which has moved, needs neither a run nor a config."""
    parser = cli.parser(__doc__, required=False)
    cli.add_run(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="say what would be written; write nothing")
    what.add_argument("--prove", action="store_true", help="prove the folder in place again, on every level there is")
    what.add_argument("--rollback", action="store_true", help="bring the version before this one back")
    what.add_argument("--undeploy", action="store_true", help="take the model out of LM Studio")
    what.add_argument("--inspect", type=Path, help=SUPPRESS)
    what.add_argument("--export", nargs=2, help=SUPPRESS)
    parser.add_argument("--pinned", action="store_true", help="make the environment with LM Studio's versions")
    parser.add_argument("--allow-failed-gate", action="store_true", help="deploy although the evaluation failed")
    parser.add_argument(
        "--allow-remote-server",
        action="store_true",
        help="LMSTUDIO_URL may name another machine: the proof's questions, from the test set too, their images and "
        "LM_API_TOKEN are sent there",
    )
    args = parser.parse_args(argv)
    for only_looks in ("--dry-run", "--rollback", "--undeploy", "--inspect", "--export"):
        cli.apart(parser, args, only_looks, "--pinned", "--allow-failed-gate", "--allow-remote-server")
    cli.apart(parser, args, "--prove", "--allow-failed-gate")
    cli.apart(parser, args, "--inspect", "RUN", "--config", "--set")
    if args.export and args.export[0] != "hf":
        raise UserError(tr("--export {layout}: hf is the only layout there is", layout=args.export[0]))
    return args


def main(argv: list[str] | None = None) -> None:
    """Deploy, or one of its side paths."""
    args = parse(argv)
    if args.inspect:
        inspect(args.inspect)
        return
    run = Run.chosen(args.run)
    if args.prove or args.rollback or args.undeploy or args.export:
        settings = run.deployed(args.config, args.set)
    else:
        settings = config.load(DeployConfig, args.config or run.settings("deploy"), args.set)
    if args.rollback or args.undeploy:
        take_back(args, settings, run)
        return
    Server.lmstudio(remote=args.allow_remote_server)  # an address that is refused: said now, not after the fusing
    runtime.start()
    from medtune.deployment import deploy

    if args.export:
        export(Place.of(run.path, settings).folder, Path(args.export[1]))
    elif args.dry_run:
        print("\n".join(deploy.plan(run, Base.of_training(run.training.results), settings).lines()))
    elif args.prove:
        prove_again(args, settings, run)
    else:
        try:
            put_in_place(args, settings, run)
        except receipt.AlreadyDone:
            if not args.pinned:
                raise
            prove_again(args, settings, run)  # what is in place may not have been proved so yet


def put_in_place(args: Namespace, settings: DeployConfig, run: Run) -> None:
    """The deploy itself, with its receipt."""
    from medtune.deployment import deploy
    from medtune.deployment.proof import stack

    run.as_trained(WEIGHTS, CONFIG)
    base = Base.of_training(run.training.results)
    deploy.check_gate(run, args.allow_failed_gate)
    path, inputs = run.path / DEPLOYMENT, deploy.inputs(run, base, settings)
    place = Place.of(run.path, settings)
    with receipt.stage(
        path, settings, inputs=inputs, overrides=args.set, undo=lambda: transaction.take_back(place)
    ) as done:
        plan = deploy.plan(run, base, settings, remote=args.allow_remote_server)
        print("\n".join(plan.lines()), flush=True)
        if args.pinned:
            stack.make()
        done.results = deploy.deploy(plan, print)
        done.outputs = {str(plan.place.folder.resolve() / row["name"]): row["sha256"] for row in done.results["files"]}
    print("\n".join(plan.advice()))


def prove_again(args: Namespace, settings: DeployConfig, run: Run) -> None:
    """Only the proof; the receipt's verdicts become the new ones, those of a proof that failed or was stopped too."""
    from medtune.deployment import deploy
    from medtune.deployment.proof import stack

    done, at = run.deployment, Place.of(run.path, settings)
    told = done.results["publisher"], done.results["name"]
    if told != (at.publisher, at.name):
        raise UserError(
            tr(
                "{path}: deployed as {told}, the settings say {key}; prove it with its own settings, or deploy",
                path=run.path / DEPLOYMENT,
                told="/".join(told),
                key=f"{at.publisher}/{at.name}",
            )
        )
    if args.pinned:
        stack.make()
    done.results["proofs"] = []  # what was found before says nothing of the folder as it is now
    with folders.held(run.path):
        try:
            deploy.check_unchanged(done, run)
            plan = deploy.plan(run, Base.of_training(run.training.results), settings, remote=args.allow_remote_server)
            for verdict in deploy.prove(plan, print):
                done.results["proofs"].append(verdict.facts)
                deploy.refuse(verdict)
        finally:
            done.write(run.path / DEPLOYMENT)


def take_back(args: Namespace, settings: DeployConfig, run: Run) -> None:
    """Roll back or undeploy; the receipt goes, since it speaks of what is no longer there."""
    at = Place.of(run.path, settings)
    with transaction.locked(at) if at.work.exists() else nullcontext():  # nothing to take back: nothing is made
        if args.rollback:
            transaction.rollback(at)
        else:
            preset.remove(at.work)
            transaction.undeploy(at)
    (run.path / DEPLOYMENT).unlink(missing_ok=True)
    print(
        tr("{folder}: the version before is back", folder=at.folder)
        if args.rollback
        else tr("{folder}: removed", folder=at.folder)
    )


def inspect(folder: Path) -> None:
    """A tool of its own now; here for one release more."""
    from medtune.deployment.inspection import Inspection

    _moved("--inspect", f"tools/inspect_model.py {folder}", f"make inspect FOLDER={folder}")
    inspection = Inspection.of(folder)
    print("\n".join(inspection.lines))
    if inspection.problems:
        raise UserError(inspection.verdict)
    print(inspection.verdict)


def export(source: Path, out: Path) -> None:
    """A tool of its own now; here for one release more."""
    from medtune.deployment import hf_export

    _moved("--export hf", f"tools/export_hf.py RUN --config FILE --out {out}", f"make export OUT={out}")
    hf_export.write(source, out)
    print("\n".join(hf_export.advice(out)))


def _moved(flag: str, tool: str, target: str) -> None:
    print(
        tr("{flag} is a tool of its own now: {tool}, or {target}", flag=flag, tool=tool, target=target), file=sys.stderr
    )


if __name__ == "__main__":
    cli.run(main)

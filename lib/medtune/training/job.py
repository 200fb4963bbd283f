"""A data set, a base model and settings put together into a trainer."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import mlx.core as mx

from medtune import files, planner
from medtune.dataset import Dataset
from medtune.errors import UserError
from medtune.files import folders
from medtune.i18n import tr
from medtune.model import adapters, claim
from medtune.model.architecture import Architecture
from medtune.model.base import Base
from medtune.model.renderer import Example, Renderer
from medtune.planner.plan import Plan
from medtune.progress import progress
from medtune.run import WEIGHTS
from medtune.schemas import TrainConfig
from medtune.training import preflight, validation
from medtune.training.activations import Store
from medtune.training.cluster import ALONE, Cluster
from medtune.training.dataloader import DataLoader
from medtune.training.examples import Material, gather
from medtune.training.rowformat import RowFormat
from medtune.training.sampler import Order
from medtune.training.state import RunState
from medtune.training.step import Step
from medtune.training.trainer import Trainer
from medtune.training.trunk import Trunk


def check_share(config: TrainConfig, cluster: Cluster) -> None:
    """Every machine needs at least one example of each micro-batch, and all the same number."""
    parts = cluster.size * config.grad_accumulation_steps
    if config.batch_size % parts:
        raise UserError(
            tr(
                "batch_size: {size} cannot be shared by {n} machines in {micro} micro-batches each; "
                "set a multiple of {parts}",
                size=config.batch_size,
                n=cluster.size,
                micro=config.grad_accumulation_steps,
                parts=parts,
            )
        )


def open_store(cache: Path, base: Base, architecture: Architecture, first: int) -> Store:
    """The store in ``cache`` of this model's activations at layer ``first``, named by everything they depend on."""
    dtype = architecture.layers[0].input_layernorm.weight.dtype  # never quantised
    name = str(dtype).removeprefix("mlx.core.")
    form = RowFormat(
        hidden=architecture.hidden_size,
        dtype="float32" if name == "float32" else "uint16",
        mlx_dtype=name,
        levels=architecture.deepstack_levels if first < architecture.deepstack_levels else 0,
    )
    key = files.hash_of(
        [base.weights_hash, base.quantization, base.processor_hash, name, first, metadata.version("mlx")]
    )
    return Store(cache / key[:16], form)


def fill_store(
    store: Store, base: Base, renderer: Renderer, first: int, group: int, examples: Sequence[Example]
) -> None:
    """Run the trunk over the examples that are not stored yet, with a model of its own that is dropped afterwards.

    ``group`` decoder layers are in memory at a time.
    """
    missing = store.missing(examples)
    if store.damaged:
        print(tr("trunk cache: {n} damaged entries; computed again", n=store.damaged), flush=True)
    if not missing:
        print(tr("trunk cache: all {n} examples are there ({folder})", n=len(examples), folder=store.folder))
        return
    size = files.megabytes(store.check_disk(missing))
    print(tr("trunk cache: {n} examples, {size} in {folder}", n=len(missing), size=size, folder=store.folder))
    trunk = Trunk(Architecture.of(base.load()), renderer, first)
    total = len(trunk.cuts(group)) * sum(len(example.tokens) for example in missing)
    with progress(tr("trunk"), total, "tok") as bar:
        done = 0

        def tick(tokens: int) -> None:
            nonlocal done
            done += tokens
            bar.update(done, "")

        store.fill(trunk, missing, group, tick)


@dataclass(frozen=True)
class TrainingJob:
    """A trainer ready to run, and the facts about the run that are known before its first step."""

    trainer: Trainer
    preflight: Callable[[], list[str]]
    room: tempfile.TemporaryDirectory[str]  # of the preflight's inverted images, which may be a patient's
    facts: dict[str, Any]

    def run(self) -> dict[str, Any]:
        """Check, train, and return the results of training.json; once that is written, call ``Run.settle``."""
        with self.room:
            checked = self.preflight() if not self.trainer.state.step else []
        print(*checked, sep="\n", flush=True)
        state = self.trainer.run()
        _check_learned(state, self.trainer.config, self.trainer.folder)
        measured = state.results(self.trainer.config, self.trainer.stopped)
        measured["share"] = {**self.facts["share"], "measured": measured.pop("measured_share")}
        measured["lora"] = {
            **self.facts["lora"],
            "adapter_bytes": (self.trainer.folder / WEIGHTS).stat().st_size,
        }
        return {**self.facts, **measured}


def _check_learned(state: RunState, config: TrainConfig, folder: Path) -> None:
    """Adapters that are best before the first step are zero: not worth a receipt."""
    if config.select.by == "val_loss" and not state.best_step:
        raise UserError(
            tr(
                "nothing was learned: the validation loss was lowest before the first step ({first:.4f}, at the end "
                "{last:.4f}); lower optimizer.learning_rate and train into another folder (RUN={free}), or set "
                "select.by: last",
                free=folders.beside(folder),
                first=state.first["val_loss"],
                last=state.last["val_loss"],
            )
        )


def assemble(
    dataset: Dataset,
    base: Base,
    config: TrainConfig,
    run: Path,
    cache: Path,
    *,
    cluster: Cluster = ALONE,
    order: Order | None = None,
) -> TrainingJob:
    """Everything from the encoded records to the attached adapters, for this machine's share of the batches.

    ``cache`` keeps the trunk's activations; ``order`` replaces the order in which the examples are drawn.
    """
    check_share(config, cluster)
    plan = planner.for_run(config, dataset.root, run)
    renderer = Renderer(base)
    material = gather(dataset, renderer, config)
    architecture = Architecture.of(base.load())
    first, below = config.lora.frozen(len(architecture.layers)), config.lora.below
    order = order or material.order(config)
    mine = material.share(order, cluster)
    room = tempfile.TemporaryDirectory(prefix="medtune-preflight-")
    probes = preflight.probes(material.train.items, Path(room.name))
    examples = material.examples(mine) + [probe.example for probe in probes]
    source, trunk = _source(plan, open_store(cache, base, architecture, first), base, architecture, renderer, examples)
    mx.random.seed(config.seed)  # not before: loading a model draws numbers, and a filled store loads none
    adapter = adapters.attach(architecture.model, config.lora)
    census = adapters.census(architecture.model)
    loaders = [DataLoader(part, source, below) for part in (material.train.items, material.valid)]
    compiled = _compiles() and not below  # mlx-vlm's vision tower looks at values while it is traced
    step = Step(architecture, first, config, compiled=compiled, checkpoint=plan.checkpoint, cluster=cluster)
    for loader, part in zip(loaders, mine, strict=True):
        validation.references(step, loader, part, config.batch_size)
    if cluster.rank:
        mx.random.seed(config.seed + cluster.rank)  # its own dropout; the adapters are everybody's
    facts = {**_facts(dataset, base, config, plan, material, adapter, architecture), **trunk}
    facts["lora"] |= {"census": census, "trainable_parameters": sum(census.values())}

    def checks() -> list[str]:
        print(adapters_line(census, adapter.scale))
        preflight.preview(material.train.items, renderer)
        loader = DataLoader(probes, source, below)
        return preflight.check(step, loader, loaders[0], mine[0], renderer, material.kinds)

    loop = Trainer(
        step, adapter, config, run, (loaders[0], loaders[1]), order, claim.fingerprint(dataset, base, config)
    )
    return TrainingJob(loop, checks, room, facts)


def _facts(
    dataset: Dataset,
    base: Base,
    config: TrainConfig,
    plan: Plan,
    material: Material,
    adapter: adapters.AdapterConfig,
    architecture: Architecture,
) -> dict[str, Any]:
    """What training.json says of the model, the data and the settings as they were resolved."""
    depth = len(architecture.layers)
    return {
        "base_model": _base_facts(base, architecture, int(sum(plan.parameters.values()))),
        "dataset": {"path": str(dataset.root), "hash": dataset.hash},
        "template_hash": base.template_hash,
        "system_prompt": dataset.manifest.config.get("system_prompt", ""),
        "lora": {
            "rank": config.lora.rank,
            "alpha": config.lora.alpha,
            "scale": adapter.scale,
            "num_layers": depth - config.lora.lowest(depth),
            "keys": list(adapter.keys),
        },
        "epochs": round(config.iters * config.batch_size / material.train.drawn, 3),
        "unused_records": material.train.unused,
        "share": {"nominal": material.priorities.nominal, "effective": material.priorities.effective},
    }


def _source(
    plan: Plan, store: Store, base: Base, architecture: Architecture, renderer: Renderer, examples: list[Example]
) -> tuple[Store | Trunk, dict[str, Any]]:
    """Where activations come from: the filled store, the model cut down to its top; or the trunk, run live."""
    first = plan.model.first
    facts: dict[str, Any] = {"trunk_seconds": 0.0, "trunk": {"used": False, "layers": first, "bytes": 0}}
    if not plan.cached:
        return Trunk(architecture, renderer, first, plan.train.lora.neftune), facts
    started = time.perf_counter()
    fill_store(store, base, renderer, first, plan.group, examples)
    architecture.keep_from(first)
    facts["trunk_seconds"] = round(time.perf_counter() - started, 2)
    facts["trunk"] |= {"used": True, "bytes": store.bytes_for(examples)}
    return store, facts


def adapters_line(census: dict[str, int], scale: float) -> str:
    """What is adapted, by kind, and how strongly: the router only where it was asked for."""
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in census.items() if count)
    return tr("adapters: {kinds} parameters at scale {scale:g}", kinds=kinds, scale=scale)


def _compiles() -> bool:
    """Compiling pays on a GPU; on a CPU every shape would go through the C++ compiler for seconds."""
    return mx.default_device().type != mx.DeviceType.cpu


def _base_facts(base: Base, architecture: Architecture, parameters: int) -> dict[str, Any]:
    return {
        "name": base.name,
        "hash": base.weights_hash,
        "model_type": base.config["model_type"],
        "layers": len(architecture.layers),
        "hidden": architecture.hidden_size,
        "parameters": parameters,
        "quantization": base.quantization,
        "dtype": str(base.config.get("dtype") or base.config.get("torch_dtype") or ""),
    }

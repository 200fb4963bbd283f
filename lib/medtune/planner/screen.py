"""A plan as tables on a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from medtune.files import megabytes
from medtune.i18n import tr
from medtune.planner.machines import GIB, MACS, Machine
from medtune.planner.model import GPU
from medtune.planner.plan import Plan


def render(plan: Plan) -> RenderableType:
    """What is trained, what it takes, whether it fits here and on which Mac."""
    needs = (_conditions(plan), _disk(plan), _time(plan))
    return Group(_model(plan), _trainable(plan), _memory(plan), *needs, _macs(plan), _here(plan))


def _names() -> dict[str, str]:
    """Parts of models and phases, in the person's language."""
    return {
        "vision": tr("vision tower"),
        "merger": tr("mergers"),
        "embedding": tr("embeddings"),
        "attention": tr("attention"),
        "mlp": tr("MLP"),
        "expert": tr("experts"),
        "router": tr("router"),
        "norm": tr("norms"),
        "head": tr("head"),
        "layers": tr("decoder layers"),
        "adapters": tr("adapters"),
        "optimizer": tr("optimizer state"),
        "gradients": tr("gradients"),
        "activations": tr("activations kept"),
        "working": tr("working memory"),
        "model": tr("whole model"),
        "trunk": tr("trunk pass"),
        "training": tr("training phase"),
        "answering": tr("answering"),
    }


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    return table


def _model(plan: Plan) -> Group:
    names, total = _names(), sum(plan.parameters.values())
    title = tr("{name}: {count} parameters", name=plan.train.base_model, count=_short(total))
    table = _table(tr("part"), tr("parameters"), tr("weights"), tr("trainable"))
    for part, count in plan.parameters.items():
        weights = megabytes(plan.model.nbytes(part))  # type: ignore[arg-type]
        table.add_row(names[part], f"{count:,.0f}", weights, f"{plan.trainable.get(part, 0):,}")
    return Group(Text(title, style="bold"), table)


def _short(count: float) -> str:
    return f"{count / 1e9:.1f} B" if count >= 1e9 else f"{count / 1e6:.1f} M"


def _trainable(plan: Plan) -> Text:
    lora = plan.train.lora
    return Text(
        tr(
            "{count:,} trainable parameters, {size} as adapters.safetensors (rank {rank}, {layers} of {depth} layers)",
            count=sum(plan.trainable.values()),
            size=megabytes(plan.adapter_bytes),
            rank=lora.rank,
            layers=plan.model.top,
            depth=plan.model.language.layers,
        ),
        style="bold",
    )


def _memory(plan: Plan) -> Table:
    names, phases = _names(), plan.phases
    table = _table(tr("peak memory here"), *(names[phase] for phase in phases))
    for part in dict.fromkeys(part for parts in phases.values() for part in parts):
        table.add_row(names[part], *(megabytes(p[part]) if part in p else "" for p in phases.values()))
    table.add_section()
    table.add_row(tr("together"), *(megabytes(sum(parts.values())) for parts in phases.values()), style="bold")
    return table


def _conditions(plan: Plan) -> Text:
    load = plan.load
    batch = plan.train.batch_size // plan.train.grad_accumulation_steps
    said = tr("{batch} examples of {longest} tokens at a time", batch=batch, longest=load.longest)
    if plan.checkpoint:
        said += "; " + tr("layers are computed again in the backward pass (grad_checkpoint)")
    if load.assumed:
        said += "; " + tr("assumed, since there is no data set yet")
    return Text(said)


def _disk(plan: Plan) -> Text:
    return Text(
        tr(
            "disk: {cache} trunk cache, {run} run folder with its checkpoints",
            cache=megabytes(plan.cache_bytes),
            run=megabytes(plan.run_bytes),
        )
    )


def _time(plan: Plan) -> Text:
    if plan.measured is None:
        return Text(
            tr("time: known after the first report of the training; stop it with Ctrl-C, it goes on where it was")
        )
    return Text(
        tr(
            "measured in this run folder: {seconds:.2f} s a step, {minutes:.0f} min for {steps} steps; peak {peak}, "
            "foreseen {error:+.0%}",
            seconds=plan.measured.step_seconds,
            minutes=plan.measured.step_seconds * plan.train.iters / 60,
            steps=plan.train.iters,
            peak=megabytes(plan.measured.peak),
            error=plan.peak / plan.measured.peak - 1,
        )
    )


def _macs(plan: Plan) -> Table:
    table = _table(tr("Mac with"), tr("usable"), tr("training needs"), tr("trains"), tr("answers"))
    for gigabytes in MACS:
        on = plan.on(Machine.mac(gigabytes), GPU)
        table.add_row(
            f"{gigabytes} GB",
            megabytes(on.machine.usable),
            megabytes(on.peak),
            tr("yes") if on.fits else advice(on),
            tr("yes") if on.answers else tr("no"),
        )
    return table


def advice(plan: Plan) -> str:
    """What to change where a plan does not fit."""
    remedies = plan.remedies()
    if remedies is None:
        return tr("no: choose a smaller model")
    return tr("with {changes}", changes=" ".join(remedies))


def _here(plan: Plan) -> Text:
    memory, usable = (f"{size / GIB:.0f} GB" for size in (plan.machine.memory, plan.machine.usable))
    if plan.fits:
        return Text(
            tr("this machine ({memory}, {usable} usable): it fits", memory=memory, usable=usable), style="bold green"
        )
    return Text(
        tr("this machine ({memory}, {usable} usable): {advice}", memory=memory, usable=usable, advice=advice(plan)),
        style="bold red",
    )

"""Items -> predictions: ask both models what has not been asked, and keep every answer as it comes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from medtune.evaluation.items import Item
from medtune.evaluation.predictions import Prediction, Predictions, Side
from medtune.i18n import tr
from medtune.model.base import Base
from medtune.model.generation import generate
from medtune.model.renderer import Renderer
from medtune.model.tuned import TunedModel
from medtune.progress import progress
from medtune.run import Run
from medtune.schemas import EvalConfig


def answer(base: Base, sides: Sequence[Side], items: Sequence[Item], store: Predictions, config: EvalConfig) -> int:
    """Fill ``store`` with the answers of every side to every item; returns how many had to be generated."""
    missing = {side.model: store.missing(side, items) for side in sides}
    total = sum(map(len, missing.values()))
    if store.damaged:
        print(tr("{path}: {n} damaged answers; asked again", path=store.path, n=store.damaged), flush=True)
    if total:
        run = next(side.adapters for side in sides if side.model == "tuned" and side.adapters)
        renderer, model = Renderer(base, Run(run).max_image_edge), TunedModel(base)
        with progress(tr("answers"), total, "ans") as bar:
            done = 0
            for side in sorted(sides, key=lambda side: side.adapters is None):  # the base last: adapters scaled to 0
                for batch in _answers(renderer, model, side, missing[side.model], config):
                    store.add(batch)
                    store.save(items, sides)
                    done += len(batch)
                    bar.update(done, side.model)
    store.save(items, sides)
    return total


def _answers(
    renderer: Renderer, model: TunedModel, side: Side, items: Sequence[Item], config: EvalConfig
) -> Iterator[list[Prediction]]:
    prompts = [renderer.prompt(item.prompt, item.images) for item in items]
    if not prompts:
        return
    with model.wearing(side.adapters) as worn:
        started = time.perf_counter()
        for batch in generate(worn, renderer, prompts, max_tokens=config.max_tokens, batch_size=config.batch_size):
            seconds = round((time.perf_counter() - started) / len(batch), 4)
            yield [
                Prediction(side.key(items[said.index]), said.text, said.tokens, said.finish, seconds) for said in batch
            ]
            started = time.perf_counter()

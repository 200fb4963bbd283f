"""Greedy generation: a batch says what each prompt alone would get, and what mlx-vlm itself says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from PIL import Image, ImageDraw

from medtune.errors import UserError
from medtune.model import adapters
from medtune.model.base import Base
from medtune.model.generation import Answer, decode, generate, stream
from medtune.model.renderer import Example, Renderer
from medtune.records import Message
from medtune.schemas import Lora

TEXTS = (
    "我的血压140/90，需要担心吗？",
    "发烧",
    "最近总是感到疲劳，可能是什么原因？我晚上睡得不好，白天也没有精神，已经三个星期了。" * 3,
    "头痛怎么办？",
    "Is 38.5 a fever?",
)


class StopAt(Renderer):
    """A chat whose answers also end at the given tokens, so that rows of a batch end at different steps."""

    extra: tuple[int, ...] = ()

    @property
    def stop_ids(self) -> list[int]:
        return [*super().stop_ids, *self.extra]


@pytest.fixture(scope="module", params=["dense", "moe"])
def loaded(request: pytest.FixtureRequest, dense_twin: Path, moe_twin: Path) -> Iterator[tuple[Any, StopAt]]:
    base = Base.find(str({"dense": dense_twin, "moe": moe_twin}[request.param]))
    yield base.load(), StopAt(base)


@pytest.fixture
def prompts(loaded: tuple[Any, StopAt], tmp_path: Path) -> list[Example]:
    """Five text prompts of different lengths, then three with one or two images of different sizes."""
    renderer = loaded[1]
    images = []
    for number, size in enumerate(((96, 64), (128, 128), (64, 160))):
        image = Image.new("RGB", size, (40 * number, 90, 200))
        ImageDraw.Draw(image).ellipse((8, 8, 50, 50), fill=(255, 60 * number, 0))
        images.append(tmp_path / f"{number}.png")
        image.save(images[-1])
    made = [renderer.prompt([Message(role="user", content=text)]) for text in TEXTS]
    for chosen in (images[:1], images[1:2], images[1:]):
        content = "<image>" * len(chosen) + "这张图有什么问题？"
        made.append(renderer.prompt([Message(role="user", content=content)], chosen))
    return made


def answers(model: Any, renderer: Renderer, prompts: list[Example], size: int, most: int = 12) -> list[Answer]:
    found = [
        answer for batch in generate(model, renderer, prompts, max_tokens=most, batch_size=size) for answer in batch
    ]
    return sorted(found, key=lambda answer: answer.index)


def alone(model: Any, renderer: Renderer, prompt: Example, most: int = 12) -> list[int]:
    return [step[0] for step in decode(model, renderer, [prompt], most)]


def test_a_batch_of_texts_and_images_says_what_each_prompt_alone_would_get(
    loaded: tuple[Any, StopAt], prompts: list[Example]
) -> None:
    model, renderer = loaded
    one_by_one = answers(model, renderer, prompts, size=1)
    assert answers(model, renderer, prompts, size=len(prompts)) == one_by_one
    assert answers(model, renderer, prompts, size=3) == one_by_one
    assert len({answer.text for answer in one_by_one}) > 4  # else equality would say little


def test_rows_that_end_early_leave_the_others_as_they_were(loaded: tuple[Any, StopAt], prompts: list[Example]) -> None:
    model, renderer = loaded
    free = {row: alone(model, renderer, prompt) for row, prompt in enumerate(prompts)}
    stopping = StopAt(renderer.base)
    stopping.extra = (free[0][2], free[5][5])
    ended = answers(model, stopping, prompts, size=len(prompts))
    for answer in ended:
        tokens = free[answer.index]
        cut = next((step for step, token in enumerate(tokens) if token in stopping.extra), len(tokens))
        assert answer.tokens == cut
        assert answer.finish == ("stop" if cut < len(tokens) else "length")
        assert answer.text == renderer.detokenize(tokens[:cut]).strip()
    assert len({answer.tokens for answer in ended}) > 1


def test_the_tokens_are_those_of_mlx_vlms_own_greedy_decoding(
    loaded: tuple[Any, StopAt], prompts: list[Example]
) -> None:
    from mlx_vlm.generate import generate_step

    model, renderer = loaded
    for prompt in (prompts[0], prompts[2], prompts[6], prompts[7]):
        pixels, grid = renderer.pixels(prompt)
        steps = generate_step(
            mx.array(prompt.tokens)[None],
            model,
            None if pixels is None else mx.array(pixels),
            None,
            max_tokens=8,
            temperature=0.0,
            **({} if grid is None else {"image_grid_thw": mx.array(grid)}),
        )
        assert [int(token) for token, _ in steps] == alone(model, renderer, prompt, 8)


def test_an_answer_depends_on_the_image(loaded: tuple[Any, StopAt], tmp_path: Path) -> None:
    model, renderer = loaded
    made = []
    for name, color in (("black", 0), ("white", 255)):
        Image.new("L", (96, 96), color).save(tmp_path / f"{name}.png")
        content = [Message(role="user", content="<image>这是什么？")]
        made.append(alone(model, renderer, renderer.prompt(content, [tmp_path / f"{name}.png"])))
    assert made[0] != made[1]


def test_an_image_that_broke_after_it_was_counted_is_one_line_that_says_how_to_make_it_again(
    loaded: tuple[Any, StopAt], prompts: list[Example]
) -> None:
    path = prompts[5].images[0]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"{path.name}: not an image one can open .*; run `make data .*` again"):
        loaded[1].pixels(prompts[5])
    path.unlink()
    with pytest.raises(UserError, match=f"{path.name}: .*No such file.*; run `make data .*` again"):
        loaded[1].prompt([Message(role="user", content="<image>")], [path])


def test_a_streamed_answer_is_the_same_text_in_pieces(loaded: tuple[Any, StopAt], prompts: list[Example]) -> None:
    model, renderer = loaded
    pieces = list(stream(model, renderer, prompts[0], max_tokens=12))
    assert "".join(pieces).strip() == answers(model, renderer, prompts[:1], size=1)[0].text
    assert len(pieces) > 1


def test_a_token_beyond_the_tokenizer_is_never_chosen(
    loaded: tuple[Any, StopAt], prompts: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    from medtune.model.architecture import Architecture

    model, renderer = loaded
    logits: Callable[..., mx.array] = Architecture.logits

    def padded(self: Architecture, h: mx.array) -> mx.array:
        rows = logits(self, h)
        return mx.concatenate([rows, mx.full((*rows.shape[:-1], 7), 1e4)], axis=-1)  # a table larger than the words

    monkeypatch.setattr(Architecture, "logits", padded)
    assert max(alone(model, renderer, prompts[0], 6)) < len(renderer.tokenizer)


def test_with_adapters_scaled_to_zero_the_base_model_answers(dense_twin: Path) -> None:
    base = Base.find(str(dense_twin))
    renderer, model = Renderer(base), base.load()
    prompt = renderer.prompt([Message(role="user", content=TEXTS[0])])
    before = alone(model, renderer, prompt)
    adapters.attach(model, Lora(rank=4, alpha=64, dropout=0.0, num_layers=2, keys=["q_proj", "v_proj", "o_proj"]))
    mx.random.seed(1)
    tuned = {name: mx.random.normal(value.shape) for name, value in adapters.tensors(model).items()}
    from mlx.utils import tree_unflatten

    model.update(tree_unflatten(list(tuned.items())))
    assert alone(model, renderer, prompt) != before
    with adapters.scaled(model, 0):
        assert alone(model, renderer, prompt) == before

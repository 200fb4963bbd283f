"""Canaries: prompts, text and image, whose answers tell the tuned model from the base, whatever the run was about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from medtune import files
from medtune.errors import UserError
from medtune.evaluation import predictions
from medtune.records import IMAGE_MARKER, Message
from medtune.run import Run

EDGE = 256  # pixels; Qwen3-VL does not take very small images
TEXTS = (
    "血压 140/90 mmHg 是几级?需要吃药吗?",
    "孩子发烧 38.5℃,我很担心,该怎么办?",
    "最近总是很累,睡不好,是怎么回事?",
    "空腹血糖 7.2 mmol/L 说明什么?",
    "What does a systolic pressure of 145 mmHg mean?",
)
IMAGE_QUESTIONS = ("请看这张图片,它是什么?", "这张化验单有什么异常?")
FROM_RUN = 3  # prompts of the run's own evaluation, with and without image


@dataclass(frozen=True)
class Canary:
    """One prompt; ``other`` has images of the same sizes that show something else."""

    id: str
    messages: tuple[Message, ...]
    images: tuple[Path, ...] = ()
    other: tuple[Path, ...] = ()


def built_in(folder: Path, system_prompt: str, sees: bool = True) -> list[Canary]:
    """The canaries that need nothing but this file; images, for a model that ``sees``, are drawn into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    sheet, film = _sheet(folder / "sheet.png"), _film(folder / "film.png")
    system = (Message(role="system", content=system_prompt),) if system_prompt else ()
    texts = [Canary(f"text-{n}", (*system, Message(role="user", content=text))) for n, text in enumerate(TEXTS, 1)]
    pairs = zip(IMAGE_QUESTIONS, ((film, sheet), (sheet, film)), strict=True)
    images = [
        Canary(f"image-{n}", (*system, Message(role="user", content=IMAGE_MARKER + text)), (own,), (other,))
        for n, (text, (own, other)) in enumerate(pairs, 1)
    ]
    return texts + (images if sees else [])


def from_predictions(path: Path, folder: Path) -> list[Canary]:
    """Prompts of the run's evaluation, where it has one: nearer to what was trained than ours."""
    found: dict[bool, list[Canary]] = {False: [], True: []}
    for number, row in enumerate(predictions.read(path)[0], 1):
        images = tuple(map(Path, files.with_home(row["images"])))
        kind = found[bool(images)]
        if row["model"] == "tuned" and len(kind) < FROM_RUN and all(image.exists() for image in images):
            messages = tuple(Message(**message) for message in row["prompt"])
            _no_answer_last(path, number, messages)
            stem = files.hash_of(row["id"])[:12]  # an id holds the name of a raw file, which a receipt does not
            other = tuple(_mirrored(image, folder / f"{stem}-{n}.png") for n, image in enumerate(images))
            kind.append(Canary(f"test-{stem}", messages, images, other))
    return found[False] + found[True]


def _no_answer_last(path: Path, number: int, messages: tuple[Message, ...]) -> None:
    if not messages or messages[-1].role == "assistant":
        raise UserError(
            f"{path}:{number}: a prompt that ends with an answer; run `{Run(path.parent).command('test-model')}` again"
        )


def _sheet(path: Path) -> Path:
    """A sheet of figures, black on white."""
    image = Image.new("RGB", (EDGE, EDGE), "white")
    draw = ImageDraw.Draw(image)
    for row, text in enumerate(("CBC", "WBC   12.6  H", "RBC    4.51", "HGB    138", "PLT    226", "NEUT  82.1% H")):
        draw.text((16, 16 + 36 * row), text, fill="black", font_size=24)
    image.save(path)
    return path


def _film(path: Path) -> Path:
    """Two bright fields on a dark ground, as on a chest film."""
    image = Image.new("RGB", (EDGE, EDGE), (16, 16, 16))
    draw = ImageDraw.Draw(image)
    for left in (36, 140):
        draw.ellipse((left, 40, left + 80, 220), fill=(150, 150, 150))
    draw.ellipse((60, 150, 96, 186), fill=(235, 235, 235))
    image.save(path)
    return path


def _mirrored(source: Path, target: Path) -> Path:
    """Another picture of the same size: the negative of the source upside down."""
    from PIL import ImageOps

    with Image.open(source) as image:
        ImageOps.invert(ImageOps.flip(image.convert("RGB"))).save(target)
    return target

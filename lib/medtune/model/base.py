"""The base model: where its folder is, what its files say, and the model itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from medtune import files
from medtune.errors import UserError, raise_all
from medtune.i18n import tr
from medtune.model import families, guard, hub, libraries
from medtune.model.families import Family
from medtune.model.tensors import Shard

if TYPE_CHECKING:
    import mlx.nn as nn

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json")
IMAGES, PROCESSORS = "preprocessor_config.json", "processor_config.json"
PROCESSOR_FILES = (IMAGES, PROCESSORS)
PARTS = {IMAGES: "image_processor", "video_preprocessor_config.json": "video_processor"}  # of transformers 5's one file
ALLOW_DOWNLOAD = "MEDTUNE_ALLOW_DOWNLOAD"
LONGEST_TEMPLATE = 2**22  # bytes; the longest have some 20 KiB
SAMPLES, SAMPLE_BYTES = 64, 2**20  # of each weight file, hashed


def _checked(name: str, folder: Path) -> Base:
    if not (folder / "config.json").exists():
        raise UserError(tr("{folder}: not a model folder (no config.json); name the folder that has it", folder=folder))
    guard.check(folder)
    return Base(name, folder)


def _lmstudio_folder(key: str) -> Path | None:
    from medtune import lmstudio

    models = lmstudio.models_folder()
    return models / key if models else None


def _moved(name: str) -> Base | None:
    """The model in a path that is not here, of another machine perhaps, if LM Studio has one of the same name."""
    folder = Path(name).expanduser()
    if folder.is_dir() or len(folder.parts) < 3:  # what has fewer is a key or an id, which `find` knows
        return None
    place = _lmstudio_folder("/".join(folder.parts[-2:]))
    return _checked(name, place) if place and place.is_dir() else None


class NotHere(UserError):
    """No folder of this name; one that is there and refused is a UserError of another kind."""


@dataclass(frozen=True)
class Base:
    """A base model's folder, read lazily; hashes tell whether two stages speak of the same model."""

    name: str  # as the person wrote it
    path: Path

    @classmethod
    def find(cls, name: str) -> Base:
        """The base model called ``name``: a folder, a Hub id in the local cache, or an LM Studio key.

        Nothing is downloaded unless the environment says ``MEDTUNE_ALLOW_DOWNLOAD=1`` (`make train ALLOW_DOWNLOAD=1`).
        """
        folder = Path(name).expanduser()
        if folder.is_dir():
            return _checked(name, folder)
        looked = [str(folder)]
        if name.count("/") == 1 and not name.startswith((".", "/", "~")):
            for place in (_lmstudio_folder(name), hub.folder(name)):
                if place and place.is_dir():
                    return _checked(name, place)
                looked += [str(place)] if place else []
            if os.environ.get(ALLOW_DOWNLOAD) == "1":
                return _checked(name, hub.download(name))
        raise NotHere(
            tr(
                "{name}: no such model here (looked in {places}); download it in LM Studio, or run the same make "
                "command with ALLOW_DOWNLOAD=1",
                name=name,
                places=", ".join(looked),
            )
        )

    @classmethod
    def of_training(cls, results: dict[str, Any]) -> Base:
        """The base model that a training's results name; a UserError where its weights or template are others now."""
        name = results["base_model"]["name"]
        base = _moved(name) or cls.find(name)
        problems = []
        if base.weights_hash != results["base_model"]["hash"]:
            problems.append(tr("not the weights of the training"))
        if base.template_hash != results["template_hash"]:
            problems.append(tr("not the chat template of the training"))
        if problems:
            raise UserError(f"{base.path}: {', '.join(problems)}; " + tr("bring it back or train again"))
        return base

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json."""
        return files.read_object(self.path / "config.json")

    @cached_property
    def tokenizer_hash(self) -> str:
        """Hash of the files that decide how text becomes tokens."""
        return self._hash(TOKENIZER_FILES)

    @cached_property
    def processor_hash(self) -> str:
        """Hash of the files that decide how an image becomes patches."""
        return self._hash(PROCESSOR_FILES)

    @cached_property
    def template_hash(self) -> str:
        """Hash of the chat template's text."""
        return files.hash_of(self.chat_template)

    @cached_property
    def weights_hash(self) -> str:
        """Hash of config and weights: each file's size, header and 64 spread samples of 1 MiB.

        Reading all of a 17 GB model would cost a minute at every start; up to 64 MiB a file is read whole. A file that
        was cut short is a UserError.
        """
        shards = sorted(self.path.glob("[!.]*.safetensors"))
        if not shards:
            raise UserError(tr("{folder}: no *.safetensors weights; download the model again", folder=self.path))
        return files.hash_of([self.config, [[shard.name, _sampled_hash(shard)] for shard in shards]])

    @cached_property
    def chat_template(self) -> str:
        """The Jinja text of the conversation format, from wherever the model keeps it."""
        jinja = self.path / "chat_template.jinja"
        if jinja.exists():
            return files.read_text(jinja, LONGEST_TEMPLATE)
        for name in ("chat_template.json", "tokenizer_config.json", PROCESSORS):
            if (self.path / name).exists():
                template = files.read_object(self.path / name).get("chat_template")
                if isinstance(template, str):
                    return template
        raise UserError(tr("{folder}: no chat template; download the model again", folder=self.path))

    @property
    def quantization(self) -> dict[str, Any] | None:
        """config.json's quantization (bits, group_size, per-layer settings), None for a float model."""
        return self.config.get("quantization") or self.config.get("quantization_config")

    @cached_property
    def family(self) -> Family:
        """What its model_type stands for; a UserError where no family has it."""
        return families.of(self.config)

    @property
    def sees(self) -> bool:
        """Whether it has a vision tower; LM Studio tells by the same key."""
        return "vision_config" in self.config

    def processor_part(self, name: str) -> dict[str, Any] | None:
        """What the file ``name`` holds; transformers 5 writes it as a part of processor_config.json. None: nothing."""
        if (self.path / name).exists():
            return files.read_object(self.path / name)
        if name not in PARTS or not (self.path / PROCESSORS).exists():
            return None
        found = files.read_object(self.path / PROCESSORS).get(PARTS[name])
        return found if isinstance(found, dict) else None

    def processor(self) -> Any:
        """mlx-vlm's processor: ``.tokenizer`` and ``.image_processor``, the latter None for a text-only model."""
        with libraries.reading(self.path, lambda: libraries.damaged_tokenizer(self.path)):
            if self.sees:
                from mlx_vlm.utils import load_processor

                found = load_processor(self.path.resolve(), add_detokenizer=False, trust_remote_code=False)
            else:
                from transformers import AutoTokenizer

                tokenizer = AutoTokenizer.from_pretrained(self.path.resolve(), trust_remote_code=False)
                found = SimpleNamespace(tokenizer=tokenizer, image_processor=None)
        self._check_processor(found)
        return found

    def load(self) -> nn.Module:
        """The model, lazily loaded, in inference mode, in the dtype this machine computes in."""
        from medtune.model import runtime

        guard.check(self.path)
        _ = self.family  # known, or it is said here
        shards = [Shard.open(path) for path in self.path.glob("[!.]*.safetensors")]
        runtime.check_memory(sum(tensor.nbytes for shard in shards for tensor in shard.tensors))
        with libraries.reading(self.path):
            if self.sees:
                from mlx_vlm.utils import load_model

                model = load_model(self.path.resolve(), lazy=True, trust_remote_code=False)
            else:
                from mlx_lm.utils import load_model as load_text_model

                model, _ = load_text_model(self.path.resolve(), lazy=True, trust_remote_code=False)
        dtype = runtime.compute_dtype()
        if dtype is not None:
            model.set_dtype(dtype)
        model.eval()
        return model

    def _check_processor(self, found: Any) -> None:
        """Refuse a tokenizer that is slow or none, and patches of another size than the vision tower's."""
        problems = []
        if getattr(getattr(found, "tokenizer", None), "backend_tokenizer", None) is None:
            problems.append(tr("no tokenizer.json that can be used; download the model again"))
        if self.sees:
            problems += self._strange_tokens(found.tokenizer)
            tower, seen = self.config["vision_config"], getattr(found, "image_processor", None)
            for key, theirs in (
                ("patch_size", "patch_size"),
                ("temporal_patch_size", "temporal_patch_size"),
                ("merge_size", "spatial_merge_size"),
            ):
                here, wanted = getattr(seen, key, None), tower.get(theirs)
                if wanted is not None and here != wanted:
                    problems.append(
                        tr(
                            "the image processor's {key} is {found}, the vision tower's {wanted}; download the model "
                            "again",
                            key=key,
                            found=here,
                            wanted=wanted,
                        )
                    )
        raise_all(problems, str(self.path))

    def _strange_tokens(self, tokenizer: Any) -> Iterator[str]:
        """Of the tokens that stand for images and videos, which a text must not hold."""
        added, ids = (
            tokenizer.added_tokens_decoder,
            [self.config.get(key) for key in ("image_token_id", "video_token_id")],
        )
        if any(index is not None and index not in added for index in ids) or ids[0] == ids[1] is not None:
            yield tr(
                "image_token_id and video_token_id of config.json ({found}) are no two special tokens; download the "
                "model again",
                found=", ".join(map(str, ids)),
            )

    def _hash(self, names: tuple[str, ...]) -> str:
        return files.hash_of([[name, files.sha256(self.path / name)] for name in names if (self.path / name).exists()])


def _sampled_hash(shard: Path) -> str:
    import hashlib

    Shard.open(shard)  # whole, as far as its header tells: a download that broke off is said here, not by MLX
    size = shard.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    step = max(SAMPLE_BYTES, size // SAMPLES)
    with open(shard, "rb") as file:
        for offset in range(0, size, step):
            file.seek(offset)
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()

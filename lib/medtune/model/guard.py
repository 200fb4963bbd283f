"""A model folder as data: what must not stand in it, found before any library reads it.

mlx-vlm runs the file that config.json names as `model_file`, transformers what `auto_map` names; a pickle runs code
when it is opened. Nothing of that belongs to weights, so a folder that has it is refused, whatever it would do.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from medtune import files
from medtune.errors import UserError, raise_all
from medtune.i18n import Words, say
from medtune.model import modelfiles

CODE = (".py", ".pyc", ".pyo", ".pyd", ".so", ".dylib", ".dll")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".pdparams")
KEYS = ("auto_map", "model_file")  # of a JSON file: they name code
VOCABULARIES = ("tokenizer.json", "vocab.json")  # large, and no library looks for KEYS in them
MOST_FILES = 10_000  # a model has dozens
MOST_CONFIG = 2**26  # bytes of a JSON file that is no vocabulary: the largest index has 5 MiB
LARGEST = 2**29  # of a vocabulary or a template: the largest has 40 MiB
TEXTS = (".json", ".jinja", ".txt", ".model")
Problem = dict[str, Any]  # {"fault": code, "file": name, ...values}
SENTENCES: dict[str, Words] = {
    "code": {
        "en": "{file}: a program; a model folder has none, and one that needs it is not supported: remove it, or "
        "download a model without it",
        "zh": "{file}：是程序；模型文件夹里不该有程序，需要程序的模型不受支持：请删除它，或下载不带程序的模型",
    },
    "pickle": {
        "en": "{file}: a pickle, which runs code when it is opened; remove it, or download the model as safetensors",
        "zh": "{file}：pickle 文件，打开时会运行代码；请删除它，或下载 safetensors 格式的模型",
    },
    "runs_code": {
        "en": "{file}: {key} names a program ({found}) that would be run; remove the key, or download a model without "
        "it",
        "zh": "{file}：{key} 指定了会被运行的程序（{found}）；请删除此键，或下载不带程序的模型",
    },
    "leads_out": {
        "en": "{file}: a link out of the folder, to {target}; put a copy in its place",
        "zh": "{file}：指向文件夹之外（{target}）的链接；请换成文件本身",
    },
    "no_file": {
        "en": "{file}: a pipe, a device or a folder where a file belongs; download the model again",
        "zh": "{file}：应为文件，却是管道、设备或文件夹；请重新下载模型",
    },
    "name": {
        "en": "{file}: a name that is no UTF-8; rename it",
        "zh": "{file}：文件名不是 UTF-8；请改名",
    },
    "many": {
        "en": "more than {most} files: not a model folder",
        "zh": "文件超过 {most} 个：不是模型文件夹",
    },
    "large": {
        "en": "{file}: {size}, too large for such a file; download the model again",
        "zh": "{file}：{size}，对这种文件来说太大；请重新下载模型",
    },
    "damaged": {
        "en": "{error}; download the model again",
        "zh": "{error}；请重新下载模型",
    },
    "wrong": {
        "en": "{file}: {error}; download the model again",
        "zh": "{file}：{error}；请重新下载模型",
    },
}


def check(folder: Path, beside: Sequence[str] = ()) -> None:
    """Raise a UserError that names everything in ``folder`` that must not be there; see ``problems``."""
    raise_all(map(sentence, problems(folder, beside)), str(folder))


def sentence(problem: Problem) -> str:
    """What is said of a problem."""
    values = {key: value for key, value in problem.items() if key != "fault"}
    return say(SENTENCES[problem["fault"]], **values)


def problems(folder: Path, beside: Sequence[str] = ()) -> list[Problem]:
    """Programs, pickles but those called ``beside``, links that lead out, what is no file, and JSON files that say
    what no model says. Only small files are opened.
    """
    paths = list(islice(_inside(folder), MOST_FILES + 1))
    if len(paths) > MOST_FILES:
        return [{"fault": "many", "most": MOST_FILES}]
    found = [problem for path in paths for problem in _of_path(folder, path, beside)]
    refused = {problem["file"] for problem in found}
    texts = sorted(path for path in folder.iterdir() if path.suffix == ".json" and path.name not in refused)
    return found + [problem for path in texts for problem in _of_json(path)]


def _inside(folder: Path) -> Iterator[Path]:
    """Everything below the folder but what is hidden (a checkout's .git, a download's .cache); links are not followed.

    What Macs leave on foreign disks (``._*``) is hidden too.
    """
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _inside(path)


def _of_path(folder: Path, path: Path, beside: Sequence[str]) -> Iterator[Problem]:
    name = str(path.relative_to(folder))
    if not _is_utf8(name):
        yield {"fault": "name", "file": ascii(name)}
        return
    if path.is_symlink() and not _stays(folder, path):
        yield {"fault": "leads_out", "file": name, "target": os.readlink(path)}
        return
    top, suffix = path.parent == folder, path.suffix.lower()
    if suffix in CODE and not path.is_dir():
        yield {"fault": "code", "file": name}
    if top and suffix in PICKLES and path.name not in beside:  # deeper down no library looks for weights
        yield {"fault": "pickle", "file": name}
    if path.exists() and not _is_file(path) and (not path.is_dir() or (top and suffix in (*TEXTS, ".safetensors"))):
        yield {"fault": "no_file", "file": name}
    elif top and suffix in TEXTS and path.exists() and path.stat().st_size > _most(path):
        yield {"fault": "large", "file": name, "size": files.megabytes(path.stat().st_size)}


def _most(path: Path) -> int:
    return LARGEST if path.name in VOCABULARIES or path.suffix != ".json" else MOST_CONFIG


def _is_utf8(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _is_file(path: Path) -> bool:
    return stat.S_ISREG(path.stat().st_mode)


def _stays(folder: Path, link: Path) -> bool:
    """Whether a link ends in the folder, or in the cache of the very model whose snapshot the folder is."""
    try:
        home, target = folder.resolve(), link.resolve()
    except (OSError, RuntimeError):  # a link to itself
        return False
    cache = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    return target.is_relative_to(home) or target.is_relative_to(cache)


def _of_json(path: Path) -> Iterator[Problem]:
    if not path.is_file():
        return
    if path.name in VOCABULARIES:
        return
    try:
        found = files.read_json(path)
    except UserError as error:
        if path.name in modelfiles.FILES:
            yield {"fault": "damaged", "file": path.name, "error": str(error)}
        return
    for key, value in _named(found):
        yield {"fault": "runs_code", "file": path.name, "key": key, "found": str(value)[:80]}
    for error in modelfiles.problems(path.name, found):
        yield {"fault": "wrong", "file": path.name, "error": error}


def _named(found: Any) -> Iterator[tuple[str, Any]]:
    """Keys that name code, however deep."""
    waiting = [found]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            yield from ((key, said) for key, said in value.items() if key in KEYS and said not in (None, "", {}, []))
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value

"""L0: the folder's files, against LM Studio's rules and against the base they come from."""

from __future__ import annotations

from medtune.deployment import folder
from medtune.deployment.proof import Subject, Verdict, lint
from medtune.i18n import Words

NAME: Words = {"en": "files", "zh": "文件"}
AFTER_COMMIT = False
FIGURES: Words = {"en": "{problems} problems", "zh": "{problems} 个问题"}
SENTENCES: dict[str, Words] = {
    **lint.SENTENCES,
    "not_the_bases": {"en": "{file}: not the base's own", "zh": "{file}：不是基础模型自己的"},
    "other_template": {
        "en": "the chat template is not the one of the training",
        "zh": "对话模板不是训练时的那个",
    },
}


def check(subject: Subject) -> Verdict:
    """Failed with every fault; passed when the files are the base's own and the template the training's."""
    found = lint.problems(subject.folder)
    found += [
        {"fault": "not_the_bases", "file": name}
        for name in folder.VERBATIM
        if not folder.is_the_bases(subject.base, subject.folder, name)
    ]
    if set(folder.template_of(subject.folder).values()) != {subject.template}:
        found.append({"fault": "other_template"})
    return Verdict.of(found, {"problems": len(found)})

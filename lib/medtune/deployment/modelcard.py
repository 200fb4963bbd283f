"""README.md of a deployed model: what it is made of, what was measured, what it must not be used for."""

from __future__ import annotations

from typing import Any

import yaml

from medtune.data.licenses import LICENSES
from medtune.i18n import tr
from medtune.receipt import Receipt
from medtune.schemas import Source

NOT_MEASURED = "-"


def write(
    key: str,
    training: Receipt,
    evaluation: Receipt | None,
    manifest: Receipt | None,
    matrices: str,
    sees: bool = True,
) -> str:
    """The card as Markdown with Hugging Face's metadata; a figure that was not measured is a dash."""
    results = training.results
    parts = [
        "---\n" + yaml.safe_dump(_metadata(results, manifest, sees), allow_unicode=True, sort_keys=False) + "---\n",
        f"# {key.partition('/')[2]}\n",
        tr("Fine-tuned with medtune on {base}. A research aid, not a medical device.", base=_base(results)) + "\n",
        _section(tr("Made of"), _made_of(training, manifest, matrices)),
        _section(tr("Measured"), _measured(evaluation)),
        _section(tr("Limits"), _limits(manifest, sees)),
        _section(tr("Use"), _use(key, sees)),
    ]
    return "\n".join(parts)


def _base(results: dict[str, Any]) -> str:
    """The base model's name; of a folder only its last part, since a path would tell the person's name."""
    name = results["base_model"]["name"]
    return name.rstrip("/").rpartition("/")[2] if name.startswith((".", "/", "~")) else name


def _license(manifest: Receipt | None) -> str:
    return manifest.results.get("license", "unknown") if manifest else "unknown"


def _metadata(results: dict[str, Any], manifest: Receipt | None, sees: bool) -> dict[str, Any]:
    spdx = _license(manifest).lower()
    listed = spdx == "unknown" or (spdx in LICENSES and " " not in spdx)  # Hugging Face's own names have no spaces
    return {
        **({"license": spdx} if listed else {"license": "other", "license_name": _license(manifest)}),
        "base_model": _base(results),
        "base_model_relation": "finetune",
        "pipeline_tag": "image-text-to-text" if sees else "text-generation",
        "library_name": "mlx",
        "language": ["zh", "en"],
        "tags": ["mlx", "medical", "lora"],
    }


def _section(title: str, lines: list[str]) -> str:
    return f"## {title}\n\n" + "\n".join(lines) + "\n"


def _made_of(training: Receipt, manifest: Receipt | None, matrices: str) -> list[str]:
    results = training.results
    lora = results["lora"]
    said = [
        tr("base model: {name}, weights {hash}", name=_base(results), hash=results["base_model"]["hash"][:12]),
        tr(
            "adapters: rank {rank}, scale {scale}, {n} matrices",
            rank=lora["rank"],
            scale=lora["scale"],
            n=len(lora["keys"]),
        ),
        tr("stored: {matrices}; every other tensor is the base's, bit for bit", matrices=matrices),
        tr("training finished {when}, commit {commit}", when=training.finished, commit=training.commit[:12]),
        tr(
            "license of the data (the strictest source): {license}; the base model's own applies as well",
            license=_license(manifest),
        ),
    ]
    sources = manifest.results.get("sources", []) if manifest else []
    said += [
        tr("source {n}: {records} records, {license}", n=n, records=source["records"], license=source["license"])
        for n, source in enumerate(sources, 1)  # not by name: a raw file may be called after a patient
    ]
    return [f"- {line}" for line in said]


def _measured(evaluation: Receipt | None) -> list[str]:
    if evaluation is None:
        return [tr("Not measured: `make test-model` was not run.")]
    rows = evaluation.results["dimensions"]
    head = [f"| | n | {tr('before')} | {tr('after')} | {tr('difference')} (95 %) |", "|---|---:|---:|---:|---|"]
    return head + [
        f"| {tr(name)} | {row['n']} | {_score(row['baseline'])} | {_score(row['tuned'])} "
        f"| {_score(row['delta'])} [{_score(row['ci_low'])}, {_score(row['ci_high'])}] |"
        for name, row in rows.items()
    ]


def _score(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:.3f}"


def _standards(manifest: Receipt | None) -> str:
    """The standards that the sources of the data name, in their order."""
    sources = [Source.model_validate(source) for source in manifest.config["sources"]] if manifest else []
    named = dict.fromkeys(name for source in sources for name in source.standards)
    if not named:
        return tr("Reference ranges and gradings follow its data, which name no standard; guidelines change.")
    return tr("Reference ranges and gradings follow: {standards}. Guidelines change.", standards=", ".join(named))


def _limits(manifest: Receipt | None, sees: bool) -> list[str]:
    images = (
        tr("It reads photographs of reports and standard images; it was not tested as a diagnostic reader of films."),
        tr("Images are shrunk by LM Studio to its own limit (1024 pixels by default) before the model sees them."),
    )
    said = (
        tr(
            "It can be wrong, also where it sounds sure. It does not replace a doctor; in an emergency call 120 or 112."
        ),
        *(images if sees else ()),
        _standards(manifest),
    )
    return [f"- {line}" for line in said]


def _use(key: str, sees: bool) -> list[str]:
    return [
        tr("LM Studio: My Models, choose `{key}`, in the chat's sidebar the preset of the same name.", key=key),
        "",
        "```sh",
        *(["mlx_vlm.server --model . --host 127.0.0.1 --port 8080   # text and images, OpenAI API"] if sees else []),
        "mlx_lm.server --model . --host 127.0.0.1 --port 8080    # text only",
        "```",
    ]

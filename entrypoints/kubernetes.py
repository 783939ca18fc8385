"""`kubernetes`: writes the project as MLflow's Kubernetes backend wants it: the same entry points with
`docker_env` in place of `python_env`, each run through `entrypoints.pod`. See docs/KUBERNETES.md.

python -m entrypoints.kubernetes --image registry.example.org/framework-study:1
"""

from __future__ import annotations

import re
from pathlib import Path

import click

from entrypoints import terminal
from entrypoints.options import Command
from entrypoints.processes import ROOT
from measurement.errors import InputError
from tracking import write

NONE = "none"
_ENVIRONMENT = "python_env: python_env.yaml\n"
_COMMAND = 'command: "python -m entrypoints.'
_IMAGE = re.compile(
    r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+:\w[\w.-]{0,127}"
)


def project(text: str, image: str) -> str:
    """The MLproject `text` for pods of `image`. Raises InputError for what is no image with a tag."""
    if not _IMAGE.fullmatch(image):
        raise InputError(
            f"image='{image}': expected registry, name and tag, as in "
            "registry.example.org/framework-study:1"
        )
    assert text.count(_ENVIRONMENT) == 1
    assert text.count(_COMMAND) == text.count("command:")
    text = text.replace(_ENVIRONMENT, f"docker_env:\n  image: {image}\n")
    return text.replace(_COMMAND, 'command: "python -m entrypoints.pod entrypoints.')


@click.command(
    cls=Command,
    help=__doc__,
    example="mlflow run . -e kubernetes -P image=registry.example.org/framework-study:1",
)
@click.option(
    "--image", default=NONE, show_default=True, help="with registry and tag, in the registry"
)
@click.option("--output", default="mlruns/kubernetes", show_default=True, help="folder, made new")
def main(image: str, output: str) -> None:
    text, folder = project((ROOT / "MLproject").read_text(), image), Path(output)
    write.adopt("kubernetes", f"kubernetes {image}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "MLproject").write_text(text)
    except OSError as error:
        raise InputError(
            f"cannot write to '{folder}' ({error.strerror}); expected a folder that can be written, "
            "give another as output"
        ) from None
    click.echo(
        f"{folder / 'MLproject'}; start a job with\n"
        f"  KUBE_MLFLOW_TRACKING_URI=http://SERVER:5000 mlflow run {folder} --backend kubernetes "
        "--backend-config deploy/kubernetes/kubernetes_config.json -e study -P name=NAME"
    )
    terminal.result(folder=folder, image=image)


if __name__ == "__main__":
    main()

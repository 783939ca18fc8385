"""What is refused of a model that somebody else may have made, without loading it."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from served import FRAMEWORKS, write_trial

from measurement.errors import InputError
from serving import exported, inspection, log


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """framework -> a model as a trial logs it."""
    found = {}
    for framework in FRAMEWORKS:
        folder = tmp_path_factory.mktemp(framework)
        log.save_model(write_trial(folder / "trial", framework), folder / "model")
        found[framework] = folder / "model"
    return found


class Payload:
    """A pickle of it runs a command where it is loaded."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("true",)


def rewritten(path: Path, name: str, content: Callable[[bytes], bytes]) -> None:
    """A zip archive with one member changed, or added."""
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: archive.read(member) for member in archive.infolist()}
    found = next((known for known in members if known.endswith(name)), name)
    members[found] = content(members.get(found, b""))
    with zipfile.ZipFile(path, "w") as archive:
        for known, data in members.items():
            archive.writestr(known, data)


def example_with(payload: bytes) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w") as new:
            for member in old.infolist():
                is_pickle = member.filename.endswith("data.pkl")
                new.writestr(member.filename, payload if is_pickle else old.read(member))
        return stream.getvalue()

    return change


def test_what_a_trial_logs_passes(models: dict[str, Path]) -> None:
    for folder in models.values():
        inspection.check(folder)


GRAPH = "data/model.pt2"
SPOILT: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "pickled example": (
        "pytorch",
        lambda f: rewritten(f / GRAPH, "sample_inputs/model.pt", example_with(pickle.dumps(Payload()))),
        "imports",
    ),
    "old pickle": (
        "pytorch",
        lambda f: rewritten(
            f / GRAPH, "sample_inputs/model.pt", example_with(pickle.dumps(Payload(), protocol=0))
        ),
        "imports .*system",
    ),
    "pickled weights": (
        "pytorch",
        lambda f: rewritten(
            f / GRAPH, "model_weights_config.json", lambda c: c.replace(b"false", b"true")
        ),
        "asks for a pickle",
    ),
    "object": (
        "pytorch",
        lambda f: rewritten(f / GRAPH, "model/data/constants/custom_obj_0", lambda _: b"x"),
        "PyTorch does not write there",
    ),
    "pickled model": (
        "pytorch", lambda f: (f / "data" / "model.pth").write_bytes(b"x"), "no model of this project"
    ),
    "loader": (
        "pytorch",
        lambda f: (f / "MLmodel").write_text(
            (f / "MLmodel").read_text().replace("loader_module: mlflow.pytorch", "loader_module: os")
        ),
        "not loaded by",
    ),
    "another flavour": (
        "mlx",
        lambda f: (f / "MLmodel").write_text("flavors: {python_function: {}, sklearn: {}}"),
        "flavours",
    ),
    "code": ("mlx", lambda f: (f / "code/serving/mlx_flavor.py").write_text("1"), "would be run"),
    "more code": ("mlx", lambda f: (f / "code/serving/more.py").write_text("import os\n#x"), "would be run"),
    "requirements": (
        "mlx",
        lambda f: (f / "requirements.txt").write_text("--index-url http://x\nmlx==1"),
        "requirements",
    ),
    "link": ("mlx", lambda f: (f / "data" / "more").symlink_to("/etc/passwd"), "a link"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILT)
def test_what_could_run_code_is_refused_by_name(
    name: str, models: dict[str, Path], tmp_path: Path
) -> None:
    framework, spoil, said = SPOILT[name]
    folder = tmp_path / "model"
    for path in models[framework].rglob("*"):
        if path.is_file():
            place = folder / path.relative_to(models[framework])
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
    spoil(folder)
    with pytest.raises(InputError, match=said):
        inspection.check(folder)


def test_a_graph_says_no_folder_of_the_machine_that_made_it(models: dict[str, Path]) -> None:
    content = (models["pytorch"] / GRAPH).read_bytes()
    assert (
        b"stack_trace" not in content
        and str(Path(exported.__file__).parents[1]).encode() not in content
    )

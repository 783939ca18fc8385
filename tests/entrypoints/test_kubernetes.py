"""MLflow's Kubernetes backend takes our project, image and template as far as a cluster's door; the
Job that comes out is run here as its node would run it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
import yaml
from click.testing import CliRunner
from mlflow.tracking import MlflowClient

from benchmarks import stores
from entrypoints import commands, pod
from entrypoints import kubernetes as command
from measurement import machine
from measurement.errors import InputError
from tests.entrypoints import cluster
from tests.entrypoints.conftest import ROOT, use_store
from tests.entrypoints.test_mlproject import ENTRIES

client = pytest.importorskip("kubernetes.client", reason="kubernetes is not installed")
pytest.importorskip("docker", reason="docker is not installed")

Run = Callable[..., tuple[int, str, str]]

DEPLOY = ROOT / "deploy/kubernetes"
IMAGE = "registry.example.org/team/framework-study:1"
TEMPLATES = {name: yaml.safe_load((DEPLOY / name).read_text())
             for name in ("job.yaml", "job-nvidia.yaml")}  # fmt: skip
SMOKE = {
    "preset": "smoke",
    "dataset": "synthetic",
    "device": "cpu",
    "compile": "off",
    "epochs": "1",
}


def pod_of(job: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = job["spec"]["template"]["spec"]
    return found


# --- the files


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_holds_only_what_kubernetes_knows(name: str) -> None:
    """Read into the client's model classes and back, nothing is lost: no field is misspelt."""
    api, template = client.ApiClient(), TEMPLATES[name]
    read = api.deserialize(SimpleNamespace(data=json.dumps(template)), "V1Job")
    assert isinstance(read, client.V1Job)
    assert api.sanitize_for_serialization(read) == template
    template = json.loads(json.dumps(template).replace("restartPolicy", "restartPolicies"))
    wrong = api.deserialize(SimpleNamespace(data=json.dumps(template)), "V1Job")
    assert api.sanitize_for_serialization(wrong) != template


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_measurement_is_not_repeated_nor_disturbed(name: str) -> None:
    spec, found = TEMPLATES[name]["spec"], pod_of(TEMPLATES[name])
    assert (spec["backoffLimit"], found["restartPolicy"]) == (0, "Never")
    (container,) = found["containers"]
    resources = container["resources"]
    assert resources["requests"] == resources["limits"]
    assert resources["limits"]["cpu"].isdecimal()  # whole cores: the static CPU manager gives them
    (apart,) = found["affinity"]["podAntiAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]
    assert apart["labelSelector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
    assert {volume["name"] for volume in found["volumes"]} == {
        mount["name"] for mount in container["volumeMounts"]
    }


def test_the_templates_differ_in_the_gpu_only() -> None:
    plain, nvidia = (TEMPLATES[name] for name in ("job.yaml", "job-nvidia.yaml"))
    resources = pod_of(nvidia)["containers"][0]["resources"]
    assert resources["requests"].pop("nvidia.com/gpu") == "1"
    assert resources["limits"].pop("nvidia.com/gpu") == "1"
    assert plain == nvidia


def test_the_node_is_the_machine() -> None:
    values = {v["name"]: v for v in pod_of(TEMPLATES["job.yaml"])["containers"][0]["env"]}
    assert list(values)[0] == "NODE_NAME"  # before the one that refers to it
    assert values["NODE_NAME"]["valueFrom"]["fieldRef"]["fieldPath"] == "spec.nodeName"
    assert values[machine.IDENTITY]["value"] == "cluster/$(NODE_NAME)"


def test_the_image_is_made_from_what_is_here() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    python = yaml.safe_load((ROOT / "python_env.yaml").read_text())["python"]
    assert f"FROM python:{python}-" in text
    copied = re.findall(r"^COPY ([\w.]+ [\w.]+) \./$", text, re.M)
    assert copied and all((ROOT / name).is_file() for name in copied[0].split())
    home = re.search(r"WORKDIR (/home/study)/", text)
    mounts = pod_of(TEMPLATES["job.yaml"])["containers"][0]["volumeMounts"]
    assert home and mounts[0]["mountPath"] == f"{home.group(1)}/.cache"
    ignored = set((DEPLOY / "Dockerfile.dockerignore").read_text().split())
    for line in (ROOT / ".gitignore").read_text().split():
        assert {line, line.rstrip("/"), f"**/{line.rstrip('/')}"} & ignored, line


# --- the project and its commands


def test_the_project_for_pods_has_the_same_entry_points() -> None:
    found = yaml.safe_load(command.project((ROOT / "MLproject").read_text(), IMAGE))
    assert "python_env" not in found and found["docker_env"] == {"image": IMAGE}
    assert re.fullmatch("[a-z0-9-]+", found["name"])  # also a container's and a job's name
    assert found["entry_points"].keys() == ENTRIES.keys()
    for name, entry in found["entry_points"].items():
        assert entry.get("parameters") == ENTRIES[name].get("parameters")
        module = shlex.split(ENTRIES[name]["command"])[2]
        assert shlex.split(entry["command"])[:4] == ["python", "-m", "entrypoints.pod", module]


@pytest.mark.parametrize("image", ["none", "", "framework-study", "r.org/study", "r.org/Study:1",
                                   "r.org/s:1 x", f"r.org/s@{cluster.DIGEST}", "r.org/s:1\nx"])  # fmt: skip
def test_what_is_no_image_with_a_tag_is_one_line(image: str, run: Run, store: Path) -> None:
    code, _, err = run("kubernetes", "--image", image, "--output", "out")
    assert code == 2 and err.startswith("Error: image=") and err.count("\n") == 1
    assert not Path("out").exists()


def test_a_folder_that_cannot_be_written_is_one_line(run: Run, store: Path) -> None:
    Path("file").write_text("")
    code, _, err = run("kubernetes", "--image", IMAGE, "--output", "file")
    assert code == 2 and "cannot write to 'file'" in err


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_pod_reads_every_command_as_it_was_meant(entry: str) -> None:
    """MLflow quotes words for a shell that is not there; `pod` takes the quotes off again."""
    from mlflow.projects._project_spec import EntryPoint
    from mlflow.projects.kubernetes import _get_run_command

    parameters = ENTRIES[entry].get("parameters", {})
    project = yaml.safe_load(command.project((ROOT / "MLproject").read_text(), IMAGE))
    point = EntryPoint(entry, parameters, project["entry_points"][entry]["command"])
    odd = {"arms": "mlx compile=off, pytorch", "output": "it's a folder"}
    given = {name: value for name, value in odd.items() if name in parameters}
    words = _get_run_command([point.compute_command(given, None)])
    assert words[:3] == ["python", "-m", "entrypoints.pod"]
    assert not given or any(word.startswith("'") for word in words)
    plain = [pod.unquoted(word) for word in words[4:]]
    options = plain[next((i for i, word in enumerate(plain) if word.startswith("--")), 0) :]
    context = commands.load(entry).make_context(entry, options)
    assert {name: context.params[name] for name in given} == given


@pytest.mark.parametrize(
    ("address", "good"),
    [
        ("http://mlflow.study.svc:5000", True),
        ("https://user:secret@mlflow.example.org", True),
        ("postgresql://db.study.svc/mlflow", True),
        ("", False),
        ("sqlite:////home/someone/mlflow.db", False),
        ("/home/someone/mlruns", False),
        ("file:///home/someone/mlruns", False),
        ("http://localhost:5000", False),
        ("http://127.0.0.1:5000", False),
    ],
)
def test_runs_that_would_be_lost_with_the_pod_are_refused(address: str, good: bool) -> None:
    if good:
        pod.check_address(address)
        return
    with pytest.raises(InputError, match="set KUBE_MLFLOW_TRACKING_URI"):
        pod.check_address(address)


def test_only_commands_of_the_project_run_in_a_pod(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.study.svc:5000")
    code, _, err = run("pod", "os.path", "--name", "x")
    assert code == 2 and "'os.path' is no command of this project" in err


# --- mlflow run --backend kubernetes


@pytest.fixture(scope="module")
def submitted(
    empty_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SimpleNamespace]:
    """A trial sent to the fake cluster by `mlflow run`; the Job's command then runs on this machine."""
    from mlflow.cli import cli
    from mlflow.projects.kubernetes import KubernetesSubmittedRun

    folder = tmp_path_factory.mktemp("cluster")
    finished: list[subprocess.CompletedProcess[str]] = []

    def run(job: cluster.Job) -> bool:
        """As a node would: only the Job's own variables, and one that the node fills in."""
        (container,) = pod_of(job)["containers"]
        given = {v["name"]: v["value"] for v in container["env"] if "value" in v}
        given[machine.IDENTITY] = given[machine.IDENTITY].replace("$(NODE_NAME)", "node-7")
        given["MLFLOW_TRACKING_URI"] = address  # the name of the service is known in a cluster only
        kept = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
        # `pod` refuses this machine's own address, and rightly: here it stands for a service.
        code = "from entrypoints import pod; pod.check_address = print; pod.main()"
        words = [sys.executable, "-c", code]
        finished.append(
            subprocess.run([*words, *container["command"][3:]], cwd=folder, text=True,
                           env={**kept, **given, "PYTHONPATH": str(ROOT)}, capture_output=True)
        )  # fmt: skip
        return finished[-1].returncode == 0

    made = cluster.Cluster(IMAGE, run)
    with pytest.MonkeyPatch.context() as patch, cluster.serving(made) as port:
        path = use_store(empty_store, folder, patch)
        for name, value in cluster.configure(folder, port).items():
            patch.setenv(name, value)
        # The client reads KUBECONFIG when it is imported, which it is by now.
        place = "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"
        patch.setattr(place, os.environ["KUBECONFIG"])
        patch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("KUBE_MLFLOW_TRACKING_URI", "http://mlflow.study.svc:5000")
        patch.setattr(KubernetesSubmittedRun, "POLL_STATUS_INTERVAL", 0.1)
        project = folder / "project"
        command.main.main(["--image", IMAGE, "--output", str(project)])
        settings = json.loads((DEPLOY / "kubernetes_config.json").read_text())
        settings["kube-job-template-path"] = str(ROOT / settings["kube-job-template-path"])
        (folder / "settings.json").write_text(json.dumps(settings))
        with stores.server(f"sqlite:///{path}", folder) as address:
            patch.setenv("MLFLOW_TRACKING_URI", address)
            mlflow.set_tracking_uri(None)
            words = ["run", str(project), "--backend", "kubernetes", "-e", "mnist_mlx",
                     "--backend-config", str(folder / "settings.json")]  # fmt: skip
            for name, value in SMOKE.items():
                words += ["-P", f"{name}={value}"]
            done = CliRunner().invoke(cli, words)
            yield SimpleNamespace(
                done=done, cluster=made, finished=finished, client=MlflowClient(address)
            )
    mlflow.set_tracking_uri(None)


@pytest.mark.slow
def test_the_job_is_our_template_filled_in(submitted: SimpleNamespace) -> None:
    (job,) = submitted.cluster.jobs
    assert any("POST /apis/batch/v1/namespaces/default/jobs" in c for c in submitted.cluster.calls)
    (container,) = pod_of(job)["containers"]
    assert container["image"] == f"{IMAGE}@{cluster.DIGEST}"
    assert container["command"][:6] == [
        "python", "-m", "entrypoints.pod", "entrypoints.trial", "mnist", "mlx",
    ]  # fmt: skip
    variables = {v["name"]: v.get("value") for v in container["env"]}
    (run,) = submitted.client.search_runs(["0"])
    assert variables["MLFLOW_RUN_ID"] == run.info.run_id
    assert variables["MLFLOW_TRACKING_URI"] == "http://mlflow.study.svc:5000"
    assert variables["MLFLOW_EXPERIMENT_ID"] == "0"
    assert variables[machine.IDENTITY] == "cluster/$(NODE_NAME)"
    assert re.fullmatch(r"framework-study-[\d-]+", job["metadata"]["name"])
    template = json.loads(json.dumps(TEMPLATES["job.yaml"]))
    for found in (job, template):  # what MLflow may change, and nothing else
        del found["metadata"]["name"]
        for key in ("name", "image", "command", "env"):
            pod_of(found)["containers"][0].pop(key, None)
    assert job == template


@pytest.mark.slow
def test_the_image_is_pushed_before_the_job_is_made(submitted: SimpleNamespace) -> None:
    kinds = [c.rpartition("/")[2] for c in submitted.cluster.calls if c.startswith("POST")]
    assert kinds == ["push", "jobs"]


@pytest.mark.slow
def test_the_command_of_the_job_is_a_trial_in_the_run_that_mlflow_made(
    submitted: SimpleNamespace,
) -> None:
    (process,) = submitted.finished
    assert process.returncode == 0, process.stderr
    assert submitted.done.exit_code == 0, submitted.done.output
    (run,) = submitted.client.search_runs(["0"])
    assert (run.info.status, run.data.tags["kind"]) == ("FINISHED", "trial")
    assert run.data.tags["mlflow.project.backend"] == "kubernetes"
    assert run.data.params["dataset"] == "synthetic" and run.data.params["preset"] == "smoke"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(machine.IDENTITY, "cluster/node-7")
        assert run.data.tags["machine"] == machine.fingerprint()

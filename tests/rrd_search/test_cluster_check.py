"""The shipped cluster files are fine; each broken variant is refused in one line that names the place and what
would be right."""

import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import yaml
from broken_cluster_files import AWS, CASES, KUBERAY, OTHERS, OWN, SLURM

from rrd_search.cluster_check import main
from rrd_search.cluster_files import aws, commands
from rrd_search.cluster_files.kubernetes import schemas
from rrd_search.cluster_files.network_policy import selects

ROOT = Path(__file__).parents[2]
SHIPPED = {
    AWS: r"ok so far \(ray up on AWS in us-west-2: head m7i\.xlarge; .*gpu_spot 0 to 8 \(.*, spot\)\)",
    OWN: r"ok so far \(ray up on own servers: head 192\.0\.2\.10 and 2 workers\)",
    KUBERAY: r"ok so far \(KubeRay, RayJob rrd-search: gpu 0 to 8; .*NetworkPolicy rrd-search\)",
    SLURM: r"ok \(Slurm batch script: nodes 2, time 24:00:00\)",
}
LEFT = {AWS: "ami-0123456789abcdef0.*BUCKET", OWN: r"192\.0\.2\.11", KUBERAY: "REGISTRY.*BUCKET", SLURM: None}


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[Path], str]:
    """Checks a file, and returns the one line with which it is refused."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HOME", str(tmp_path))

    def run(file: Path) -> str:
        assert main([str(file)]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith(f"error: {file}: ")
        assert said.err.count("\n") == 1
        return said.err.removeprefix(f"error: {file}: ").rstrip()

    return run


@pytest.mark.parametrize("case", CASES)
def test_a_broken_variant_is_refused(case: str, tmp_path: Path, refused: Callable[[Path], str]) -> None:
    broken = CASES[case]
    text = (ROOT / broken.file).read_text()
    assert broken.old in text, "the shipped file has changed"
    file = tmp_path / Path(broken.file).name
    file.write_text(text.replace(broken.old, broken.new))
    said = refused(file)
    assert re.search(broken.said, said), said


@pytest.mark.parametrize("case", OTHERS)
def test_files_of_no_kind_are_refused(case: str, tmp_path: Path, refused: Callable[[Path], str]) -> None:
    name, content, expected = OTHERS[case]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    said = refused(tmp_path / name)
    assert re.search(expected, said), said


def test_a_file_that_is_not_there(tmp_path: Path, refused: Callable[[Path], str]) -> None:
    assert refused(tmp_path / "cluster.yml") == "No such file or directory"
    assert refused(tmp_path) == "Is a directory"


@pytest.mark.parametrize("file", SHIPPED)
def test_the_shipped_files_are_fine(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main([file]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert said.err == ""
    assert re.fullmatch(f"{file}: {SHIPPED[file]}", lines[0])
    left = [line for line in lines if "still to be filled in" in line]
    assert bool(left) == bool(LEFT[file])
    assert not left or re.search(LEFT[file], left[0]), left
    if file in (AWS, OWN):
        assert "not on this machine yet" in lines[-1]
        assert "~/.ray/auth_token (ray get-auth-token --generate)" in lines[-1]


def test_a_filled_in_file_has_nothing_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    text = (ROOT / AWS).read_text().replace("BUCKET", "our-bucket").replace("0123456789abcdef0", "0a1b2c3d4e5f60718")
    (tmp_path / AWS).write_text(text)
    assert main([str(tmp_path / AWS)]) == 0
    assert "still to be filled in" not in capsys.readouterr().out


def test_token_mode_where_ray_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = (ROOT / OWN).read_text().replace("- bash ~/rrd_search/cluster/node.sh", "- echo")
    (tmp_path / "own.yaml").write_text(text.replace("; ray start", "; export RAY_AUTH_MODE=token; ray start"))
    assert main([str(tmp_path / "own.yaml")]) == 0


def test_several_problems_are_one_line(tmp_path: Path, refused: Callable[[Path], str]) -> None:
    text = (ROOT / AWS).read_text().replace("Encrypted: true", "Encrypted: false").replace("required", "optional")
    (tmp_path / AWS).write_text(text)
    said = refused(tmp_path / AWS)
    assert said.count("; ") >= 5
    assert said.endswith("and 1 more")


def test_without_botocore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[[Path], str]) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "botocore"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "botocore", None)
    aws.regions.cache_clear()
    aws.run_instances.cache_clear()
    assert "make install EXTRAS=aws" in refused(ROOT / AWS)


def test_as_a_command(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text((ROOT / OWN).read_text().replace("192.0.2.12]", "192.0.2.11]"))
    command = [sys.executable, "-m", "rrd_search.cluster_check", *SHIPPED, str(tmp_path / "bad.yaml"), "nowhere.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert [line.partition(":")[0] for line in done.stdout.splitlines() if ": ok" in line] == [*SHIPPED]
    assert done.stderr.splitlines() == [
        f"error: {tmp_path}/bad.yaml: provider.worker_ips: 192.0.2.11 is there twice",
        "error: nowhere.yaml: No such file or directory",
    ]


def test_the_makefile_checks_what_is_shipped() -> None:
    made = subprocess.run(["make", "--dry-run", "cluster-check"], cwd=ROOT, capture_output=True, text=True)
    assert f"-m rrd_search.cluster_check {' '.join(SHIPPED)}\n" in made.stdout


def test_options_of_ray_start_are_rays() -> None:
    """Those that click has: 44 of Ray 2.60, and its source is read for them."""
    known = commands.ray_start_options()
    assert len(known) > 40
    assert {"head", "address", "dashboard-host", "node-ip-address", "autoscaling-config", "block", "no-monitor"} < known


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [
        ({}, True),
        ({"matchLabels": {"a": "1"}}, True),
        ({"matchLabels": {"a": "2"}}, False),
        ({"matchLabels": {"any": "7"}}, True),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, True),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["2"]}]}, False),
        ({"matchExpressions": [{"key": "b", "operator": "In", "values": ["2"]}]}, False),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, False),
    ],
)
def test_selectors(selector: dict[str, object], chosen: bool) -> None:
    assert selects(selector, {"a": "1", "any": "*"}) == chosen


def test_the_schema_of_a_crd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CRD as the operator's: strict, amounts as numbers or texts, and what occurs twice is there once."""
    pod = {
        "type": "object",
        "required": ["image"],
        "properties": {
            "image": {"type": "string", "description": "long"},
            "memory": {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    }
    spec = {"type": "object", "properties": {"head": pod, "workers": {"type": "array", "items": pod}}}
    whole = {"type": "object", "properties": {"spec": spec, "status": {"type": "object"}, "kind": {}, "apiVersion": {}}}
    version = {"name": "v1", "schema": {"openAPIV3Schema": whole}}
    (tmp_path / "crd.yaml").write_text(yaml.dump({"spec": {"names": {"kind": "Toy"}, "versions": [version]}}))
    script = runpy.run_path(str(ROOT / "cluster/kuberay_schema.py"))
    script["main"].__globals__["OUTPUT"] = tmp_path / "toy.json"
    monkeypatch.setattr(sys, "argv", ["kuberay_schema.py", "--source", "a toy", str(tmp_path / "crd.yaml")])
    script["main"]()
    made = yaml.safe_load((tmp_path / "toy.json").read_text())
    toy = {**made["kinds"]["ray.io/v1 Toy"], "definitions": made["definitions"]}
    good = {"apiVersion": "ray.io/v1", "kind": "Toy", "metadata": {"name": "a"}}
    workers = [{"image": "a", "memory": "3Gi"}, {"image": "a", "memory": 3, "labels": {"b": "c"}}]
    jsonschema.validate({**good, "spec": {"head": {"image": "a"}, "workers": workers}}, toy)
    for bad in ({"head": {}}, {"head": {"image": "a", "imag": "b"}}, {"workers": [{"image": 3}]}, {"worker": []}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**good, "spec": bad}, toy)
    assert str(toy).count("'image': {") == 1
    assert "description" not in str(toy)


def test_the_schema_that_is_shipped() -> None:
    for schema in schemas().values():
        jsonschema.Draft7Validator.check_schema(schema)
    assert {"ray.io/v1 RayJob", "ray.io/v1 RayCluster", "networking.k8s.io/v1 NetworkPolicy"} == schemas().keys()
    assert (ROOT / "rrd_search/cluster_files/kuberay.json").stat().st_size < 60_000

"""What `ray up` reads: Ray's own schema and checks, and what the project asks of every such file: a cluster that nobody
enters without its token, and whose servers listen on loopback."""

import contextlib
import copy
import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rrd_search.cluster_files import aws, own_servers
from rrd_search.cluster_files.commands import (
    RAY_START,
    job_problems,
    network_problems,
    option,
    ray_starts,
    set_up_problems,
    token_is_on,
    without_comments,
)
from rrd_search.cluster_files.findings import did_you_mean, place_of, schema_problems, shown, strings_of, with_hint

PROVIDERS = {"aws": aws, "local": own_servers}
TOKEN = "~/.ray/auth_token"
PROJECT = frozenset({"rrd_search", "search_spaces", "trainables", "pyproject.toml", "constraints.txt"})
PROJECT |= {"Makefile", "README.md", "LICENSE"}  # what `make install` needs
SET_UP = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
STARTS = ("head_start_ray_commands", "worker_start_ray_commands")


def problems(document: dict[str, Any]) -> list[str]:
    """Ordered by weight: a file of another shape is not looked into, Ray's own word is asked for last."""
    if wrong := [*_shape(document)]:
        return wrong
    provider = PROVIDERS[document["provider"]["type"]]
    if wrong := [*provider.problems(document), *_mounts(document), *_token(document), *_network(document)]:
        return list(dict.fromkeys(wrong))
    return [*_ray_says(document)]


def told(document: dict[str, Any]) -> str:
    return f"ray up on {PROVIDERS[document['provider']['type']].told(document)}"


def absent(document: dict[str, Any]) -> list[str]:
    """Files of the user's own that the document names and that are not on this machine."""
    key = document.get("auth", {}).get("ssh_private_key")
    paths = [local for local in document.get("file_mounts", {}).values() if local.startswith(("~", "/"))]
    missing = [path for path in [*paths, *([key] if key else [])] if not Path(path).expanduser().exists()]
    return [f"{path} (ray get-auth-token --generate)" if path == TOKEN else path for path in missing]


def _shape(document: dict[str, Any]) -> Iterator[str]:
    import ray.autoscaler

    provider = document.get("provider")
    kind = provider.get("type") if isinstance(provider, dict) else None
    if not isinstance(kind, str) or kind not in PROVIDERS:
        told = f"must be {' or '.join(sorted(PROVIDERS))} to be checked here, got {shown(kind)}"
        yield with_hint(f"provider.type {told}", did_you_mean(kind, PROVIDERS))
        return
    schema = json.loads(Path(ray.autoscaler.__file__).with_name("ray-schema.json").read_text())
    if kind == "local":  # Ray takes it from such a file before it looks at its schema
        schema["properties"]["min_workers"] = {"type": "integer", "minimum": 0}
    elif "min_workers" in document:
        yield "min_workers: each of available_node_types has its own; Ray leaves out one for all"
        return
    yield from schema_problems(document, schema)
    auth = document.get("auth", {"ssh_user": "ubuntu"} if kind == "aws" else {})
    if isinstance(auth, dict) and not auth.get("ssh_user"):
        yield "auth.ssh_user is missing"
    if isinstance(auth, dict) and str(auth.get("ssh_private_key", "")).endswith(".pub"):
        yield f"auth.ssh_private_key: {auth['ssh_private_key']} is the public half; name the other file, without .pub"
    mounts = document.get("file_mounts")
    for remote, local in mounts.items() if isinstance(mounts, dict) else ():
        if not isinstance(local, str) or not local:
            yield f"{place_of([str(remote)], 'file_mounts')} must be a path on this machine, got {shown(local)}"


def _mounts(document: dict[str, Any]) -> Iterator[str]:
    """Paths of the project; `ray up` reads them from the folder where it is run, too."""
    mounts = document.get("file_mounts", {})
    if not any(remote == TOKEN or remote.endswith("/.ray/auth_token") for remote in mounts):
        yield f"file_mounts: {TOKEN} is missing; without it nodes do not know the cluster's token: '{TOKEN}: {TOKEN}'"
    for remote, local in mounts.items():
        if not local.startswith(("~", "/")) and not Path(local).exists():
            near = did_you_mean(local, [path.name for path in Path().iterdir()])
            yield with_hint(f"{place_of([remote], 'file_mounts')}: there is no {local} in {Path.cwd()}", near)
    for place, text in _commands(document):
        yield from set_up_problems(text, place)
        for found in re.finditer(r"(\S+)/cluster/node\.sh\b", text) if place.startswith("setup_commands") else ():
            missing = [name for name in sorted(PROJECT) if not {found[1], f"{found[1]}/{name}"} & mounts.keys()]
            yield from (f"file_mounts: {found[1]}/{name} is missing; {place} installs it" for name in missing)
        for remote, path in _scripts(document, text):
            if path.parent.exists() and not path.exists():
                near = did_you_mean(path.name, [other.name for other in path.parent.iterdir()])
                yield with_hint(f"{place}: there is no {remote}, as {path} is not here", near)


def _token(document: dict[str, Any]) -> Iterator[str]:
    """Every list of commands that sets a node up switches token mode on (a type's own replaces the common one), or
    every list that starts Ray."""
    started = {name: [text for text in document.get(name, []) if RAY_START.search(text)] for name in STARTS}
    if all(texts and all(token_is_on(text) for text in texts) for texts in started.values()):
        return
    common = [text for name in SET_UP[:2] for text in document.get(name, [])]
    lists = {"setup_commands": [*common, *document.get("worker_setup_commands", [])]}
    for name, kind in document.get("available_node_types", {}).items():
        if kind.get("worker_setup_commands"):
            place = place_of([name, "worker_setup_commands"], "available_node_types")
            lists[place] = [*document.get("initialization_commands", []), *kind["worker_setup_commands"]]
    for place, texts in lists.items():
        read = [path.read_text() for text in texts for _, path in _scripts(document, text) if path.is_file()]
        if not any(token_is_on(text) and re.search(r"bashrc|profile", text) for text in [*texts, *read]):
            yield (
                f"{place}: nothing switches Ray's token mode on; run cluster/node.sh (bash "
                f"~/rrd_search/cluster/node.sh STORAGE), or export RAY_AUTH_MODE=token before each `ray start`"
            )


def _network(document: dict[str, Any]) -> Iterator[str]:
    heads, joins = (document.get(name) or [] for name in STARTS)
    starts = [start for text in heads for start in ray_starts(text, head=True)]
    if not starts:
        yield (
            "head_start_ray_commands must have a `ray start --head --dashboard-host=127.0.0.1`; Ray's own opens the "
            "dashboard to every network"
        )
    elif not any(option(start, "autoscaling-config") for start in starts):
        yield (
            "head_start_ray_commands: `ray start --head` needs --autoscaling-config=~/ray_bootstrap_config.yaml, or no "
            "worker is ever started"
        )
    if joins and not any(ray_starts(text, head=False) for text in joins):
        yield "worker_start_ray_commands must have a `ray start --address=$RAY_HEAD_IP:6379`"
    for place, text in _commands(document):
        files = {f"{place}: {remote}": path for remote, path in _scripts(document, text) if path.is_file()}
        read = {where: without_comments(path.read_text()) for where, path in files.items()}
        for where, each in {place: text, **read}.items():
            yield from network_problems(each, where)
            yield from job_problems(each, where)
    other = {name: part for name, part in document.items() if name not in (*SET_UP, *STARTS, "available_node_types")}
    for place, text in strings_of({"provider": {}, **other}):
        if text.endswith(("0.0.0.0/0", "::/0")):
            yield f"{place}: {text} lets everybody in; name your own addresses, such as 203.0.113.7/32"


def _commands(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    named = {name: document[name] for name in (*SET_UP, *STARTS) if name in document}
    kinds = {
        name: {key: part for key, part in kind.items() if key.endswith("_commands")}
        for name, kind in document.get("available_node_types", {}).items()
    }
    return strings_of({**named, "available_node_types": kinds, "docker": document.get("docker", {})})


def _scripts(document: dict[str, Any], text: str) -> Iterator[tuple[str, Path]]:
    """Scripts that a command runs from a mounted folder: as the node knows them, and here."""
    for word in text.replace("'", " ").replace('"', " ").split():
        for remote, local in document.get("file_mounts", {}).items():
            if word.endswith(".sh") and word.startswith(f"{remote}/"):
                yield word, Path(local).expanduser() / word.removeprefix(f"{remote}/")


def _ray_says(document: dict[str, Any]) -> Iterator[str]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    logging.getLogger("ray.autoscaler").setLevel(logging.ERROR)  # it tells of what it fills in
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(said):
        try:
            validate_config(prepare_config(copy.deepcopy(document)))
            return
        except Exception as error:  # of whatever kind: Ray has one for each of its checks
            first = (str(error) or said.getvalue() or type(error).__name__).strip().splitlines()[0]
    yield f"Ray refuses it: {first}"

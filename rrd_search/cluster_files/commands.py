"""Commands that a cluster file has run: which servers they start, on which address, and what they give away.
They are read as text with patterns, not run; variables are not followed."""

import ast
import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from rrd_search.cluster_files.findings import nearest, with_hint

LOOPBACK = ("127.0.0.1", "localhost", "::1")
TUNNEL = "must be 127.0.0.1, which people reach through a tunnel"
EVERYWHERE = re.compile(r"(?<![\w.])0\.0\.0\.0(?:/0)?(?![\w.])|\[::\]|(?<![\w.:@}\]])::(?:/0)?(?![\w.:$])")
OPTIONS = r"(?P<options>(?:>&|&>|[^;|&\n])*)"  # up to the end of the command
RAY_START = re.compile(rf"\bray\s+start\b{OPTIONS}")
MLFLOW = re.compile(rf"\bmlflow\s+(?:server|ui)\b{OPTIONS}")
MLFLOW_HOST = re.compile(r"\bMLFLOW_HOST\s*=\s*[\"']?([^\s\"';&|]+)")
NO_JOBS = re.compile(r"\bMLFLOW_SERVER_ENABLE_JOB_EXECUTION\s*=\s*[\"']?(?:false|0)\b", re.IGNORECASE)
AUTH_MODE = re.compile(r"\bRAY_AUTH_MODE\s*[=:]\s*[\"']?([\w-]+)")
CREDENTIAL = r"[A-Z0-9_]*(?:SECRET|TOKEN|PASSWORD|PASSWD|API_KEY|ACCESS_KEY|SECRET_KEY|ACCESS_KEY_ID)"
SECRETS = {
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "an AWS access key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "an access token": re.compile(r"\b(?:hf_|gh[oprsu]_|github_pat_|xox[bp]-)[\w-]{20,}"),
    "a password in a URI": re.compile(r"://[^/\s:@'\"]+:[^/\s@'\"$]+@"),
    "Ray's token": re.compile(r"\b(?:echo|printf)\s[^|;&$`]*[\w-]{16,}[^|;&$`]*>\s*\S*auth_token"),
}
STORED = re.compile(r"cluster/node\.sh[ \t]+(?P<value>\"[^\"]*\"|'[^']*'|[^\s;|]+)")
STORAGES = re.compile(r"(?:s3|gs|gcs|abfss?|hdfs)://[^/?]+.*|file:///.+")
BUCKET = re.compile(r"s3://(?!BUCKET\b)(?![a-z0-9][a-z0-9.-]{1,61}[a-z0-9](?:[/?]|$))([^/?]*)")
ASSIGNED = re.compile(rf"\b({CREDENTIAL})\s*[=:]\s*[\"']?(?![\s\"'$`<({{]|null\b)[^\s\"',}}]{{4,}}")


def joined(text: str) -> str:
    """One line for each command that goes on over several."""
    return re.sub(r"\\\n\s*", " ", text)


def without_comments(script: str) -> str:
    return "\n".join(re.sub(r"(^|\s)#.*", "", line) for line in script.splitlines())


def option(options: str, *names: str) -> str | None:
    """The value of ``--name VALUE``, ``--name=VALUE`` or ``-n VALUE``; the last one counts, as for the command."""
    given = "|".join(f"--{name}(?:=|\\s+)" if len(name) > 1 else f"-{name}\\s*" for name in names)
    found = re.findall(rf"(?<![\w-])(?:{given})(\"[^\"]*\"|'[^']*'|[^\s\"']+)", options)
    return found[-1].strip("\"'") if found else None


def mlflow_hosts(text: str) -> list[str | None]:
    """Where each server that is started listens, and what the environment says; None where it is unsaid."""
    servers = [option(found["options"], "host", "h") for found in MLFLOW.finditer(joined(text))]
    return [*servers, *MLFLOW_HOST.findall(text)]


def ray_starts(text: str, head: bool) -> list[str]:
    """The options of every `ray start` that makes a head, or that joins one."""
    starts = [found["options"] for found in RAY_START.finditer(joined(text))]
    return [options for options in starts if bool(re.search(r"(?<!\S)--head\b", options)) == head]


def network_problems(text: str, place: str) -> Iterator[str]:
    """Servers that listen on more than loopback, Ray without its token, options that `ray start` has not."""
    text = joined(text)
    if found := EVERYWHERE.search(text):
        yield f"{place}: {found[0]} opens to every network; listen on 127.0.0.1, which people reach through a tunnel"
    for options in ray_starts(text, head=True):
        host = option(options, "dashboard-host")
        if host is None:
            yield f"{place}: `ray start --head` needs an explicit --dashboard-host=127.0.0.1"
        elif host not in LOOPBACK and not EVERYWHERE.search(host):
            yield f"{place}: --dashboard-host {TUNNEL}, got {host}"
    if "--ray-debugger-external" in text:
        yield f"{place}: --ray-debugger-external opens Ray's debugger to every network; leave it out"
    for host in mlflow_hosts(text):
        if host is not None and host not in LOOPBACK and not EVERYWHERE.search(host):
            yield f"{place}: --host of mlflow {TUNNEL}, got {host}"
    for found in RAY_START.finditer(text):
        for name in re.findall(r"(?<!\S)--([a-z][\w-]*)", found["options"]):
            if name not in ray_start_options():
                yield with_hint(f"{place}: `ray start` has no --{name}", nearest(name, ray_start_options()))
    for mode in AUTH_MODE.findall(text):
        if mode != "token":
            yield f"{place}: RAY_AUTH_MODE must be token, got {mode}"


def job_problems(text: str, place: str) -> Iterator[str]:
    """``text`` is all that a server of MLflow is started with, its environment too."""
    if MLFLOW.search(joined(text)) and not NO_JOBS.search(text):
        yield f"{place}: mlflow server needs MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false, or it runs jobs for whoever asks"


def set_up_problems(text: str, place: str) -> Iterator[str]:
    """What is wrong with the storage that node.sh is given."""
    for found in STORED.finditer(joined(text)):
        value = found["value"]
        if value[0] not in "\"'" and "&" in value:
            yield f"{place}: put {value} in quotes, or the shell cuts it at the &"
        yield from storage_problems(value.strip("\"'"), place)


def storage_problems(value: str, place: str) -> Iterator[str]:
    """A node's own folder is lost with the node, so only a URI is taken."""
    if value.startswith("$"):
        return
    if not STORAGES.fullmatch(value):
        yield f"{place}: storage must be s3://BUCKET/FOLDER, or file:///FOLDER where all nodes share it, got {value}"
    elif found := BUCKET.match(value):
        yield f"{place}: {found[1]} is no name of a bucket, which has 3 to 63 of a-z, 0-9, . and -"


def is_credential(name: str) -> bool:
    return bool(re.fullmatch(CREDENTIAL, name))


def token_is_on(text: str) -> bool:
    return "token" in AUTH_MODE.findall(text)


def secrets_in(text: str) -> Iterator[str]:
    """Line by line, comments too; the secret itself is not told."""
    for number, line in enumerate(text.splitlines(), 1):
        kinds = [kind for kind, pattern in SECRETS.items() if pattern.search(line)]
        kinds += [f"the value of {found[1]}" for found in ASSIGNED.finditer(line)]
        if kinds:
            yield f"line {number} holds {kinds[0]}: no secrets in this file, which is copied to nodes and repositories"


@cache
def ray_start_options() -> frozenset[str]:
    """Read from Ray's source: importing its command line takes three seconds."""
    import ray

    found = importlib.util.find_spec("ray.scripts.scripts")
    origin = found.origin if found else None
    assert origin is not None, f"Ray {ray.__version__} has no command line"
    tree = ast.parse(Path(origin).read_text())
    start = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "start")
    texts = (
        part.value
        for call in start.decorator_list
        if isinstance(call, ast.Call)
        for part in call.args
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    )
    names = {name.removeprefix("--") for text in texts for name in text.split("/") if name.startswith("--")}
    return frozenset({*names, "log-style", "log-color", "verbose"})  # these three come from a decorator

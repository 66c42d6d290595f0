"""A batch script for Slurm: bash's own syntax check, the #SBATCH options, and servers that only the owner reaches."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from rrd_search.cluster_files.commands import (
    job_problems,
    mlflow_hosts,
    network_problems,
    ray_starts,
    storage_problems,
    without_comments,
)
from rrd_search.cluster_files.findings import nearest, with_hint

DIRECTIVE = "#SBATCH"
NAMES = """
    account acctg-freq array begin bell chdir clusters comment constraint container contiguous core-spec
    cores-per-socket cpu-freq cpus-per-gpu cpus-per-task deadline delay-boot dependency distribution error exclude
    exclusive export extra-node-info get-user-env gid gpu-bind gpu-freq gpus gpus-per-node gpus-per-socket gpus-per-task
    gres gres-flags hint hold ignore-pbs input job-name kill-on-invalid-dep licenses mail-type mail-user mcs-label mem
    mem-bind mem-per-cpu mem-per-gpu mincpus network nice no-kill no-requeue nodefile nodelist nodes ntasks
    ntasks-per-core ntasks-per-gpu ntasks-per-node ntasks-per-socket open-mode output overcommit oversubscribe parsable
    partition power prefer priority profile propagate qos quiet reboot requeue reservation segment signal
    sockets-per-node spread-job switches thread-spec threads-per-core time time-min tmp tres-bind tres-per-task
    use-min-nodes verbose wait wait-all-nodes wckey
"""
OPTIONS = frozenset(NAMES.split())
SHORT = {"N": "nodes", "t": "time", "n": "ntasks", "c": "cpus-per-task", "J": "job-name", "o": "output", "e": "error"}
SHORT |= {"p": "partition", "A": "account", "q": "qos", "G": "gpus", "C": "constraint", "w": "nodelist", "x": "exclude"}
SHORT |= {"D": "chdir", "d": "dependency", "M": "clusters", "L": "licenses", "a": "array", "m": "distribution"}
OPTION = re.compile(r"--([\w-]+)(?:(?:=|\s+)([^\s-]\S*))?|(?<!\S)-(\w)\s*(\S+)?")
VALUES = {
    "nodes": (r"[1-9]\d*(-\d+)?", "a number such as 2, or a range such as 2-4"),
    "time": (r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}", "minutes, HOURS:MINUTES:SECONDS or DAYS-HOURS, such as 24:00:00"),
    "signal": (r"([RB]{1,2}:)?(SIG)?\w+(@\d+)?", "such as B:TERM@120"),
    "cpus-per-task": (r"\d+", "a number"),
    "ntasks-per-node": (r"1", "1: one task starts Ray on a node, for all its CPUs and GPUs"),
    "gpus-per-node": (r"([\w.-]+:)?\d+(,[\w.-]+:\d+)*", "a number, or TYPE:NUMBER"),
}


def looks_like_script(path: Path, text: str) -> bool:
    return text.startswith("#!") or path.suffix in (".sh", ".sbatch", ".slurm") or is_batch_script(text)


def is_batch_script(text: str) -> bool:
    return bool(re.search(rf"^{DIRECTIVE}\b", text, re.MULTILINE))


def problems(text: str) -> list[str]:
    if "\r" in text:
        return ["lines end as on Windows (CR LF), which bash on the nodes refuses: sed -i 's/\\r$//' FILE"]
    if not re.match(r"#!.*\b(ba)?sh\b", text):
        return ["line 1 must be #!/usr/bin/env bash; Slurm refuses a script without it"]
    if wrong := [*_syntax(text)]:
        return wrong
    return list(dict.fromkeys([*_directives(text), *_commands(text)]))


def told(text: str) -> str:
    given = {name: value for _, name, value in _options(text)}
    return f"Slurm batch script: nodes {given['nodes']}, time {given['time']}"


def _syntax(text: str) -> Iterator[str]:
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
    if done.returncode:
        first = (done.stderr.strip().splitlines() or ["bash -n refuses it"])[0]
        yield re.sub(r"^\S*bash: ", "", first)


def _options(text: str) -> Iterator[tuple[int, str, str]]:
    """Line, name, value; a short option by its long name."""
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(rf"{DIRECTIVE}\s", line):
            given = line.removeprefix(DIRECTIVE).partition(" #")[0]  # Slurm, too, reads no further
            for found in OPTION.finditer(given):
                name, value, short, short_value = found.groups()
                yield number, name or SHORT.get(short, f"-{short}"), value or short_value or ""


def _directives(text: str) -> Iterator[str]:
    lines = text.splitlines()
    commands = (number for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#"))
    first = next(commands, len(lines))
    given = {}
    for number, name, value in _options(text):
        if number > first:
            yield f"line {number}: Slurm reads no #SBATCH behind the first command, which is in line {first}"
        elif name not in OPTIONS:
            dashes = "" if name.startswith("-") else "--"
            yield with_hint(f"line {number}: sbatch has no option {dashes}{name}", nearest(name, OPTIONS))
        elif name in VALUES and not re.fullmatch(VALUES[name][0], value):
            yield f"line {number}: --{name} must be {VALUES[name][1]}, got {value or 'nothing'}"
        given[name] = value
    for number, line in enumerate(lines, 1):
        if re.match(r"#\s*SBATCH\b", line, re.IGNORECASE) and not re.match(rf"{DIRECTIVE}\s", line):
            yield f"line {number}: {line.split()[0]} is a comment to Slurm; options begin with #SBATCH and a space"
    for name in ("nodes", "time"):
        if name not in given:
            yield f"#SBATCH --{name} is missing"


def _commands(text: str) -> Iterator[str]:
    bare = without_comments(text)
    for number, line in _numbered(bare):
        yield from network_problems(line, f"line {number}")
    if not re.search(r"^\s*(export|declare -x)\b.*\bRAY_AUTH_MODE=[\"']?token\b", bare, re.MULTILINE):
        yield "`export RAY_AUTH_MODE=token` is missing; without it whoever reaches the nodes runs programs as you"
    yield from job_problems(bare, "the script")
    if not ray_starts(bare, head=True):
        yield "`ray start --head --dashboard-host=127.0.0.1` is missing"
    for number, line in _numbered(bare):
        if None in mlflow_hosts(line):
            yield f"line {number}: mlflow needs an explicit --host 127.0.0.1"
    if "RRD_STORAGE=" not in bare and "--storage" not in bare:
        yield "`export RRD_STORAGE=...` is missing; the nodes need one place for all that is kept"
    for found in re.finditer(r"\bRRD_STORAGE=[\"']?(?:\$\{RRD_STORAGE:-)?([^\s\"';}]+)", bare):
        yield from storage_problems(found[1].replace("$PWD", "/HERE"), "RRD_STORAGE")
    if not re.search(r"\bpython3?\s+-m\s+rrd_search\.tune\b", bare):
        yield "python -m rrd_search.tune is missing; nothing would be searched"


def _numbered(text: str) -> Iterator[tuple[int, str]]:
    """Commands with the number of their first line."""
    first, begun = 1, ""
    for number, line in enumerate([*text.splitlines(), ""], 1):
        first = first if begun else number
        if line.endswith("\\"):
            begun += f"{line[:-1]} "
        else:
            yield first, begun + line
            begun = ""

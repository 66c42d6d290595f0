"""python -m rrd_search.cluster_check FILE...: what is wrong with a cluster file, before anything starts or costs.

Reads files for `ray up`, the KubeRay operator and Slurm. Needs no cluster, cloud or network.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from rrd_search.cluster_files import kubernetes, ray_up, slurm
from rrd_search.cluster_files.commands import secrets_in
from rrd_search.cluster_files.findings import shown
from rrd_search.command import Parser, run_command

RAY_UP_FIELDS = {"cluster_name", "provider", "auth", "available_node_types", "setup_commands", "file_mounts"}
KINDS = "files for `ray up` (cluster_name, provider), Kubernetes manifests (apiVersion, kind), Slurm scripts (#SBATCH)"
FIELD_TAGS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")
MOST = 5  # problems of a file that are told at once
PLACEHOLDERS = re.compile(
    r"\bBUCKET\b|\bREGISTRY\b|\bACCOUNT\b|\bHOST:PORT\b|\b(?:ami|sg|subnet|vpc)-0123456789abcdef0\b|sha256:0{64}"
    r"|\b(?:192\.0\.2|198\.51\.100|203\.0\.113)\.\d{1,3}\b"  # addresses for documentation, RFC 5737
)


def main(arguments: list[str]) -> int:
    parser = Parser("-m rrd_search.cluster_check", "What is wrong with cluster files; 2 where one of them is refused.")
    parser.add_argument("files", nargs="+", metavar="FILE", help="for `ray up`, Kubernetes or Slurm")
    code = 0
    for file in parser.parse_args(arguments).files:
        try:
            lines = [*check(Path(file))]
        except ValueError as error:
            print(f"error: {file}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
            code = 2
        else:
            print("\n".join(f"{file}: {line}" for line in lines), flush=True)
    return code


def check(path: Path) -> Iterator[str]:
    """What a fine file is, and what is still to be done. ValueError with all that is wrong with another one."""
    text = _read(path)
    absent: list[str] = []
    if slurm.looks_like_script(path, text):
        if not slurm.is_batch_script(text):
            raise ValueError(f"a script without #SBATCH lines; checked are {KINDS}")
        problems, told = slurm.problems(text), slurm.told
        subject: Any = text
    else:
        subject, kind = _parsed(text)
        problems, told = kind.problems(subject), kind.told
        if kind is ray_up and not problems:
            absent = ray_up.absent(subject)
    if problems := [*secrets_in(text), *problems]:
        more = f"; and {len(problems) - MOST} more" if len(problems) > MOST else ""
        raise ValueError("; ".join(problems[:MOST]) + more)
    left = [*_placeholders(text)]
    yield f"{'ok so far' if left else 'ok'} ({told(subject)})"
    if left:
        yield f"not ready, still to be filled in: {', '.join(left)}"
    if absent:
        yield f"not on this machine yet: {', '.join(absent)}"


def _read(path: Path) -> str:
    try:
        text = path.read_bytes().decode()  # with its line ends
    except UnicodeDecodeError:
        raise ValueError("is no text file") from None
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None
    if not text.strip():
        raise ValueError(f"is empty; checked are {KINDS}")
    return text


def _parsed(text: str) -> tuple[Any, Any]:
    """The document or documents, and the module that knows them."""
    documents = _documents(text)
    if not documents:
        raise ValueError(f"is empty; checked are {KINDS}")
    for document in documents:
        if not isinstance(document, dict):
            raise ValueError(f"must be a mapping of fields (FIELD: VALUE), got {shown(document)}")
    if any(name in document for document in documents for name in ("apiVersion", "kind")):
        return documents, kubernetes
    if not any(RAY_UP_FIELDS & document.keys() for document in documents):
        raise ValueError(f"of no kind that is known here; checked are {KINDS}")
    if len(documents) > 1:
        raise ValueError("`ray up` reads one document; take out the lines ---")
    return documents[0], ray_up


def _documents(text: str) -> list[Any]:
    try:
        loader = yaml.SafeLoader(text)
        documents = []
        while loader.check_node():
            node = loader.get_node()
            assert node is not None, "check_node said so"
            _single(node, (), set())
            documents.append(loader.construct_document(node))
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{line}no YAML: {error.problem}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"no YAML: {error}") from None
    return [document for document in documents if document is not None]


def _single(node: yaml.Node, above: tuple[yaml.Node, ...], done: set[yaml.Node]) -> None:
    """ValueError for a field that is there twice, of which YAML's readers take the last, for one whose name is no text,
    and for a part of itself."""
    if node in above:
        raise ValueError(f"line {node.start_mark.line + 1}: a part that holds itself")
    if node in done or isinstance(node, yaml.ScalarNode):
        return
    done.add(node)
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, _ in node.value:
            if key.tag not in FIELD_TAGS:
                quoted = f"; put {key.value} in quotes" if isinstance(key, yaml.ScalarNode) else ""
                raise ValueError(f"line {key.start_mark.line + 1}: names of fields are texts{quoted}")
            if key.value in seen:
                raise ValueError(f"line {key.start_mark.line + 1}: {key.value} is there twice")
            seen.add(key.value)
    for part in node.value:
        for each in part if isinstance(part, tuple) else (part,):
            _single(each, (*above, node), done)


def _placeholders(text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        found = PLACEHOLDERS.findall(re.sub(r"(^|\s)#(?!SBATCH\b).*", "", line))
        if found:
            names = (name if len(name) < 30 else f"{name[:14]}..." for name in dict.fromkeys(found))
            yield f"line {number} ({', '.join(names)})"


if __name__ == "__main__":
    run_command(main)

"""What the two READMEs tell people to type: whole commands, with options that there are."""

import argparse
import re
import shlex
from pathlib import Path

import pytest

from rrd_search import final_request, flags

ROOT = Path(__file__).parent.parent
BLOCKS = [
    (file, block.replace("\\\n", " "))
    for file in ("README.md", "cluster/README.md")
    for block in re.findall(r"```bash\n(.*?)```", (ROOT / file).read_text(), re.DOTALL)
]
PARSERS = {"tune": flags.parser, "train": final_request.parser}


@pytest.mark.parametrize(("file", "block"), BLOCKS, ids=[f"{file} {block[:30]!r}" for file, block in BLOCKS])
def test_commands_are_whole(file: str, block: str) -> None:
    """Ray hands what it is given to a shell on the head: a line's end within quotes would end the command there."""
    words = shlex.split(block, comments=True)
    assert not [word for word in words if "\n" in word]


def test_options_are_there() -> None:
    found = 0
    for _, block in BLOCKS:
        typed = block.splitlines()
        typed += [word for line in block.splitlines() for word in shlex.split(line, comments=True) if " -m " in word]
        for line in typed:
            words = shlex.split(line, comments=True)
            for name, parser in PARSERS.items():
                module = f"rrd_search.{name}"
                if words[1:2] == ["-m"] and module in words:
                    options = parser().parse_args(words[words.index(module) + 1 :])
                    assert isinstance(options, argparse.Namespace)
                    found += 1
    assert found >= 3


def test_links_lead_somewhere() -> None:
    for file in ("README.md", "cluster/README.md"):
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / file).read_text()):
            assert ((ROOT / file).parent / link).exists(), link


def test_the_tree_names_every_module() -> None:
    text = (ROOT / "README.md").read_text().partition("## Where things are")[2]
    tree = text.partition("```text")[2].partition("```")[0]
    for package in ("rrd_search", "search_spaces", "trainables"):
        part = tree.partition(f"\n{package}/")[2].partition("\n\n")[0]
        named = [word for word in part.split() if word.endswith(".py")]
        found = {file.name for file in (ROOT / package).glob("*.py")} - {"__init__.py"}
        assert not [name for name in found if not any(Path(name).match(pattern) for pattern in named)], package

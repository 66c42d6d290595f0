"""python -m rrd_search.tune [SPACE]: start, resume or extend a search."""

import argparse
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock, Timeout
from rich.console import Console

from rrd_search.command import Parser, amount, run_command, whole
from rrd_search.optuna_searcher import Study
from rrd_search.progress import Progress, percent
from rrd_search.record import Recorder
from rrd_search.results import show_results
from rrd_search.samplers import SAMPLERS
from rrd_search.search_file import SearchFile, read_search_file, teacher_facts
from rrd_search.space import Space, load_space
from rrd_search.tracking import check_tracking_uri
from trainables.config import TrialConfig
from trainables.data.parts import load_training
from trainables.places import Places
from trainables.teacher import TeacherFile, TeacherProgress, load_teacher, make_teacher, stored_teacher

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
SCHEDULERS = ("asha", "hyperband", "median", "none")  # of early_stopping.py, which takes Ray's seconds to import
RECORDER_SECONDS = 60.0  # for what is not yet recorded, at the end
FLAGS = {"data": "data.name", "teacher": "teacher.architecture", "student": "student", "epochs": "epochs"}


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    space = load_space(options.space).with_values(chosen_values(options))
    name = options.name or space.name
    if not NAME.fullmatch(name):
        raise ValueError(f"--name must be letters, digits, '.', '_' and '-', at most 100, got {name!r}")
    places = Places(storage=writable(options.storage), data_root=Path(options.data_root).absolute())
    uri = options.mlflow_uri or f"sqlite:///{places.storage / 'mlflow.db'}"
    check_tracking_uri(uri)
    folder = places.storage / name
    with held(folder):
        return search(options, space, places, uri)

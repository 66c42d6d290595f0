"""python -m benchmarks [--rounds N]: all of it, one table. Some two hours on two cores, most of them whole searches;
each file can be run by itself, and --rounds 1 gives a first look."""

import argparse

from benchmarks import augmentation, rrd_loss, search, step
from benchmarks.report import write
from benchmarks.timing import ROUNDS, one_thread

QUICK = {"step": step.rows, "augmentation": augmentation.rows, "rrd_loss": rrd_loss.rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"of each side (default: {ROUNDS})")
    rounds = parser.parse_args().rounds
    one_thread()
    made = []
    for name, rows in QUICK.items():
        print(f"{name} ...", flush=True)
        made += rows(rounds)
    print("search ...", flush=True)
    made += search.rows(search.parser().parse_args(["--rounds", str(rounds)]))
    print(f"written to {write(made)}")


if __name__ == "__main__":
    main()

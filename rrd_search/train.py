"""python -m rrd_search.train FOLDER|CONFIG.yaml: final training on all training images, and the test set, once."""

from rich.console import Console

from rrd_search.command import run_command
from rrd_search.final_request import parser, read_final_request


def main(arguments: list[str]) -> int:
    request = read_final_request(parser().parse_args(arguments))
    from rrd_search.final_training import FinalTraining  # Ray takes seconds to import

    return FinalTraining(request, Console()).run()


if __name__ == "__main__":
    run_command(main)

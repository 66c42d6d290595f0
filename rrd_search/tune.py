"""python -m rrd_search.tune [SPACE]: start, resume or extend a search."""

from rrd_search.command import run_command
from rrd_search.flags import parser


def main(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
    from rrd_search.cluster import Cluster, chosen_cluster  # Ray takes a second to import

    with Cluster(chosen_cluster(options.address)) as cluster:  # this machine's own starts while PyTorch is imported
        from rrd_search.driver import drive

        return drive(options, cluster)


if __name__ == "__main__":
    run_command(main)

"""What the driver of a search does: check what is asked for, then start, resume or extend it."""

import argparse
from functools import partial

from rich.console import Console

from rrd_search.begun import check_begun, close, end_search, finished, go_on, send_rest
from rrd_search.cluster import Cluster
from rrd_search.progress import say
from rrd_search.record import Recorder
from rrd_search.request import Request, held, read_request
from rrd_search.retold import retell
from rrd_search.search_file import read_search_file
from rrd_search.storage import held_there
from rrd_search.warm_start import check_source


def drive(options: argparse.Namespace, cluster: Cluster) -> int:
    """The exit code. ``cluster`` is entered, and not joined yet; it is left before others may have the search.
    ValueError for what is wrong with the options."""
    request = read_request(options)
    console = Console()
    with held(request.folder), held_there(request.places, request.name, partial(say, console)), cluster:
        return _search(request, cluster, console)


def _search(request: Request, cluster: Cluster, console: Console) -> int:
    """Start, resume or extend; or show the results, where the search is finished already."""
    known, space, study = read_search_file(request.folder), request.space, None
    trials = request.options.trials or (known.trials if known else space.trials)
    if known is not None:
        check_begun(known, request.options)
        request, space, study = go_on(request, known, console)
        if study is not None and finished(study, space, trials):
            say(console, f"The search {request.name} is finished; more --trials extend it.")
            recorder = Recorder(request.folder, request.mlflow_uri, request.name)
            retell(recorder, [*study.references(), *study.trials()], request.folder)
            end_search(recorder, study, whole=True)
            send_rest(recorder, request, study, console)
            close(console, request, study, known.teacher)
            return 0
    else:
        check_source(request)
    cluster.check()
    from rrd_search.launch import Launch  # Ray Tune takes a second to import

    return Launch(request, space, study, trials, cluster, console).run()

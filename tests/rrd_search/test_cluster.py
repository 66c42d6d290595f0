"""What fits on a cluster, which one a search runs on, and what its autoscaler may still start."""

import socket

import pytest

from rrd_search.cluster import Cluster, check_fits, chosen_cluster, workers_that_fit
from rrd_search.node_types import node_types, read_node_types
from trainables.resources import Resources

CONFIG = {
    "head_node_type": "head",
    "max_workers": 4,
    "available_node_types": {
        "head": {"resources": {"CPU": 0}},
        "on_demand": {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 1},
        "spot": {"resources": {"CPU": 8, "GPU": 2}, "max_workers": 8},
        "of_unknown_size": {"resources": {}, "max_workers": 2},
    },
}


def test_startable_nodes_are_those_that_are_not_there_yet():
    types = node_types(CONFIG)
    assert types.startable([]) == [{"CPU": 4, "GPU": 1}, *3 * [{"CPU": 8, "GPU": 2}]], "four in all"
    assert types.startable(["head", "on_demand", "spot"]) == 2 * [{"CPU": 8, "GPU": 2}]
    assert types.startable(4 * ["spot"]) == []


def test_node_types_are_those_that_ray_up_left_on_the_head(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_node_types(on_head=True).startable([]) == []
    (tmp_path / "ray_bootstrap_config.yaml").write_text(str(CONFIG))
    assert len(read_node_types(on_head=True).startable([])) == 4
    assert read_node_types(on_head=False).startable([]) == [], "of another cluster"


def test_a_search_joins_the_cluster_that_the_machine_is_in(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert chosen_cluster(None) is None
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    assert chosen_cluster(None) is None, "meant for `ray job`"
    with pytest.raises(ValueError, match="is for `ray job`: give HOST:PORT"):
        chosen_cluster("http://127.0.0.1:8265")
    with socket.create_server(("127.0.0.1", 0)) as there:
        address = f"127.0.0.1:{there.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert chosen_cluster(None) == address
        assert chosen_cluster("local") is None
    with pytest.raises(ValueError, match=r"no Ray cluster answers there .*--address local"):
        Cluster(chosen_cluster(None)).check()


def test_what_is_left_of_a_cluster_that_ended_holds_nobody_up(monkeypatch, tmp_path, caplog):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RRD_STORAGE", raising=False)
    monkeypatch.setattr("ray._private.utils.get_ray_address_file", lambda _: str(tmp_path / "ray_current_cluster"))
    assert chosen_cluster(None) is None
    with socket.create_server(("127.0.0.1", 0)) as there:
        address = f"127.0.0.1:{there.getsockname()[1]}"
        (tmp_path / "ray_current_cluster").write_text(address)
        assert chosen_cluster(None) == address
        with monkeypatch.context() as other:
            other.setattr("os.getuid", lambda: -1)
            assert chosen_cluster(None) is None, "another user's"
    assert chosen_cluster(None) is None
    assert f"{address}, does not answer" in caplog.text
    monkeypatch.setenv("RRD_STORAGE", "s3://BUCKET/rrd_search")
    with pytest.raises(ValueError, match="no Ray cluster answers there"):
        Cluster(chosen_cluster(None)).check()  # a node of a cluster


def test_a_trial_that_fits_nowhere_is_refused():
    nodes = [{"CPU": 4, "GPU": 1}, {"CPU": 4, "GPU": 2}]
    check_fits(Resources(workers=3, gpus_per_worker=1), nodes, "the cluster")
    with pytest.raises(ValueError, match="at most 2 on a node"):
        check_fits(Resources(gpus_per_worker=3), nodes, "the cluster")
    with pytest.raises(ValueError, match="--workers-per-trial 4: at most 3 such workers fit on the cluster"):
        check_fits(Resources(workers=4, gpus_per_worker=1), nodes, "the cluster")
    assert workers_that_fit(Resources(gpus_per_worker=0.1), [{"CPU": 16, "GPU": 1}]) == 10


def test_own_servers_are_waited_for(monkeypatch):
    there = iter([1, 1, 2, 3])
    cluster = Cluster(None)
    cluster._node_types = node_types({"max_workers": 2, "provider": {"type": "local"}})
    monkeypatch.setattr(Cluster, "nodes", lambda self: next(there) * [{"CPU": 1.0}])
    monkeypatch.setattr("rrd_search.cluster.time.sleep", lambda seconds: None)
    said = []
    cluster.await_servers(said.append)
    assert [line.partition(";")[0] for line in said] == ["1 of 3 servers have joined", "2 of 3 servers have joined"]
    monkeypatch.setattr("rrd_search.cluster.JOIN_SECONDS", -1.0)
    monkeypatch.setattr(Cluster, "nodes", lambda self: [{"CPU": 1.0}])
    cluster.await_servers(said.append)
    assert said[-1].startswith("going on with 1 of 3 servers")
    cluster._node_types = node_types({"max_workers": 2, "provider": {"type": "aws"}})
    cluster.await_servers(said.append)
    assert len(said) == 3, "nodes that come and go are not waited for"

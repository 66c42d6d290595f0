"""Ends a cluster of your own servers, and proves it: python cluster/down.py cluster/on_prem.yaml [HOST ...]

`ray down` says that no nodes remain, but ends Ray on the head alone. This ends it on all hosts of the file, and MLflow
on the head; what both have stored stays. With HOSTs it ends Ray on these alone: workers that you have taken out of the
file, which are in the cluster until then. Exit code 1 where a host does not answer, or something is left on it.
"""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from rrd_search.command import Parser, run_command

SECONDS = 120  # for one host
SSH = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "LogLevel=ERROR"]
SSH += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]  # as `ray up` does it
END = r"""
source ~/.rrd_search && ray stop > /dev/null 2>&1
tmux -L mlflow list-panes -F '#{pane_pid}' 2> /dev/null | xargs -r kill
for second in {1..30}; do
    left=$(pgrep -u "$(id -u)" -f 'ray::|-packages/(ray|mlflow)/|bin/mlflow |(^|/)python -m rrd_search\.') || exit 0
    sleep 1
done
ps -o pid=,args= -p "${left//$'\n'/,}"
exit 1
"""


def main(arguments: list[str]) -> int:
    parser = Parser("cluster/down.py", "End Ray and MLflow on your own servers, and see that nothing of them is left.")
    parser.add_argument("file", help="that `ray up` was given")
    parser.add_argument("hosts", nargs="*", metavar="HOST", help="these alone; default: all of the file")
    options = parser.parse_args(arguments)
    provider, auth = _read(Path(options.file))
    hosts = options.hosts
    if not hosts:
        subprocess.run([str(Path(sys.executable).with_name("ray")), "down", "--yes", options.file], check=False)
        hosts = [provider["head_ip"], *provider["worker_ips"]]
    with ThreadPoolExecutor(len(hosts)) as pool:
        wrong = list(pool.map(lambda host: end(host, auth["ssh_user"], auth.get("ssh_private_key")), hosts))
    for host, told in zip(hosts, wrong, strict=True):
        print(f"{host}: {told or 'nothing is left'}")
    return 1 if any(wrong) else 0


def _read(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Its servers, and how they are entered. ValueError where it names none."""
    try:
        config = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{file}: cannot be read: {error}") from error
    provider = config.get("provider") if isinstance(config, dict) else None
    if not isinstance(provider, dict) or provider.get("type") != "local":
        raise ValueError(f"{file} is no file of your own servers, as cluster/on_prem.yaml; `ray down` ends clouds'")
    auth = config.get("auth")
    if not provider.get("head_ip") or not isinstance(auth, dict) or not auth.get("ssh_user"):
        raise ValueError(f"{file} lacks provider.head_ip or auth.ssh_user; see python -m rrd_search.cluster_check")
    return {"worker_ips": [], **provider}, auth


def end(host: str, user: str, key: str | None) -> str:
    """What is wrong there; empty where nothing of it runs any more."""
    way_in = ["-i", str(Path(key).expanduser())] if key else []
    command = [*SSH, *way_in, f"{user}@{host}", "bash", "-s"]
    try:
        done = subprocess.run(command, input=END, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return f"not ended within {SECONDS} s"
    if done.returncode == 0:
        return ""
    return f"still runs:\n{done.stdout}" if done.returncode == 1 else f"does not answer: {done.stderr.strip()}"


if __name__ == "__main__":
    run_command(main)

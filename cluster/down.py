"""Ends a cluster of your own servers, and proves it: python cluster/down.py cluster/on_prem.yaml [HOST ...]

`ray down` says that no nodes remain, but ends Ray on the head alone. This ends it on all hosts of the file, and MLflow
on the head; what both have stored stays. With HOSTs it ends Ray on these alone: workers that you have taken out of the
file, which are in the cluster until then. Exit code 1 where a host does not answer, or something is left on it.
"""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

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


def main(file: str, hosts: list[str]) -> int:
    config = yaml.safe_load(Path(file).read_text())
    provider, auth = config["provider"], config["auth"]
    if provider["type"] != "local":
        print(f"error: {file} is no cluster of your own servers; `ray down` ends it", file=sys.stderr)
        return 2
    if not hosts:
        subprocess.run([str(Path(sys.executable).with_name("ray")), "down", "--yes", file], check=False)
        hosts = [provider["head_ip"], *provider["worker_ips"]]
    with ThreadPoolExecutor(len(hosts)) as pool:
        wrong = list(pool.map(lambda host: end(host, auth["ssh_user"], auth["ssh_private_key"]), hosts))
    for host, told in zip(hosts, wrong, strict=True):
        print(f"{host}: {told or 'nothing is left'}")
    return 1 if any(wrong) else 0


def end(host: str, user: str, key: str) -> str:
    """What is wrong there; empty where nothing of it runs any more."""
    command = [*SSH, "-i", str(Path(key).expanduser()), f"{user}@{host}", "bash", "-s"]
    try:
        done = subprocess.run(command, input=END, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return f"not ended within {SECONDS} s"
    if done.returncode == 0:
        return ""
    return f"still runs:\n{done.stdout}" if done.returncode == 1 else f"does not answer: {done.stderr.strip()}"


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python cluster/down.py FILE [HOST ...]")
    sys.exit(main(sys.argv[1], sys.argv[2:]))

"""Tries to get into a cluster, and prints as JSON how far it got: intruder.py TOKEN ADDRESS. TOKEN - is none.

Where ADDRESS is a URL, the codes that the dashboard answers with; else what came of `ray.init`.
"""

import json
import logging
import os
import sys
import urllib.error
import urllib.request

JOB = json.dumps({"entrypoint": "touch /tmp/intruded"}).encode()
ASKED = {"api/version": None, "api/jobs/": None, "nodes?view=summary": None, "logs": None, "api/jobs/ ": JOB}


def answers(token: str, url: str) -> dict[str, int]:
    codes = {}
    for path, body in ASKED.items():
        headers = {"Content-Type": "application/json"} | ({} if token == "-" else {"Authorization": f"Bearer {token}"})
        asked = urllib.request.Request(f"{url}/{path.strip()}", body, headers)
        try:
            with urllib.request.urlopen(asked, timeout=20) as answer:
                code = answer.status
        except urllib.error.HTTPError as error:
            code = error.code
        codes["job" if body else path] = code
    return codes


def connected(token: str, address: str) -> str:
    os.environ |= {"RAY_AUTH_MODE": "disabled"} if token == "-" else {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    import ray

    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError) as error:
        return f"refused: {type(error).__name__}"
    return f"in, with {len(ray.nodes())} nodes"


if __name__ == "__main__":
    token, address = sys.argv[1:]
    print(json.dumps(answers(token, address) if address.startswith("http") else connected(token, address)))

"""python ec2_api.py ADDRESS PORT IMAGE FOLDER: AWS as far as moto simulates it; ec2.py starts it on its laptop.

Whenever that changes, it prints which instances there are, a list in a line. FOLDER/requests.jsonl takes who asked for
what. Where FOLDER/most is a file, no request gets more instances than the number in it: it is filled in part.
"""

import ipaddress
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from moto.core.responses import ActionResult
from moto.ec2.models import EC2Backend, ec2_backends
from moto.ec2.models.amis import Ami
from moto.ec2.responses.instances import InstanceResponse
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from moto.ssm.models import Parameter, ssm_backends
from werkzeug.serving import run_simple

from cluster.aws_account import IMAGE

ACCOUNT, REGION = "123456789012", "us-west-2"
LOOK_SECONDS = 0.1
run_instances = InstanceResponse.run_instances
create_vpc = EC2Backend.create_vpc


def main(address: str, port: int, image: str, folder: Path) -> None:
    network = ipaddress.ip_network(f"{address}/16", strict=False)
    EC2Backend.create_vpc = lambda this, cidr_block, **how: create_vpc(  # type: ignore[method-assign]
        this, str(network) if how.get("is_default") else cidr_block, **how
    )
    InstanceResponse.run_instances = lambda this: start(this, folder / "most")  # type: ignore[method-assign]
    ec2 = ec2_backends[ACCOUNT][REGION]
    for subnet in ec2.get_default_subnets().values():
        if ipaddress.ip_address(address) in subnet.cidr:  # no instance gets this one's address
            subnet.create_cidr_reservation("explicit", ipaddress.ip_network(address))
    ec2.amis[image] = Ami(ec2, image, name="Ubuntu 24.04 with a driver", root_device_name="/dev/sda1")
    known = Parameter(ACCOUNT, IMAGE, image, "String", None, None, None, datetime.now(), 1, "aws:ec2:image")
    ssm_backends[ACCOUNT][REGION]._parameters[IMAGE].append(known)
    threading.Thread(target=watch, args=(ec2,), daemon=True).start()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    served = recorded(DomainDispatcherApplication(create_backend_app), folder / "requests.jsonl")
    run_simple(address, port, served, threaded=True, request_handler=MotoRequestHandler)


def start(request: InstanceResponse, limit: Path) -> ActionResult:
    """As many instances as are asked for, and a profile for each; moto starts the least number, with one profile."""
    most = int(limit.read_text()) if limit.is_file() else sys.maxsize
    least, wanted = int(request._get_param("MinCount", 1)), int(request._get_param("MaxCount", 1))
    request.params["MinCount"] = max(least, min(wanted, most))
    started = run_instances(request)
    profile = request._get_param("IamInstanceProfile.Name")
    for instance in started.result.instances[1:] if profile else []:  # type: ignore[attr-defined]
        request.ec2_backend.associate_iam_instance_profile(instance.id, iam_instance_profile_name=profile)
    return started


def watch(ec2: EC2Backend) -> None:
    before = None
    while True:
        now = [
            {
                "id": instance.id,
                "address": next(iter(instance._private_ips)),
                "runs": instance.state in ("pending", "running"),
                "spot": instance.lifecycle == "spot",
                "key": ec2.key_pairs[instance.key_name].public_key,
            }
            for reservation in list(ec2.reservations.values())
            for instance in list(reservation.instances)
        ]
        if now != before:
            print(json.dumps(now), flush=True)
        before = now
        time.sleep(LOOK_SECONDS)


def recorded(app: Callable[..., Iterable[bytes]], file: Path) -> Callable[..., Iterable[bytes]]:
    def serve(environ: dict[str, Any], respond: Any) -> Iterable[bytes]:
        signed = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2].partition(",")[0].split("/")
        service = signed[3] if len(signed) == 5 else "s3"
        action, wanted = environ["REQUEST_METHOD"], 0
        if service != "s3":
            body = DomainDispatcherApplication._get_body(None, environ) or ""  # type: ignore[arg-type]
            asked = parse_qs(body)
            action = asked.get("Action", [environ.get("HTTP_X_AMZ_TARGET", action)])[0]
            wanted = int(asked.get("MaxCount", ["0"])[0])
        line = {"time": time.time(), "from": environ["REMOTE_ADDR"], "service": service, "action": action}
        with file.open("a") as record:
            record.write(json.dumps({**line, "wanted": wanted}) + "\n")
        return app(environ, respond)

    return serve


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))

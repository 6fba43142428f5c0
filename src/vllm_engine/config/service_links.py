"""The variables that Kubernetes, and Docker's old links, make for each Service of a namespace.

A Service named `vllm` gives every Pod `VLLM_PORT=tcp://10.43.1.39:8000`, which vLLM takes for its own setting
of that name and cannot parse; one named `health` gives `HEALTH_PORT`, which is one of ours. See Kubernetes,
"Accessing the Service", environment variables (`enableServiceLinks`).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping

_URL = re.compile(r"(tcp|udp|sctp)://\S+:\d+")
_PORT = re.compile(r"(\w+?)_PORT(_\d+_(TCP|UDP|SCTP))?")
_SERVICE_HOST = re.compile(r"(\w+)_SERVICE_HOST")
_OF_A_SERVICE = r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
_KEPT = "KUBERNETES"
"""The API server's own Service: every Pod has it, and programs that talk to the cluster look for it."""


def service_links(environ: Mapping[str, str]) -> list[str]:
    """Return the names of the variables that were made for Services, in order.

    `X_PORT` counts if it is a URL such as `tcp://10.43.1.39:8000`: a number was set by a person.
    """
    services = _services(environ)
    if not services:
        return []
    named = re.compile(f"({'|'.join(map(re.escape, sorted(services)))}){_OF_A_SERVICE}")
    return sorted(key for key, value in environ.items() if _is_link(key, value) or named.fullmatch(key))


def _services(environ: Mapping[str, str]) -> set[str]:
    found = set()
    for key, value in environ.items():
        match = _PORT.fullmatch(key) if _URL.fullmatch(value) else None
        if match is None and _is_address(value):
            match = _SERVICE_HOST.fullmatch(key)
        if match is not None:
            found.add(match[1])
    return found - {_KEPT}


def _is_link(key: str, value: str) -> bool:
    match = _PORT.fullmatch(key)
    return match is not None and match[1] != _KEPT and _URL.fullmatch(value) is not None


def _is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True

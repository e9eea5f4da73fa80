"""Machines of the local network are reached without the HTTP proxy, which knows only the world outside."""

import ipaddress
import os
from urllib.parse import urlsplit
from urllib.request import getproxies, getproxies_environment, proxy_bypass

from diffcps.text import redacted

_VARIABLES = "no_proxy", "NO_PROXY"
_LOOPBACK = "localhost", "127.0.0.1", "::1"


def avoid(*hosts: str) -> None:
    """Reach this machine and ``hosts`` without a proxy from now on, also in processes that are started later.

    Adds to ``no_proxy`` and ``NO_PROXY``; what is there stays. Changes nothing where no variable sets a proxy: with one of
    these two alone, Python would no longer see the proxies in the settings of macOS and Windows.
    """
    if not getproxies_environment().keys() - {"no"}:
        return
    given = ",".join(filter(None, dict.fromkeys(os.environ.get(name, "") for name in _VARIABLES)))
    known = [host.strip() for host in given.split(",") if host.strip()]
    together = ",".join(dict.fromkeys([*known, *_LOOPBACK, *filter(None, hosts)]))
    os.environ.update(dict.fromkeys(_VARIABLES, together))


def avoid_locally(url: str) -> None:
    """Reach the host of ``url`` without a proxy if it is in the local network: a private address, or a name without dots."""
    host = urlsplit(url).hostname or ""
    if is_local(host):
        avoid(host)


def is_local(host: str) -> bool:
    """Whether a host is named as one of the local network: ``localhost``, ``mlflow``, ``10.0.0.5``, ``head.local``."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return bool(host) and ("." not in host or host.endswith((".local", ".internal", ".localhost")))
    return address.is_private or address.is_loopback or address.is_link_local


def used(url: str) -> str:
    """The proxy through which ``url`` is asked, without a password; empty if none."""
    parts = urlsplit(url)
    if not parts.hostname or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return ""
    proxies = getproxies()
    return redacted(proxies.get(parts.scheme) or proxies.get("all", ""))

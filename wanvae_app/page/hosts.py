"""AllowedHosts: under which names this server answers, and whose pages may ask it.

A browser lets any page send requests to any address. Two headers, which a page cannot choose, tell such requests apart:
`Host` names the server as the page's address bar does, also when a stranger's name resolves to this machine, and
`Origin` names the page. Programs such as curl send no `Origin`.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from ipaddress import ip_address

from wanvae_app.cli.options import split_authority

WILDCARDS = ("0.0.0.0", "::", "")  # addresses to listen on that stand for all of this machine's
LOCALHOST = "localhost"
DEFAULT_PORTS = {"http": 80, "https": 443}
OWN_SITES = ("same-origin", "none")  # values of Sec-Fetch-Site; "none": the user typed the address
EDITOR_SCHEMES = ("vscode-webview:", "vscode-file:")  # of a notebook's output in VS Code, and of its window
FOREIGN_PAGE = (
    "Pages of another address may not use this server: if a proxy shows its page there, start it with --allow-host "
    "and that name."
)


class AllowedHosts:
    """Decides by a request's headers whether it is served.

    `bound` is the address or name that --host gives, `names` are those of --allow-host, each with or without a port.
    """

    def __init__(self, bound: str = "127.0.0.1", names: Iterable[str] = ()) -> None:
        bound = bound.strip("[]").lower()
        self._any_address = bound in WILDCARDS
        self._names = {LOCALHOST, bound, *_addresses(bound)}
        self._proxied: set[tuple[str, int | None]] = set()  # hosts of pages that a proxy shows
        for name in names:
            self.allow(name)

    def allow(self, authority: str) -> None:
        """Serve one more name. Its pages are served as well when a proxy sends another `Host`.

        Raises ValueError if it is not a name or an address, with or without a port.
        """
        name, port = split_authority(authority)
        self._names.add(name)
        self._proxied.add((name, port))

    def refusal(self, method: str, headers: Mapping[str, str]) -> str:
        """Say in a sentence why a request is refused; return "" for one that is served."""
        host = headers.get("host", "")
        if host and not self._is_ours(host):  # a request without one comes from no browser
            return (
                f"This server does not answer to the name {host[:80]!r}: use the address that it printed when it "
                "started, or start it with --allow-host and this name."
            )
        if "origin" in headers:
            return "" if self._is_own_page(headers["origin"], host) else FOREIGN_PAGE
        if headers.get("sec-fetch-site", "none") in OWN_SITES:
            return ""
        # A link of another page, or the frame of a notebook, may open this one, and no more.
        is_link = method in ("GET", "HEAD") and headers.get("sec-fetch-mode") == "navigate"
        return "" if is_link else FOREIGN_PAGE

    def _is_ours(self, host: str) -> bool:
        try:
            name, _ = split_authority(host)
        except ValueError:
            return False
        if name in self._names:
            return True
        try:
            address = ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or self._any_address

    def _is_own_page(self, origin: str, host: str) -> bool:
        scheme, _, authority = origin.lower().partition("://")
        try:
            name, port = split_authority(authority)
            own_name, own_port = split_authority(host)
            default = DEFAULT_PORTS[scheme]
        except (ValueError, KeyError):  # among others "null", as from a sandboxed frame
            return False
        if (name, port) in self._proxied:
            return True
        return (name, port or default) == (own_name, own_port or default)


def frame_ancestors(host: str) -> str:
    """Return who may frame a page of this `Host`, as a policy's sources: the same machine's pages, on any port.

    A notebook is such a page. For a page on loopback VS Code is one as well: its notebooks stand in pages of its own
    schemes.
    """
    name, _ = split_authority(host) if host else (LOCALHOST, None)
    names = [LOCALHOST, "127.0.0.1"] if _is_loopback(name) else [name]
    # A policy cannot name an IPv6 address.
    sources = [f"{scheme}://{name}:*" for name in names if ":" not in name for scheme in DEFAULT_PORTS]
    editors = EDITOR_SCHEMES if _is_loopback(name) else ()
    return " ".join(["'self'", *sources, *editors])


def is_own_address(address: str) -> bool:
    """Whether a client's address is one of this machine's own, or not known."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return True


def _is_loopback(name: str) -> bool:
    try:
        return name == LOCALHOST or ip_address(name).is_loopback
    except ValueError:
        return False


def _addresses(name: str) -> set[str]:
    """Return the addresses that a name of this machine resolves to; none if it does not resolve."""
    if name in WILDCARDS:
        return set()
    try:
        return {str(found[4][0]).lower() for found in socket.getaddrinfo(name, None)}
    except (OSError, UnicodeError):
        return set()

"""Settings of the environment for HTTP clients, mended where they would keep the app from its own page.

The page's server asks itself once when it starts, through httpx, which heeds these settings for every address.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import MutableMapping

LOOPBACK = ("localhost", "127.0.0.1", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")  # also in capitals
NO_PROXY = "no_proxy"
CERTIFICATES = {"SSL_CERT_FILE": "cafile", "SSL_CERT_DIR": "capath"}


def mend_surroundings(host: str, variables: MutableMapping[str, str] = os.environ) -> list[str]:
    """Except loopback and `host` from proxies, and take out what no HTTP client could use: it would ask nobody at all.

    Returns a sentence for each variable that was taken out. Proxies' addresses are not in it: they hold passwords. The
    processes that this one starts inherit the changes.
    """
    warnings = []
    for name, argument in CERTIFICATES.items():
        path = variables.get(name)
        if path and (fault := _certificate_fault(**{argument: path})):
            del variables[name]
            warnings.append(
                f"{name}={path} is ignored ({fault}): certificates are checked by those that come with Python's certifi"
            )
    proxies = [name for name in variables if name.lower() in PROXIES and variables[name]]
    for name in proxies:
        if fault := _proxy_fault(variables[name]):
            del variables[name]
            warnings.append(f"{name} is ignored, nothing is asked through that proxy: {fault}")
    if proxies:
        excepted = variables.get(NO_PROXY) or variables.get(NO_PROXY.upper()) or ""
        names = [name.strip() for name in excepted.split(",") if name.strip()]
        names += [name for name in (*LOOPBACK, host.strip("[]")) if name and name not in names]
        variables[NO_PROXY] = variables[NO_PROXY.upper()] = ",".join(names)
    return warnings


def _certificate_fault(cafile: str | None = None, capath: str | None = None) -> str:
    """Why no certificates can be read there; "" if they can."""
    path = cafile or capath or ""
    if not os.path.exists(path):
        return "it is not there"
    try:
        ssl.create_default_context(cafile=cafile, capath=capath)
    except (OSError, ssl.SSLError) as error:
        return f"it holds no certificates: {error.strerror or type(error).__name__}"
    return ""


def _proxy_fault(address: str) -> str:
    """Why no request can be sent through a proxy of this address; "" if one can."""
    import httpx  # not needed without a proxy

    address = address if "://" in address else f"http://{address}"
    try:
        httpx.HTTPTransport(proxy=address, trust_env=False).close()
    except ImportError:
        return (
            "a SOCKS proxy needs the package socksio; install it with .venv/bin/python -m pip install socksio"
        )
    except (ValueError, TypeError, OSError, httpx.InvalidURL) as error:
        return f"its address is of no use ({type(error).__name__}); give http://HOST:PORT"
    return ""

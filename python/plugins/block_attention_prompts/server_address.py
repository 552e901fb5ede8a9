"""The server's address, in whatever form it is given."""

import json
from urllib.parse import urlsplit


def server_root(base_url: str) -> str:
    """The address without a route.

    Raises ValueError for what is no http address.

    >>> server_root("http://127.0.0.1:8080/v1/completions")
    'http://127.0.0.1:8080'
    """
    parts = urlsplit(base_url if isinstance(base_url, str) else "")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(
            f"Cannot use base_url: it is {json.dumps(base_url)}, wanted for instance http://127.0.0.1:8080"
        )
    path = parts.path.rstrip("/")
    for route in ("/chat/completions", "/completions", "/v1"):
        path = path.removesuffix(route)
    return f"{parts.scheme}://{parts.netloc}{path}"

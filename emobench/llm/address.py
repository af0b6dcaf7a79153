"""An endpoint as somebody names it on a command line: its address, and the variable of its key."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from emobench.core.errors import InvalidInput, Problem, list_names, show, suggest_nearest
from emobench.core.redaction import url_has_secret
from emobench.llm.client import needs_proxy
from emobench.llm.providers import list_providers
from emobench.llm.transport import ModelEndpoint

DEFAULT_KEY = "OPENAI_API_KEY"


def make_endpoint(
    model: str, url: str, key_env: str | None, timeout_s: float = 600.0
) -> ModelEndpoint:
    """Return where the model answers.

    A variable that is named must be set; the default one may be missing. Raises InvalidInput for
    what is no address, for one that is reached through a proxy only, and for a key that no header
    can carry.
    """
    url = url.rstrip("/")
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        good = False
    if url_has_secret(url):
        name = key_env or DEFAULT_KEY
        raise InvalidInput(
            "--base-url: the address holds a password or a key, which everybody sees in `ps`; "
            f"leave it out, and export {name} (--api-key-env)"
        )
    if not good or any(map(str.isspace, url)):
        raise InvalidInput(f"--base-url: {url!r} is no address; e.g. http://host:8005/v1")
    if needs_proxy(url):
        raise InvalidInput(
            f"this machine reaches {url} through a proxy, which is not used for models; add its "
            "host to the variable no_proxy if it is reached without"
        )
    key = _read_key(key_env or DEFAULT_KEY, optional=key_env in (None, DEFAULT_KEY))
    return ModelEndpoint(model, url, key or "none", timeout_s=timeout_s)


def make_provider_endpoint(
    model: str, provider: str, key_env: str | None, timeout_s: float = 600.0
) -> ModelEndpoint:
    """Return a provider's own endpoint; without `key_env`, litellm finds the key by itself.

    Raises InvalidInput for a provider that litellm does not know, and for a variable without a key.
    """
    providers = list_providers()
    if providers and provider not in providers:
        message = f"--provider: litellm knows none named {show(provider)}"
        raise InvalidInput(
            Problem(
                message, allowed=list_names(providers), hint=suggest_nearest(provider, providers)
            )
        )
    key = _read_key(key_env, optional=False) if key_env else None
    return ModelEndpoint(model, None, key, provider, timeout_s=timeout_s)


def _read_key(name: str, *, optional: bool) -> str:
    key = os.environ.get(name, "")
    if not key and not optional:
        raise InvalidInput(f"the variable {name} is not set; export the endpoint's key in it")
    if not key.isascii() or any(map(str.isspace, key)):
        raise InvalidInput(f"the variable {name} holds no usable key")
    return key

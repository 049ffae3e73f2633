"""Model ids of this wire: geo prefixes, ARNs, and the path that an id makes. Pure.

An id is `anthropic.claude-…-v1:0`, the same behind the prefix of a cross-region inference profile (`us.`), or an ARN.
Prefixes: https://docs.aws.amazon.com/bedrock/latest/userguide/inference-profiles-support.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

GEOS: Final = frozenset({"us", "eu", "apac", "jp", "au", "ca", "us-gov", "global", "sa", "amer"})
VENDORS: Final = frozenset({
    "ai21", "amazon", "anthropic", "cohere", "deepseek", "google", "meta", "minimax", "mistral", "moonshot",
    "moonshotai", "nvidia", "openai", "qwen", "stability", "writer", "zai",
})  # fmt: skip


def is_arn(model: str) -> bool:
    return model.startswith("arn:")


def is_prompt(model: str) -> bool:
    """Whether it is a stored prompt, which brings its own system text, tools and settings."""
    return is_arn(model) and ":prompt/" in model


def has_geo(model: str) -> bool:
    """Whether a geo prefix stands before the id; one that is not known yet is told by the vendor behind it."""
    first, _, rest = model.partition(".")
    return first in GEOS or (first not in VENDORS and rest.partition(".")[0] in VENDORS)


def addressed(model: str, cross_region: str) -> str:
    """The id that is asked for: with the prefix, unless it is an ARN or has one."""
    prefix = cross_region.rstrip(".")
    return model if not prefix or is_arn(model) or has_geo(model) else f"{prefix}.{model}"


def bare_id(model: str, base_models: Mapping[str, str]) -> str:
    """The id without region and prefix, in lower case, by which capabilities are looked up.

    `base_models`: what ARNs stand for that do not tell it; those of foundation models and of AWS's own profiles do.
    """
    model = base_models.get(model, model)
    if is_arn(model):
        model = model.rpartition("/")[2]
    return (model.partition(".")[2] if has_geo(model) else model).lower()


def path_of(model: str, *, stream: bool) -> str:
    """The request's path. `:` and `/` of an id are encoded: in an ARN, they would else be the path's own."""
    return f"/model/{quote(model, safe='')}/{'converse-stream' if stream else 'converse'}"

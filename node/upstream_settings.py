"""The configuration of an upstream engine as the engine takes it."""

from urllib.parse import urlsplit

from node.config import EngineConfig
from node.engine.settings import UpstreamModel, UpstreamSettings


def upstream_settings(engine: EngineConfig) -> UpstreamSettings:
    """What `[engine]` says of the server. A base URL without a path gets the one that servers use."""
    url = engine.upstream_url.rstrip("/")
    return UpstreamSettings(
        url=url if urlsplit(url).path else f"{url}/v1",
        key=engine.upstream_key,
        models=tuple(
            UpstreamModel(alias, engine.upstream_models.get(alias, alias)) for alias in engine.models
        ),
        context_tokens=engine.upstream_context_tokens or None,
        max_batch=engine.max_batch,
        max_queue=engine.max_queue,
    )

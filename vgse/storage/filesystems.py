"""One connection to a store per process: fsspec's filesystems, and signed requests for reading from S3."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

import fsspec
from pydantic import SecretStr

from vgse.config import StorageConfig
from vgse.errors import StorageError

if TYPE_CHECKING:
    from vgse.storage.s3_requests import S3Requests

S3 = frozenset({"s3", "s3a"})
_FROM_ENVIRONMENT = {
    "key": "AWS_ACCESS_KEY_ID",
    "secret": "AWS_SECRET_ACCESS_KEY",
    "token": "AWS_SESSION_TOKEN",
}


def with_environment(config: StorageConfig) -> StorageConfig:
    """`config` with what it leaves empty taken from this process's AWS variables."""
    given: dict[str, Any] = {}
    if config.key is None and not config.anonymous:
        given = {
            field: SecretStr(os.environ[name]) for field, name in _FROM_ENVIRONMENT.items() if os.environ.get(name)
        }
    endpoint = config.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = config.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return config.model_copy(update={**given, "endpoint_url": endpoint, "region": region})


def filesystem(scheme: str, config: StorageConfig) -> Any:
    """The fsspec filesystem for `scheme`.

    Raises:
        StorageError: no package for it is installed.
    """
    return _filesystem(scheme, _s3_options(config) if scheme in S3 else (), os.getpid())


def s3_requests(config: StorageConfig) -> S3Requests:
    """What reads from S3 at little cost."""
    return _s3_requests(_s3_options(config), os.getpid())


def _s3_options(config: StorageConfig) -> tuple[tuple[str, Any], ...]:
    reveal = {
        name: secret and secret.get_secret_value()
        for name, secret in (("key", config.key), ("secret", config.secret), ("token", config.token))
    }
    return (*reveal.items(), ("endpoint_url", config.endpoint_url), ("region", config.region),
            ("anon", config.anonymous), ("retries", config.retries), ("timeout_s", config.timeout_s))  # fmt: skip


# `pid` keeps a forked child from sharing its parent's connections.
@functools.lru_cache(maxsize=16)
def _s3_requests(s3_options: tuple[tuple[str, Any], ...], pid: int) -> S3Requests:
    # botocore takes a third of a second to import, which those who never meet S3 need not spend.
    from vgse.storage.s3_requests import S3Requests

    return S3Requests(**dict(s3_options))


@functools.lru_cache(maxsize=16)
def _filesystem(scheme: str, s3_options: tuple[tuple[str, Any], ...], pid: int) -> Any:
    if not s3_options:
        try:
            return fsspec.filesystem(scheme)
        except (ImportError, ValueError) as error:
            raise StorageError(
                f"{scheme}:// cannot be opened: {error}", f"install the fsspec package for {scheme}"
            ) from None
    options = dict(s3_options)
    seconds, retries, region = options.pop("timeout_s"), options.pop("retries"), options.pop("region")
    return fsspec.filesystem(
        "s3",
        **options,
        use_listings_cache=False,
        client_kwargs={"region_name": region} if region else {},
        config_kwargs={
            "connect_timeout": min(10.0, seconds),
            "read_timeout": seconds,
            # Servers other than AWS answer a range with the checksum of the whole object.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
            "retries": {"max_attempts": retries, "mode": "standard"},
        },
    )

"""Addresses such as s3://bucket/folder: what may be in one, and files behind one, with faults said plainly.

fsspec opens them; options and credentials come from the environment, as each of its filesystems reads it
(s3fs: AWS_ACCESS_KEY_ID, AWS_PROFILE, AWS_ENDPOINT_URL, ...; gcsfs: GOOGLE_APPLICATION_CREDENTIALS, what
gcloud or the machine's service account gives, STORAGE_EMULATOR_HOST), never from an address.
"""

import errno
import hashlib
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vadclip.errors import InputError

_REMOTE = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]*://")
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
_EXTRAS = {"s3fs": "s3", "gcsfs": "gcs"}
_GOOGLE = ("gs", "gcs")
_CLIENTS = {"botocore", "aiobotocore", "aiohttp", "gcsfs", "google", "azure", "requests", "urllib3"}
_BLOCK_BYTES = 2**20


def is_remote(uri: str) -> bool:
    """Whether `uri` names a scheme such as s3:// (one letter before the colon is a drive, not a scheme)."""
    return _REMOTE.match(uri) is not None


def address_fault(uri: str) -> str | None:
    """Say what must not be in an address: credentials, which would land in files and logs, `..` and `::`."""
    if not is_remote(uri):
        return None
    if "@" in urlsplit(uri).netloc:
        return "an address must not hold a name or password: credentials belong into the environment"
    if ".." in uri.split("://", 1)[1].split("/"):
        return "an address must not hold '..'"
    if "::" in uri:  # fsspec reads a chain of filesystems there, which may open other files
        return "an address must not hold '::', an address within another one"
    return None


def folder_fault(uri: str) -> str | None:
    """Say what must not be in the address of a folder: as above, and a query, which may hold credentials."""
    if is_remote(uri) and re.search(r"[?#]", uri):
        return "the address of a folder has no ? and no #: credentials belong into the environment"
    return address_fault(uri)


def open_filesystem(uri: str) -> tuple[Any, str]:
    """Return the fsspec filesystem of an address, and the address as that filesystem wants it.

    Raises InputError if the address holds what it must not, or its scheme needs a package that is missing.
    """
    import fsspec

    if (fault := address_fault(uri)) is not None:
        raise InputError(f"{shown(uri)}: {fault}")
    scheme = uri.split("://", 1)[0]
    # A cached listing would hide what another machine has written since.
    options: dict[str, Any] = {"use_listings_cache": False} if scheme in _PACKAGES else {}
    try:
        if scheme in _GOOGLE:
            return _google_filesystem(options), uri.split("://", 1)[1].rstrip("/")
        filesystem, path = fsspec.core.url_to_fs(uri, **options)
    except ImportError:
        package = _PACKAGES.get(scheme, f"fsspec's package for {scheme}://")
        extra = f" (pip install 'vadclip-flow[{_EXTRAS[package]}]')" if package in _EXTRAS else ""
        raise InputError(
            f"{shown(uri)}: {scheme}:// needs {package}, which is not installed{extra}"
        ) from None
    except ValueError:
        raise InputError(f"{shown(uri)}: fsspec knows no {scheme}:// addresses") from None
    return filesystem, str(path)


def _google_filesystem(options: dict[str, Any]) -> Any:
    """Open the gcsfs that speaks HTTP only, and for which a `#` or `?` in a name is part of the name.

    Its default class asks for the kind of each bucket by gRPC, which emulators lack and forks do not survive.
    """
    import aiohttp
    from gcsfs.core import GCSFileSystem

    log = logging.getLogger("gcsfs")  # it logs, with its traceback, each error that it raises as well
    if not log.handlers:
        log.addHandler(logging.NullHandler())
    waits = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
    return GCSFileSystem(requests_timeout=waits, consistency="md5", **options)


def shown(uri: str) -> str:
    """Return an address as messages may show it: without name, password and query."""
    head, separator, rest = uri.partition("://")
    host, slash, path = rest.partition("/")
    return f"{head}{separator}{host.rpartition('@')[2]}{slash}{path.partition('?')[0]}" if separator else uri


@contextmanager
def plain_faults(uri: str) -> Iterator[None]:
    """Turn what network clients raise into OSError, whose text holds no address, or into InputError.

    FileNotFoundError and PermissionError stay what they are.
    """
    try:
        yield
    except Exception as error:
        google = uri.split("://", 1)[0] in _GOOGLE
        if google and (fault := _google_fault(uri, error)) is not None:
            raise fault from None
        if isinstance(error, InputError | FileNotFoundError | PermissionError):
            raise
        kind = type(error)
        if kind.__name__ in {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"}:
            raise InputError(
                f"{shown(uri)}: no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                "AWS_PROFILE, on every machine that reads it"
            ) from None
        if kind.__module__.split(".")[0] in _CLIENTS or isinstance(error, TimeoutError):
            server = f"{shown(uri).split('/')[2]} does not answer"
            raise OSError(errno.EIO, f"{server} ({kind.__name__})") from None
        raise


def _google_fault(uri: str, error: Exception) -> Exception | None:
    """Return what gcsfs means by an error without an errno, whose text may hold a URL; None for any other."""
    name, text = type(error).__name__, str(error)
    reason = text.strip().splitlines()[-1] if text.strip() else name
    code = str(getattr(error, "code", "")) if name == "HttpError" else ""
    if code == "401" or name in {"NonRetryableError", "DefaultCredentialsError", "RefreshError"}:
        # Without credentials gcsfs asks anonymously, and the server says 401.
        return InputError(
            f"{shown(uri)}: no credentials, or not valid ones: set GOOGLE_APPLICATION_CREDENTIALS to the key "
            "file of a service account, run `gcloud auth application-default login`, or give the machine a "
            "service account; on every machine that reads it"
        )
    if isinstance(error, FileNotFoundError) and error.errno is None:
        return FileNotFoundError(errno.ENOENT, "there is no such object or bucket")
    if isinstance(error, OSError) and error.errno is None and text.startswith("Forbidden: "):
        return PermissionError(errno.EACCES, f"access denied: {reason}")
    if isinstance(error, ValueError) and text.startswith(("Bad Request: ", "Bucket is requester pays")):
        return OSError(errno.EINVAL, f"the server refuses the request: {reason}")
    if code:
        lasting = code.startswith("4") and code not in ("408", "429")
        return OSError(errno.EINVAL if lasting else errno.EIO, f"the server refuses the request: {reason}")
    return None


def stamp(info: dict[str, Any]) -> str:
    """What tells a changed object from an unchanged one: the store's tag, or else its time.

    Google's etag changes with an object's metadata as well; its MD5, which composed objects lack, does not.
    """
    names = ("ETag", "md5Hash", "generation", "etag", "LastModified", "mtime", "updated", "created")
    marks = (info.get(name) for name in names)
    return next((str(mark) for mark in marks if mark), "")


def remote_size(uri: str) -> int:
    """Bytes of a remote file; 0 if its server does not say. Raises OSError."""
    filesystem, inner = open_filesystem(uri)
    with plain_faults(uri):
        return int(filesystem.info(inner).get("size") or 0)


def download(
    uri: str, path: Path, *, beat: Callable[[float], None] = lambda amount: None, reserved: bool = False
) -> str:
    """Copy a remote file to `path` and return the SHA-256 of its bytes; `beat(0)` is called as they come.

    A file that is `reserved`, there in its final size, is written over, so that others can count it.
    Raises OSError; FileNotFoundError if there is no such file.
    """
    filesystem, inner = open_filesystem(uri)
    digest = hashlib.sha256()
    with (
        plain_faults(uri),
        filesystem.open(inner, "rb", block_size=8 * _BLOCK_BYTES, cache_type="readahead") as remote,
        open(path, "r+b" if reserved else "wb") as local,
    ):
        while block := remote.read(_BLOCK_BYTES):
            local.write(block)
            digest.update(block)
            beat(0)
        local.truncate()
    return digest.hexdigest()

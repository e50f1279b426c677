"""A pipeline package: the manifest and the files that it names, in one msgpack map."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack

from appliance.pipelines.manifest import Manifest, parse_manifest
from host_sdk.wire.errors import ConfigError
from host_sdk.wire.schema import MAX_PACKAGE

MANIFEST_NAME = "pipeline.toml"


@dataclass(frozen=True, slots=True)
class Package:
    """A manifest and the bytes of the files that it names."""

    manifest: Manifest
    files: dict[str, bytes]

    def file(self, name: str) -> bytes:
        """Return a file of the package.

        Raises:
            ConfigError: The package has no such file.
        """
        try:
            return self.files[name]
        except KeyError:
            raise ConfigError(f"the package has no file {name!r}, which its manifest names") from None


def pack_directory(directory: Path) -> bytes:
    """Read ``pipeline.toml`` and the files it names from a directory; return the package's bytes.

    Raises:
        ConfigError: A file is missing, or the manifest or the package is wrong.
    """
    try:
        text = (directory / MANIFEST_NAME).read_text(encoding="utf-8")
        manifest = parse_manifest(text)
        files = {name: (directory / name).read_bytes() for name in sorted(manifest.file_names())}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"pipeline in {directory} cannot be read: {error}") from None
    packed: bytes = msgpack.packb({"manifest": text, "files": files})
    if len(packed) > MAX_PACKAGE:
        raise ConfigError(f"the package has {len(packed)} bytes; at most {MAX_PACKAGE} are taken")
    return packed


def unpack(data: bytes) -> Package:
    """Return the package in these bytes.

    Raises:
        ConfigError: The bytes are no package, or the manifest is wrong.
    """
    if len(data) > MAX_PACKAGE:
        raise ConfigError(f"the package has {len(data)} bytes; at most {MAX_PACKAGE} are taken")
    try:
        content: Any = msgpack.unpackb(data, strict_map_key=True, max_map_len=64, max_array_len=0)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise ConfigError(f"not a pipeline package: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError("not a pipeline package: no map")
    text, files = content.get("manifest"), content.get("files")
    if not isinstance(text, str) or not isinstance(files, dict):
        raise ConfigError("not a pipeline package: it needs a manifest (text) and files (a map)")
    if not all(isinstance(name, str) and isinstance(value, bytes) for name, value in files.items()):
        raise ConfigError("not a pipeline package: files must map names to bytes")
    return Package(parse_manifest(text), files)

"""Which pipelines the hardware serves: kept in flash, loaded at boot, installed and removed on request."""

import logging
import re
from typing import Any

from firmware.hal import Hal
from firmware.packing import MapReader
from host_sdk.wire.errors import (
    BadPipelineError,
    DeviceError,
    StatusError,
    UnknownPipelineError,
)
from host_sdk.wire.schema import MAX_PACKAGE

_PREFIX = "pipelines/"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")

_log = logging.getLogger(__name__)


class Pipelines:
    """Keeps the packages in flash and the pipelines in hardware the same."""

    def __init__(self, hal: Hal) -> None:
        self._hal = hal

    def restore(self) -> None:
        """Load every package in flash that the hardware does not serve yet; one that fails is passed over.

        Every package is progress for the watchdog.
        """
        served = {pipeline["name"] for pipeline in self._hal.pipelines()}
        for name, size in self._stored().items():
            if name in served:
                continue
            self._hal.kick_watchdog()
            try:
                self._hal.load_pipeline(self._hal.flash.read(_PREFIX + name, size))
            except (StatusError, DeviceError) as error:
                _log.warning("pipeline %s stays out: %s", name, error)
            else:
                _log.info("pipeline %s loaded from flash", name)

    def describe(self) -> list[dict[str, Any]]:
        """Return the descriptions of all pipelines that are served."""
        return self._hal.pipelines()

    def install(self, package: bytes) -> dict[str, Any]:
        """Serve a package from now on, in place of one of the same name; return its description.

        Raises:
            BadPipelineError: It is no package, or the hardware cannot run it.
            NoSpaceError: It does not fit into flash.
        """
        check_package(package)
        description = self._hal.load_pipeline(package)
        name = str(description["name"])
        try:
            if not _NAME.fullmatch(name):
                raise BadPipelineError(f"a pipeline cannot be named {name!r}; use the form {_NAME.pattern}")
            self._hal.flash.write(_PREFIX + name, package)
        except (StatusError, DeviceError):
            self._revert(name)
            raise
        _log.info("pipeline %s installed: %d bytes", name, len(package))
        return description

    def remove(self, name: str) -> None:
        """Serve a pipeline no longer, and forget it.

        Raises:
            UnknownPipelineError: There is none of this name.
        """
        # Flash first: if the firmware dies in between, what is gone stays gone after the next loss of power.
        stored = name in self._stored() and self._hal.flash.delete(_PREFIX + name)
        if not self._hal.unload_pipeline(name) and not stored:
            raise UnknownPipelineError(f"there is no pipeline {name[:100]!r}; ask for pipelines to see which there are")
        _log.info("pipeline %s removed", name)

    def _stored(self) -> dict[str, int]:
        sizes = self._hal.flash.sizes()
        return {name.removeprefix(_PREFIX): size for name, size in sizes.items() if name.startswith(_PREFIX)}

    def _revert(self, name: str) -> None:
        # What flash still holds under this name is what was served before.
        self._hal.unload_pipeline(name)
        size = self._stored().get(name)
        if size is not None:
            self._hal.load_pipeline(self._hal.flash.read(_PREFIX + name, size))


def check_package(package: bytes) -> None:
    """Check the shape of a package: a msgpack map of a manifest (text) and files (name to bytes).

    Raises:
        BadPipelineError: It has another shape, or is too large.
    """
    if len(package) > MAX_PACKAGE:
        raise BadPipelineError(f"the package has {len(package)} bytes; at most {MAX_PACKAGE} are taken")
    reader = MapReader(package)
    found = []
    try:
        for key in reader.map_keys():
            found.append(key)
            _check_part(reader, key)
        reader.end()
    except ValueError as error:
        raise BadPipelineError(f"this is no pipeline package: {error}") from None
    if sorted(found) != ["files", "manifest"]:
        raise BadPipelineError("this is no pipeline package: it must be a map of manifest and files")


def _check_part(reader: MapReader, key: str) -> None:
    if key == "manifest":
        if not isinstance(reader.value(), str):
            raise ValueError("the manifest is no text")
    elif key == "files":
        for _ in reader.map_keys():
            if not isinstance(reader.value(), bytes):
                raise ValueError("files must map names to bytes")
    else:
        raise ValueError("it has a key that is neither manifest nor files")

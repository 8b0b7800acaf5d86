"""A node's GPUs through NVML, NVIDIA's management library: blocking calls, to be made from one thread.

Source: the NVML API reference. `nvmlDeviceGetPowerUsage` is the whole board in milliwatts;
`nvmlDeviceSetPowerManagementLimit` needs root and is forgotten by a restart of the driver.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any, Final

MAX_GPUS: Final = 64


class NoGpuError(RuntimeError):
    """NVML cannot be used on this machine. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One reading of one GPU, in milliwatts. None: it does not say."""

    uuid: str
    name: str
    power_mw: int | None
    limit_mw: int | None
    default_mw: int | None
    least_mw: int | None
    most_mw: int | None
    error: str | None = None
    """What NVML said where something failed that should not."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Nvml:
    """NVML, once it is initialised. `library` is the module `pynvml`."""

    def __init__(self, library: ModuleType | Any) -> None:
        """Raises `NoGpuError` where there is no driver, no right, or no GPU."""
        self._nvml = library
        try:
            library.nvmlInit()
            count = library.nvmlDeviceGetCount()
        except library.NVMLError as error:
            raise NoGpuError(_why(library, error)) from None
        if count == 0:
            raise NoGpuError("the NVIDIA driver finds no GPU on this machine; run this only on nodes that have one")

    def gpus(self) -> list[Gpu]:
        """All GPUs. One that has fallen off the bus has an error and no figures. Raises `NoGpuError` where the driver
        itself is gone."""
        nvml = self._nvml
        try:
            count = min(nvml.nvmlDeviceGetCount(), MAX_GPUS)
        except nvml.NVMLError as error:
            raise NoGpuError(_why(nvml, error)) from None
        return [self._gpu(index) for index in range(count)]

    def set_limit_mw(self, uuid: str, limit_mw: int) -> str | None:
        """Limit one GPU. Returns what NVML said where it did not; None where it did."""
        nvml = self._nvml
        try:
            nvml.nvmlDeviceSetPowerManagementLimit(nvml.nvmlDeviceGetHandleByUUID(uuid), limit_mw)
        except nvml.NVMLError_NoPermission:
            return "may not set limits: run wattshift-node-power as root"
        except nvml.NVMLError as error:
            return str(error)
        return None

    def close(self) -> None:
        try:
            self._nvml.nvmlShutdown()
        except self._nvml.NVMLError:
            return  # it is gone already

    def _gpu(self, index: int) -> Gpu:
        nvml = self._nvml
        uuid = f"index-{index}"
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            uuid = _text(nvml.nvmlDeviceGetUUID(handle))
            name = _text(nvml.nvmlDeviceGetName(handle))
            bounds = self._said(nvml.nvmlDeviceGetPowerManagementLimitConstraints, handle) or (None, None)
            return Gpu(
                uuid,
                name,
                self._said(nvml.nvmlDeviceGetPowerUsage, handle),
                self._said(nvml.nvmlDeviceGetPowerManagementLimit, handle),
                self._said(nvml.nvmlDeviceGetPowerManagementDefaultLimit, handle),
                *bounds,
            )
        except nvml.NVMLError as error:
            return Gpu(uuid, "", None, None, None, None, None, error=str(error))

    def _said(self, ask: Callable[[Any], Any], handle: Any) -> Any:
        """A figure; None where this GPU has none."""
        try:
            return ask(handle)
        except self._nvml.NVMLError_NotSupported:
            return None


def _why(nvml: ModuleType | Any, error: Exception) -> str:
    if isinstance(error, nvml.NVMLError_LibraryNotFound | nvml.NVMLError_DriverNotLoaded):
        return f"there is no NVIDIA driver on this machine ({error}); install it, or run this only on nodes with GPUs"
    if isinstance(error, nvml.NVMLError_NoPermission):
        return f"the NVIDIA driver may not be used by this user ({error}); run this as root"
    return f"NVML cannot be used: {error}"


def _text(value: object) -> str:
    """Old versions of the library answer bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)

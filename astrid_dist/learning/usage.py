"""What training takes of the machine: cores, memory, GPU, as means over an epoch for each worker.

They go to MLflow with the epoch's metrics, under the names of its page of system metrics, ``system/...``.
"""

import threading
from importlib.util import find_spec
from typing import Any

import torch
import torch.distributed as dist


class Usage:
    """Looks at this process and its machine every `every_s` seconds, in a thread that ends with the process.

    Without psutil there is nothing to tell; without nvidia-ml-py, of a GPU no more than its memory.
    """

    def __init__(self, device: torch.device, every_s: float = 5.0) -> None:
        self._device, self._every_s = device, every_s
        self._seen: list[dict[str, float]] = []
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        if find_spec("psutil") is None:
            return
        import psutil  # type: ignore[import-untyped]

        self._process, self._machine = psutil.Process(), psutil
        self._process.cpu_percent()  # the first call begins what the next one tells the mean of
        psutil.cpu_percent()
        threading.Thread(target=self._watch, name="usage", daemon=True).start()

    def mean(self) -> dict[str, float]:
        """Means since the last call."""
        with self._lock:
            seen, self._seen = self._seen, []
        return {name: sum(one[name] for one in seen) / len(seen) for name in (seen[0] if seen else ())}

    def of_all(self) -> dict[str, float]:
        """Means of all workers; to be called by each of them."""
        told: list[Any] = [self.mean()]
        if dist.is_initialized() and (ranks := dist.get_world_size()) > 1:
            own, told = told[0], [None] * ranks
            dist.all_gather_object(told, own)
        return {
            f"system/worker_{rank}/{name}": value
            for rank, one in enumerate(told)
            for name, value in one.items()
        }

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(self._every_s):
            try:
                now = self._look()
            except Exception:  # a driver that does not answer must not stop what it watches
                continue
            with self._lock:
                self._seen.append(now)

    def _look(self) -> dict[str, float]:
        found = {
            "cpu_percentage": self._process.cpu_percent(),  # of one core
            "memory_megabytes": self._process.memory_info().rss / 1e6,
            "machine_cpu_utilization_percentage": self._machine.cpu_percent(),
            "machine_memory_usage_percentage": self._machine.virtual_memory().percent,
        }
        if self._device.type == "cuda":
            found["gpu_memory_usage_megabytes"] = torch.cuda.memory_reserved(self._device) / 1e6
            if find_spec("pynvml") is not None:
                found["gpu_utilization_percentage"] = float(torch.cuda.utilization(self._device))
                found["gpu_power_usage_watts"] = torch.cuda.power_draw(self._device) / 1e3
        return found

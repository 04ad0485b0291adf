"""The time that work takes, whatever else the machine does meanwhile."""

import time

import torch


def seconds(device: torch.device) -> float:
    """A clock to take differences of: of this process's work on all processors, or of the wall on an accelerator."""
    return time.process_time() if device.type == "cpu" else time.perf_counter()

"""The time that work takes, little changed by whatever else the machine does meanwhile."""

import time

import torch


def seconds(device: torch.device) -> float:
    """A clock to take differences of: on a processor of this process's threads together, else of the wall.

    Threads that wait for each other without sleeping are counted, so more threads make the same work look longer.
    """
    return time.process_time() if device.type == "cpu" else time.perf_counter()

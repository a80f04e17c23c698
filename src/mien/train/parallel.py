"""Devices, precision and processes: the one place that knows Lightning Fabric."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn, optim
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from mien.files.errors import (
    CheckpointError,
    ConfigError,
    MienError,
    MissingExtraError,
    TableError,
    WeightsError,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_PATIENCE = timedelta(hours=6)  # the others wait while the first process decodes the tables


class Parallel:
    """One process of a training: its rank, its device, and what it shares with the others.

    Gradients are averaged after each backward pass over the parameters of the optimiser at hand,
    so a method may call any part of its networks in any order.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.rank: int = fabric.global_rank
        self.processes: int = fabric.world_size
        self.device: torch.device = fabric.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def autocast(self) -> Any:
        """Context of the forward pass in the chosen precision."""
        return self.fabric.autocast()

    def to_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Move a batch to this process's device."""
        moved: dict[str, Tensor] = self.fabric.to_device(batch)
        return moved

    def update(self, optimiser: optim.Optimizer, loss: Tensor, clip: float) -> None:
        """Backward, average over the processes, clip, step."""
        optimiser.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        if self.processes > 1:
            self._average(p for group in optimiser.param_groups for p in group["params"])
        if clip:
            self.fabric.clip_gradients(
                nn.Module(), optimiser, max_norm=clip, error_if_nonfinite=False
            )
        self.fabric.strategy.optimizer_step(optimiser)

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite ``tensors`` by those of the first process."""
        if self.processes > 1:
            for tensor in tensors:
                shared = tensor.detach().contiguous()
                torch.distributed.broadcast(shared, 0)
                tensor.detach().copy_(shared)

    def state(self) -> dict[str, Any]:
        """Return the loss scale of half precision; empty for others."""
        return dict(self.fabric.strategy.precision.state_dict())

    def load(self, state: dict[str, Any]) -> None:
        """Take over what ``state`` returned."""
        if state:
            self.fabric.strategy.precision.load_state_dict(state)

    def barrier(self) -> None:
        """Wait for the other processes."""
        self.fabric.barrier()

    def any(self, flag: bool) -> bool:
        """Return whether ``flag`` holds in any process; all processes must ask."""
        if self.processes == 1:
            return flag
        total = torch.tensor(int(flag), device=self.device)
        torch.distributed.all_reduce(total)
        return bool(total.item())

    def _average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average gradients; one that no process computed stays None."""
        wanted = [p for p in parameters if p.requires_grad]
        if not wanted:
            return
        parts = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in wanted]
        computed = torch.tensor([float(p.grad is not None) for p in wanted], device=self.device)
        flat = torch.cat([*parts, computed.to(parts[0].dtype)])
        torch.distributed.all_reduce(flat)
        flat /= self.processes
        at = 0
        for parameter, known in zip(wanted, flat[-len(wanted) :].tolist(), strict=True):
            mean = flat[at : at + parameter.numel()].view(parameter.shape)
            at += parameter.numel()
            if known:
                if parameter.grad is None:
                    parameter.grad = torch.empty_like(parameter)
                parameter.grad.copy_(mean)


def fast_precision(accelerator: str) -> str:
    """Return ``bf16-mixed`` where the device multiplies bfloat16 itself, else ``32-true``.

    On a CPU by AMX tiles or AVX-512; an old torch that cannot tell of them counts as without.
    """
    if accelerator in ("auto", "cuda") and torch.cuda.is_available():
        fast: bool = torch.cuda.is_bf16_supported(including_emulation=False)
    elif accelerator in ("auto", "cpu"):
        told: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        fast = any(told.get(unit, False) for unit in ("amx_bf16", "avx512_bf16"))
    else:
        fast = False
    return "bf16-mixed" if fast else "32-true"


def launch(
    worker: Callable[..., Any], *args: Any, devices: int, accelerator: str, precision: str
) -> Any:
    """Run ``worker(Parallel, *args)`` in ``devices`` processes; return the first one's result.

    With one device the worker runs in this process.

    Raises:
        MissingExtraError: Lightning Fabric is not installed.
        ConfigError: So many devices, or such an accelerator, are not there.
        MienError: Whatever a process raised, by its own class.
    """
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.strategies.ddp import DDPStrategy
    except ImportError:
        raise MissingExtraError("lightning-fabric", "train") from None
    if devices < 1:
        raise ConfigError(f"devices is at least 1, not {devices}.")
    try:
        fabric = Fabric(
            accelerator=accelerator,
            devices=devices,
            strategy=DDPStrategy(start_method="spawn", timeout=_PATIENCE)
            if devices > 1
            else "auto",
            precision=precision,  # type: ignore[arg-type]  # load_recipe checked it
        )
    except Exception as error:  # Fabric raises many kinds
        reason = " ".join(str(error).split())
        raise ConfigError(f"Cannot train on {devices} x {accelerator}: {reason}") from None
    # Bound beforehand: Fabric searches what it hands on for modules and refuses frozen dataclasses.
    try:
        return fabric.launch(partial(_run, worker, args))
    except ProcessRaisedException as error:  # its text is the traceback of the process
        for kind in (ConfigError, CheckpointError, TableError, WeightsError, MienError):
            found = re.search(rf"^{kind.__module__}\.{kind.__name__}: (.+)$", str(error), re.M)
            if found:
                raise kind(found[1]) from None
        raise
    except ProcessExitedException as error:
        raise CheckpointError(
            f"A process of the training was killed ({error}), perhaps for want of memory: go on "
            "with --resume, or with fewer devices."
        ) from None


def _run(worker: Callable[..., Any], args: tuple[Any, ...], fabric: Fabric) -> Any:
    try:
        result = worker(Parallel(fabric), *args)
        if fabric.world_size > 1:  # its threads abort a process that ends while they run
            fabric.barrier()
            torch.distributed.destroy_process_group()
        return result
    except MienError:
        raise
    except Exception:
        if fabric.world_size > 1:  # perhaps only the end of another process as seen from here:
            time.sleep(3)  # let that one tell why
        raise


def cores(processes: int) -> int:
    """Return the threads that each of ``processes`` gets; OMP_NUM_THREADS decides if set."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked):
        return int(asked)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (usable or 1) // processes)

"""The engine: from a recipe to weights. It knows nothing of any paper."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn, optim

from mien.data.cache import FaceCache
from mien.data.table import Table
from mien.faces.image import write_image
from mien.files.errors import CheckpointError, ConfigError
from mien.files.memory import keep_memory
from mien.files.weights import SHIPPED, load_weights, save_weights
from mien.methods.base import Batch, Method, Sampler, config_from, method_class
from mien.train.best import Best
from mien.train.checkpoint import (
    Checkpoint,
    checkpoints,
    clean,
    disk_errors,
    load_newest,
    pack_optimiser,
    save_checkpoint,
    stored,
    unpack_optimiser,
)
from mien.train.ema import Ema
from mien.train.log import Log, say
from mien.train.parallel import Parallel, cores, fast_precision, launch
from mien.train.prefetch import channels_last, prefetch
from mien.train.recipe import Overrides, Recipe, load_recipe, override_pairs
from mien.train.seed import seed_torch
from mien.train.signals import forward_signals, stop_on_signal
from mien.train.statistics import refreshed_statistics

PREVIEW = 1 << 31  # the preview's batch is drawn as if for this step, which no training reaches
STATISTICS = PREVIEW + 1  # and from here on those for the statistics of averaged weights
_BATCHES = 8  # of them

# What may differ between a run and its resumption without changing what a step computes.
_FREE = (
    *("tables", "steps", "images"),
    *("preview_every", "checkpoint_every", "log_every", "measure_every"),
)


@dataclasses.dataclass(frozen=True)
class Job:
    """A recipe together with how this run of it is carried out.

    Attributes:
        recipe: What to compute.
        out: Folder of the run.
        command: The command that repeats it.
        init_from: Weights to start from, or None.
        resume: Go on from the newest checkpoint in ``out``.
        threads: Threads of each process.
        tensorboard: Write event files too.
    """

    recipe: Recipe
    out: Path
    command: str
    init_from: Path | None = None
    resume: bool = False
    threads: int = 1
    tensorboard: bool = False


def train(
    recipe: str | Path,
    *,
    overrides: Overrides = (),
    out: str | Path | None = None,
    resume: bool = False,
    dry_run: bool = False,
    init_from: str | Path | None = None,
    devices: int = 1,
    accelerator: str = "auto",
    precision: str | None = None,
    threads: int = 0,
    tensorboard: bool = False,
) -> Path:
    """Train a method as a recipe says.

    ``out`` then holds ``weights.safetensors`` with its card ``weights.json`` (rewritten at every
    checkpoint), ``metrics.jsonl``, ``previews/`` and ``checkpoints/``; with ``measure_every`` also
    ``best.safetensors`` and ``best.json``, the weights with the best measure so far.

    Args:
        recipe: A YAML file, or the short name of a recipe (``pcl/laptop``).
        overrides: ``{"key": value}`` or ``["key=value"]``, e.g. ``["config.width=32"]``.
        out: Folder of the run; ``runs/<method>/<recipe>`` if None.
        resume: Go on from the newest whole checkpoint in ``out``; start if there is none.
        dry_run: Only print what would be done, at which speed; write nothing (but the caches
            beside the tables).
        init_from: Weights to start from: a ``.safetensors`` file, the folder of another run, or a
            shipped name. Tensors that only one side has are left out; resuming ignores it.
        devices: Number of processes, each with a batch of its own.
        accelerator: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: Overrides the recipe's.
        threads: CPU threads of each process; 0: all cores, shared among the processes.
        tensorboard: Also write TensorBoard event files.

    Returns:
        The folder of the run.

    Raises:
        ConfigError: Recipe, overrides, or a resume with other settings.
        TableError: A table is missing or lacks a column that the method needs.
        CheckpointError: ``out`` is in use, checkpoints are damaged, or the disk is full.
    """
    pairs = override_pairs(overrides)
    if precision is not None:
        pairs.append(("precision", precision))
    settings = load_recipe(recipe, dict(pairs), processes=devices)
    if settings.precision == "auto":
        settings = dataclasses.replace(settings, precision=fast_precision(accelerator))
    name = Path(recipe).with_suffix("").name
    folder = Path(out) if out is not None else Path("runs") / settings.method / name
    earlier = checkpoints(folder / "checkpoints")
    job = Job(
        recipe=settings,
        out=folder,
        command=_command(recipe, pairs, init_from, devices),
        init_from=None if init_from is None or (resume and earlier) else weights_file(init_from),
        resume=resume,
        threads=threads or cores(devices),
        tensorboard=tensorboard,
    )
    if dry_run:
        from mien.train.estimate import estimate

        print(estimate(job, devices, accelerator))
        return folder
    if not resume and (earlier or (folder / "weights.safetensors").exists()):
        raise CheckpointError(
            f"{folder} already holds a training: go on with --resume, or choose another --out."
        )
    with forward_signals() if devices > 1 else contextlib.nullcontext():
        launch(
            _work,
            job,
            devices=devices,
            accelerator=accelerator,
            precision=settings.precision,
        )
    return folder


def _work(parallel: Parallel, job: Job) -> None:
    keep_memory()
    Training(job, parallel).run()


class Training:
    """One process of a training.

    Attributes:
        method: The method in training.
        sampler: Step → batch of this process.
        optimisers: By the method's names.
        data: Name, fingerprint, faces and licences of each table.
    """

    def __init__(self, job: Job, parallel: Parallel) -> None:
        self.job, self.recipe, self.parallel = job, job.recipe, parallel
        recipe = self.recipe
        torch.set_num_threads(job.threads)
        cls = method_class(recipe.method)
        config = config_from(cls.Config, recipe.config)
        seed_torch(recipe.seed, 0, 0)
        self.method: Method = cls(config, recipe.stage or cls.stages[0])
        if self.method.columns and not recipe.tables:
            raise ConfigError("The recipe names no table of faces; add tables=FOLDER.")
        if recipe.measure_every and cls.measure is Method.measure:
            raise ConfigError(f"{recipe.method} measures nothing; leave measure_every out.")
        self.caches = caches = [self._cache(folder) for folder in recipe.tables]
        self.data = [cache.named() for cache in caches]
        self.sampler: Sampler = self.method.sampler(
            caches, recipe.batch_size, recipe.seed, parallel.rank
        )
        if job.init_from is not None:
            self._start_from(job.init_from)
        self.method.to(parallel.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.method.train()
        parallel.share(self.method.state_dict().values())
        self.optimisers: dict[str, optim.Optimizer] = self.method.optimisers(recipe.learning_rate)
        self.bases = {
            name: [float(group["lr"]) for group in optimiser.param_groups]
            for name, optimiser in self.optimisers.items()
        }
        self.ema = Ema(self.method, recipe.ema) if recipe.ema else None
        self.fresh: tuple[int, dict[str, Tensor]] = (-1, {})  # step, statistics of the average
        self.best = Best(job.out / "best.safetensors")

    def step(self, step: int, batch: Batch) -> dict[str, float]:
        """Train on one batch; return the method's scalars."""
        factor = self.recipe.factor(step)
        for name, optimiser in self.optimisers.items():
            for group, base in zip(optimiser.param_groups, self.bases[name], strict=True):
                group["lr"] = base * factor
        # As the batch, a network's own noise is a function of the step: resuming is exact.
        seed_torch(self.recipe.seed, self.parallel.rank, step + 1)

        def update(name: str, loss: Tensor) -> None:
            if not torch.isfinite(loss):
                raise ConfigError(
                    f"The loss of {name!r} is not a finite number at step {step + 1}: lower "
                    "learning_rate or set clip, and train again."
                )
            with torch.autocast(self.parallel.device.type, enabled=False):
                self.parallel.update(self.optimisers[name], loss, self.recipe.clip)

        with self.parallel.autocast():
            scalars = self.method.step(self.parallel.to_device(batch), update)
        if self.ema is not None:
            self.ema.update(step)
        return scalars

    def run(self) -> None:
        """Train to the recipe's last step, or until a signal asks to stop."""
        recipe, parallel, out = self.recipe, self.parallel, self.job.out
        start, log_state = self._resume()
        with contextlib.ExitStack() as stack:
            stop = stack.enter_context(stop_on_signal())
            log: Log | None = None
            if parallel.first:
                log = stack.enter_context(
                    Log(
                        out,
                        steps=recipe.steps,
                        every=recipe.log_every,
                        images_per_step=recipe.batch_size * parallel.processes,
                        state=log_state,
                        start=start,
                        tensorboard=self.job.tensorboard,
                    )
                )
            if not log_state:  # a new run; tells at once whether the folder can be written
                self._checkpoint(0, log)
                if log is not None and recipe.measure_every:  # and whether it can be measured
                    self._measure(0, log)
            elif log is not None and start >= recipe.steps:  # killed before they were written
                self._save_weights(start)
            batches = stack.enter_context(
                contextlib.closing(prefetch(self.sampler, start, recipe.steps))
            )
            for step, batch in batches:
                done = step + 1
                scalars = self.step(step, batch)
                last = done == recipe.steps
                if log is not None:
                    log.add(done, scalars, recipe.learning_rate * recipe.factor(step))
                    if recipe.preview_every and (last or done % recipe.preview_every == 0):
                        self._preview(done)
                    if self._due(done):
                        self._measure(done, log)
                stopped = parallel.any(stop.is_set())
                if last or stopped or done % recipe.checkpoint_every == 0:
                    self._checkpoint(done, log)
                if stopped and not last:
                    if log is not None:
                        say(
                            f"Stopped after step {done} of {recipe.steps}; go on with: "
                            f"{self.job.command} --out {shlex.quote(str(out))} --resume"
                        )
                    return

    def weights(self) -> dict[str, Tensor]:
        """Return what is worth keeping of the method's tensors, contiguous on the CPU."""
        state = self.method.state_dict()
        return {name: stored(value) for name, value in state.items() if self._saved(name)}

    def _saved(self, name: str) -> bool:
        """Whether a tensor is stored; others are made anew by the method's constructor."""
        return not name.startswith(self.method.not_saved)

    def _cache(self, folder: str) -> FaceCache:
        Table(folder).require(self.method.columns, self.method.name)
        if not self.parallel.first:
            self.parallel.barrier()  # the first process decodes, the others find its file
        cache = FaceCache(folder, self.recipe.size)
        if self.parallel.first:
            self.parallel.barrier()
        return cache

    def _start_from(self, file: Path) -> None:
        tensors = self.method.adopt(load_weights(file)[0])
        own = self.method.state_dict()
        known = [name for name in tensors if name in own]
        if not known:
            raise ConfigError(
                f"{file} has no tensor of {self.recipe.method}; give weights of that method."
            )
        for name in known:
            if own[name].shape != tensors[name].shape:
                raise ConfigError(
                    f"{name} is {tuple(tensors[name].shape)} in {file} and "
                    f"{tuple(own[name].shape)} in this recipe; give both the same config."
                )
        self.method.load_state_dict({name: tensors[name] for name in known}, strict=False)
        new = [name for name in own if name not in tensors and self._saved(name)]
        parts = ", ".join(dict.fromkeys(name.partition(".")[0] for name in new))
        if self.parallel.first:
            say(
                f"Starts from {file}: {len(known)} tensors, {len(new)} new ones"
                f"{f' (not in the file: {parts})' if new else ''}, "
                f"{len(tensors) - len(known)} not used."
            )

    def _resume(self) -> tuple[int, dict[str, Any]]:
        """Take over the newest checkpoint; return its step and the log's state."""
        folder = self.job.out / "checkpoints"
        warn = say if self.parallel.first else (lambda text: None)
        found = load_newest(folder, warn) if self.job.resume else None
        start = int(found.state["step"]) if found is not None else None
        if found is not None:
            self._check_same(found.state)
        self.parallel.barrier()
        if self.parallel.first:
            clean(self.job.out, start)
            if found is not None:
                self.best.resume()
        if found is None or start is None:
            return 0, {}
        self.parallel.load(found.state.get("precision", {}))
        weights = found.part("weights")
        missing, unexpected = self.method.load_state_dict(weights, strict=False)
        if unexpected or any(self._saved(name) for name in missing):
            raise CheckpointError(
                f"The newest checkpoint in {folder} is of another network: use the version of mien "
                "that wrote it, or train again into another folder."
            )
        if self.ema is not None:
            self.ema.load(found.part("ema"))
        for name, optimiser in self.optimisers.items():
            values = found.state["optimisers"][name]
            unpack_optimiser(optimiser, found.part(f"optimiser/{name}"), values)
        if self.parallel.first:
            say(f"Goes on after step {start} of {self.recipe.steps}.")
        return start, found.state["log"]

    def _check_same(self, state: dict[str, Any]) -> None:
        new = self._identity()
        # Settings that the program did not have then were what their defaults are now.
        config = dataclasses.asdict(type(self.method.config)())
        settings = {**dataclasses.asdict(Recipe()), "config": config}
        usual = _flat(json.loads(json.dumps(settings)))
        old = {key: usual[key] for key in new if key in usual} | state["recipe"]
        differ = sorted(key for key in old | new if old.get(key) != new.get(key))
        if differ:
            changes = ", ".join(f"{k} (was {old.get(k)!r}, is {new.get(k)!r})" for k in differ)
            raise CheckpointError(
                f"{self.job.out} was trained with other settings: {changes}. Resume with the "
                "same, or train into another folder."
            )

    def _identity(self) -> dict[str, Any]:
        """Return what must not change on resume."""
        values = {k: v for k, v in self.recipe.as_dict().items() if k not in _FREE}
        values["stage"] = self.method.stage
        values["config"] = dataclasses.asdict(self.method.config)
        values["devices"] = self.parallel.processes
        values["tables"] = [entry["fingerprint"] for entry in self.data]
        return _flat(json.loads(json.dumps(values)))

    def _checkpoint(self, step: int, log: Log | None) -> None:
        """Write a checkpoint and the weights, in the first process."""
        self.parallel.share(self.method.buffers())
        if log is None:
            return
        tensors = {f"weights/{name}": value for name, value in self.weights().items()}
        if self.ema is not None:
            tensors |= {f"ema/{name}": stored(v) for name, v in self.ema.average.items()}
        numbers = {}
        for name, optimiser in self.optimisers.items():
            packed, numbers[name] = pack_optimiser(optimiser)
            tensors |= {f"optimiser/{name}/{key}": value for key, value in packed.items()}
        state = {"recipe": self._identity(), "optimisers": numbers, "log": log.state()}
        state["precision"] = self.parallel.state()
        save_checkpoint(self.job.out / "checkpoints", step, Checkpoint(tensors, state))
        if step:
            self._save_weights(step)

    def _save_weights(self, step: int) -> None:
        with disk_errors(self.job.out), self._averaged(step):
            save_weights(self.job.out / "weights.safetensors", self.weights(), self._card(step))

    def _card(self, step: int) -> dict[str, Any]:
        recipe = self.recipe.as_dict()
        recipe["tables"] = [entry["table"] for entry in self.data]
        command = self.job.command
        for folder in self.recipe.tables:  # a card goes into the world: no paths of this computer
            command = command.replace(folder, Path(folder).name)
        return {
            "method": self.recipe.method,
            "stage": self.method.stage,
            "config": dataclasses.asdict(self.method.config),
            "size": self.recipe.size,
            "steps": step,
            "images_seen": step * self.recipe.batch_size * self.parallel.processes,
            "ema": self.recipe.ema,
            "recipe": recipe,
            "command": command,
            "data": self.data,
            "created_with": {"mien": version("mien"), "torch": torch.__version__},
            "results": {},
        }

    def _preview(self, step: int) -> None:
        if type(self.method).preview is Method.preview:
            return  # this method has none
        batch = self._drawn(PREVIEW)
        with torch.no_grad(), self._averaged(step):
            self.method.eval()
            picture = self.method.preview(batch)
        self.method.train()
        with disk_errors(self.job.out):
            write_image(self.job.out / "previews" / f"step_{step:08d}.png", picture)

    def _due(self, done: int) -> bool:
        """Whether the method is measured after ``done`` steps."""
        every, each = self.recipe.measure_every, self.recipe.batch_size * self.parallel.processes
        last = done == self.recipe.steps
        return every > 0 and (last or done * each // every > (done - 1) * each // every)

    def _measure(self, step: int, log: Log) -> None:
        """Measure the averaged weights and keep them if they are the best so far."""
        with torch.no_grad(), self._averaged(step):
            self.method.eval()
            score = self.method.measure(self.caches)
            if self.best.beaten_by(score):
                with disk_errors(self.job.out):
                    self.best.keep(score, self.weights(), self._card(step))
        self.method.train()
        log.note(step, {score.name: score.value, f"best {score.name}": self.best.value})

    def _drawn(self, step: int) -> Batch:
        with torch.autocast("cpu", enabled=False):  # pictures and flows are drawn in float32
            batch = {name: channels_last(value) for name, value in self.sampler(step).items()}
        return self.parallel.to_device(batch)

    @contextlib.contextmanager
    def _averaged(self, step: int) -> Iterator[None]:
        """Let the method hold averaged weights, and the statistics that belong to them."""
        if self.ema is None:
            yield
            return
        with self.ema.applied():
            if self.fresh[0] != step:
                batches = (self._drawn(STATISTICS + i) for i in range(_BATCHES))
                with self.parallel.autocast():
                    found = refreshed_statistics(self.method, batches, self.recipe.seed)
                self.fresh = (step, found)
            buffers = dict(self.method.named_buffers())
            own = {name: buffers[name].clone() for name in self.fresh[1]}
            try:
                self.method.load_state_dict(self.fresh[1], strict=False)
                yield
            finally:
                self.method.load_state_dict(own, strict=False)


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """Return the numbers of trainable and of frozen parameters."""
    counts = [(p.numel(), p.requires_grad) for p in module.parameters()]
    return sum(n for n, t in counts if t), sum(n for n, t in counts if not t)


def _flat(values: dict[str, Any], start: str = "") -> dict[str, Any]:
    """Return nested settings by dotted key, so that a message can name the one that differs."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{start}{key}.")
        else:
            flat[f"{start}{key}"] = value
    return flat


def weights_file(name: str | Path) -> Path:
    """Return the file of weights given by shipped name, file or folder of a run."""
    path = Path(name)
    if path.is_dir():
        return path / "weights.safetensors"
    shipped = SHIPPED / f"{name}.safetensors"
    return shipped if path.suffix != ".safetensors" and shipped.is_file() else path


def _command(
    recipe: str | Path, pairs: list[tuple[str, Any]], init_from: str | Path | None, devices: int
) -> str:
    words = ["mien", "train", str(recipe)]
    words += [f"{key}={value}" for key, value in pairs]
    words += ["--init-from", str(init_from)] if init_from is not None else []
    words += ["--devices", str(devices)] if devices > 1 else []
    return shlex.join(words)

"""A `Pruner` in the training loops of other libraries."""

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitalfew._disk import write_atomically
from vitalfew.exceptions import DataError, MissingDependencyError
from vitalfew.pruning.training._pruner import Pruner

STATE_FILE = "pruner.pt"


def transformers_callback(
    pruner: Pruner, *, resume_from: str | Path | None = None
) -> Any:
    """Return a callback that prunes while a Trainer of transformers trains.

    Make the Pruner before the Trainer. It takes the Trainer's optimizer, goes on by one
    step after every one of the optimizer, is saved into every checkpoint and loaded
    from the one that training resumes from, and is finalized at the end of training, so
    that `save_model` writes plain weights.

    Parameters
    ----------
    pruner : Pruner
        Of the model that is trained.
    resume_from : str or Path, optional
        Checkpoint that training resumes from, where it does not lie in the Trainer's
        ``output_dir``.

    Returns
    -------
    transformers.TrainerCallback
        For ``Trainer(callbacks=[...])``.

    Raises
    ------
    MissingDependencyError
        If transformers is not installed.

    Notes
    -----
    Training raises a ValueError when it begins if it is shorter than the schedule of
    the Pruner, if ``load_best_model_at_end`` would bring back weights that are not
    pruned yet, or if the checkpoint that it resumes from holds no state of a Pruner, or
    a damaged one.
    """
    try:
        from transformers import TrainerCallback
    except ImportError as error:
        raise MissingDependencyError(
            "this callback needs transformers: pip install 'vitalfew[hf]'"
        ) from error

    class PrunerCallback(TrainerCallback):
        """Drives the Pruner; the Trainer calls its methods."""

        loss: float | None = None  # as the Trainer logged it last

        def on_train_begin(
            self, args: Any, state: Any, control: Any, **have: Any
        ) -> None:
            if args.load_best_model_at_end:
                raise ValueError(
                    "load_best_model_at_end=True would bring back a checkpoint from "
                    "before the end of pruning: set it to False"
                )
            _check_length(pruner, state.max_steps, "TrainingArguments.max_steps")
            pruner.attach(have["optimizer"])
            if state.global_step != pruner.n_steps:
                folder = (
                    _checkpoint(args, state) if resume_from is None else resume_from
                )
                _load(pruner, Path(folder) / STATE_FILE, state.global_step)

        def on_log(
            self, args: Any, state: Any, control: Any, logs: Any = None, **have: Any
        ) -> None:
            self.loss = (logs or {}).get("loss", self.loss)

        # comes after optimizer.step and before zero_grad; on_step_end after both
        def on_optimizer_step(
            self, args: Any, state: Any, control: Any, **have: Any
        ) -> None:
            pruner.step(self.loss)

        def on_save(self, args: Any, state: Any, control: Any, **have: Any) -> None:
            if args.should_save:
                content = io.BytesIO()
                torch.save(pruner.state_dict(), content)
                path = _checkpoint(args, state) / STATE_FILE
                write_atomically(path, content.getvalue())

        def on_train_end(
            self, args: Any, state: Any, control: Any, **have: Any
        ) -> None:
            pruner.finalize()

    return PrunerCallback()


def lightning_callback(pruner: Pruner) -> Any:
    """Return a callback that prunes while a Trainer of Lightning trains.

    Make the Pruner before ``Trainer.fit``, for instance in the module's ``__init__``.
    It takes the optimizers of ``configure_optimizers``, goes on by one step after every
    batch in which one of them took a step, is part of every checkpoint, and is
    finalized at the end of ``fit``.

    Parameters
    ----------
    pruner : Pruner
        Of the LightningModule, or of a network in it.

    Returns
    -------
    lightning.pytorch.Callback
        For ``Trainer(callbacks=[...])``.

    Raises
    ------
    MissingDependencyError
        If Lightning is not installed.

    Notes
    -----
    Training raises a ValueError when it begins if it is shorter than the schedule of
    the Pruner. A loss that is not finite stops it.
    """
    try:
        from lightning.pytorch import Callback
    except ImportError:
        try:
            from pytorch_lightning import Callback
        except ImportError as error:
            raise MissingDependencyError(
                "this callback needs Lightning: pip install lightning"
            ) from error

    class PrunerCallback(Callback):
        """Drives the Pruner; the Trainer calls its methods."""

        taken = 0  # steps of all optimizers

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            if not trainer.fast_dev_run:
                steps = trainer.estimated_stepping_batches
                _check_length(pruner, steps, "the length of the Trainer")
            pruner.attach(trainer.optimizers)
            self.taken = trainer.global_step

        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            if trainer.global_step == self.taken:  # gradients are accumulated
                return
            self.taken = trainer.global_step
            loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
            pruner.step(loss if isinstance(loss, Tensor) else None)

        def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
            pruner.finalize()

        def state_dict(self) -> dict[str, Any]:
            return pruner.state_dict()

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            pruner.load_state_dict(state_dict)

    return PrunerCallback()


def _check_length(pruner: Pruner, n_steps: float, what: str) -> None:
    if 0 < n_steps < pruner.total_steps:  # -1 where it is not known
        raise ValueError(
            f"the Pruner needs total_steps={pruner.total_steps} steps of the "
            f"optimizer, training takes {n_steps:.0f}: make it with "
            f"total_steps={n_steps:.0f}, or raise {what}"
        )


def _checkpoint(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _load(pruner: Pruner, path: Path, n_steps: int) -> None:
    if not path.is_file():
        raise ValueError(
            f"training resumes after {n_steps} steps, but there is no {path}: give the "
            "checkpoint's folder as transformers_callback(resume_from=...), or resume "
            "from a checkpoint that was saved with the callback"
        )
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds, as what is wrong with the file
        raise DataError(
            f"{path} cannot be read as the state of a Pruner ({error}): resume from an "
            "earlier checkpoint"
        ) from error
    step = found.get("n_steps") if isinstance(found, dict) else None
    if isinstance(step, int) and step != n_steps:
        raise ValueError(
            f"{path} is of step {step}, training resumes after {n_steps} steps"
        )
    pruner.load_state_dict(found)

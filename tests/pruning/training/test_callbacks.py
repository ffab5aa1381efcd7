"""Pruners in the loops of transformers and Lightning.

Both Trainers are played by small ones that call the hooks in the documented order; the
real ones are tested where they are installed.
"""

import sys
import types
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.pruning.networks import mlp
from tests.pruning.training.trainings import BATCHES, Training, same, weights
from vitalfew.exceptions import MissingDependencyError
from vitalfew.pruning import Pruner
from vitalfew.pruning.training import lightning_callback, transformers_callback
from vitalfew.structures import Blocks

STEPS = 24
METHODS = ["sequential-attention++", "acdc", "movement"]


def made(method, total_steps=STEPS):
    model = mlp()
    options = {"total_steps": total_steps, "exclude": "4", "min_blocks": 1}
    return Pruner(model, Blocks((4, 4), density=0.25), method=method, **options)


def batches(n_steps, accumulate):
    """Halves of the batches of a Training, if two make one step."""
    for n in range(n_steps):
        x, y = BATCHES[n % 4]
        for half in (slice(0, 16), slice(16, 32)) if accumulate == 2 else (slice(32),):
            yield x[half], y[half]


def straight(method):
    """The same by hand."""
    training = Training(method, total_steps=STEPS)
    if training.pruner.parameters():  # beside the weights, as the Trainers have them
        training.optimizer.param_groups[-1]["lr"] = 0.01
    training.finish()
    return weights(training.model)


# -- transformers ----------------------------------------------------------------------


class Inner(torch.optim.Optimizer):
    """Around another optimizer, as accelerate's is."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    @property
    def state(self):
        return self.optimizer.state

    @property
    def param_groups(self):
        return self.optimizer.param_groups


class TransformersTrainer:
    """Calls the events of a TrainerCallback as `transformers.Trainer` does."""

    def __init__(self, model, folder, callback, max_steps=STEPS, **settings):
        from transformers.trainer_callback import CallbackHandler, DefaultFlowCallback

        self.model, self.max_steps = model, max_steps
        self.args = SimpleNamespace(
            output_dir=str(folder), should_save=True, load_best_model_at_end=False
        )
        vars(self.args).update(settings)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda n: 1)
        self.handler = CallbackHandler(
            [callback], model, None, Inner(self.optimizer), self.scheduler
        )
        flow = DefaultFlowCallback()
        self.handler.callbacks.insert(0, flow)
        vars(self.args).update(
            logging_strategy="no",
            logging_first_step=False,
            eval_strategy="no",
            save_strategy="no",
        )

    def train(self, save_at=(), resume=None, stop_at=None, log=None):
        from transformers import TrainerControl, TrainerState

        state, control = TrainerState(max_steps=self.max_steps), TrainerControl()
        if resume is not None:
            path = f"{self.args.output_dir}/checkpoint-{resume}/trainer.pt"
            found = torch.load(path, weights_only=True)
            self.model.load_state_dict(found["model"])
            self.optimizer.load_state_dict(found["optimizer"])
            state.global_step = resume
        self.model.zero_grad()
        handler = self.handler
        handler.on_train_begin(self.args, state, control)
        data = list(batches(self.max_steps, 2))[2 * state.global_step :]
        for n, (x, y) in enumerate(data):
            if n % 2 == 0:
                handler.on_step_begin(self.args, state, control)
            (functional.cross_entropy(self.model(x), y) / 2).backward()
            if n % 2 == 0:
                handler.on_substep_end(self.args, state, control)
                continue
            handler.on_pre_optimizer_step(self.args, state, control)
            self.optimizer.step()
            handler.on_optimizer_step(self.args, state, control)
            self.scheduler.step()
            self.model.zero_grad()
            state.global_step += 1
            handler.on_step_end(self.args, state, control)
            if log is not None:
                handler.on_log(self.args, state, control, {"loss": log})
            if state.global_step in save_at:
                folder = f"{self.args.output_dir}/checkpoint-{state.global_step}"
                found = {
                    "model": self.model.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                }
                Path(folder).mkdir()
                torch.save(found, f"{folder}/trainer.pt")
                handler.on_save(self.args, state, control)
            if state.global_step == stop_at:
                break
        handler.on_train_end(self.args, state, control)


@pytest.mark.parametrize("method", METHODS)
def test_transformers_prunes_saves_and_resumes(method, tmp_path):
    pruner = made(method)
    trainer = TransformersTrainer(pruner.model, tmp_path, transformers_callback(pruner))
    trainer.train(save_at=(5, 19))
    found = weights(pruner.model)
    assert list(found) == list(weights(mlp()))  # plain weights
    assert sum(pruner.kept.values()) == 10
    by_hand = straight(method)
    for name, weight in found.items():  # halves of batches round otherwise
        torch.testing.assert_close(weight, by_hand[name], rtol=1e-3, atol=1e-4)
    for n_steps in (5, 19):
        other = made(method)
        callback = transformers_callback(other)
        again = TransformersTrainer(other.model, tmp_path, callback)
        again.train(resume=n_steps)
        assert same(weights(other.model), found)


def test_transformers_resumes_from_a_folder_elsewhere(tmp_path):
    first, second = made("acdc"), made("acdc")
    trainer = TransformersTrainer(first.model, tmp_path, transformers_callback(first))
    trainer.train(save_at=(5,))
    (tmp_path / "checkpoint-5").rename(tmp_path / "kept")
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "kept/trainer.pt").rename(tmp_path / "checkpoint-5/trainer.pt")
    callback = transformers_callback(second)
    trainer = TransformersTrainer(second.model, tmp_path, callback)
    with pytest.raises(ValueError, match="resume_from="):
        trainer.train(resume=5)
    callback = transformers_callback(second, resume_from=tmp_path / "kept")
    trainer = TransformersTrainer(second.model, tmp_path, callback)
    trainer.train(resume=5)
    assert same(weights(second.model), weights(first.model))


def test_a_checkpoint_of_another_step_is_refused(tmp_path):
    first, second = made("acdc"), made("acdc")
    trainer = TransformersTrainer(first.model, tmp_path, transformers_callback(first))
    trainer.train(save_at=(5, 7))
    folders = tmp_path / "checkpoint-5", tmp_path / "checkpoint-7"
    (folders[0] / "pruner.pt").replace(folders[1] / "pruner.pt")
    callback = transformers_callback(second)
    trainer = TransformersTrainer(second.model, tmp_path, callback)
    with pytest.raises(ValueError, match="is of step 5, training resumes after 7"):
        trainer.train(resume=7)


def test_only_the_process_that_saves_writes_the_state(tmp_path):
    pruner = made("acdc")
    callback = transformers_callback(pruner)
    trainer = TransformersTrainer(pruner.model, tmp_path, callback, should_save=False)
    trainer.train(save_at=(5,))
    assert not (tmp_path / "checkpoint-5/pruner.pt").exists()


def test_transformers_refuses_what_would_not_be_pruned(tmp_path):
    pruner = made("acdc")
    callback = transformers_callback(pruner)
    short = TransformersTrainer(pruner.model, tmp_path, callback, max_steps=23)
    with pytest.raises(ValueError, match="make it with total_steps=23, or raise"):
        short.train()
    best = TransformersTrainer(
        pruner.model, tmp_path, callback, load_best_model_at_end=True
    )
    with pytest.raises(ValueError, match="set it to False"):
        best.train()


def test_transformers_stopped_early_is_finalized_with_a_warning(tmp_path):
    pruner = made("acdc")
    trainer = TransformersTrainer(pruner.model, tmp_path, transformers_callback(pruner))
    with pytest.warns(UserWarning, match="finalized after 11 of 24 steps"):
        trainer.train(stop_at=11)
    assert sum(pruner.kept.values()) == 10


def test_transformers_tells_the_loss_that_it_logged(tmp_path):
    pruner = made("acdc")
    trainer = TransformersTrainer(pruner.model, tmp_path, transformers_callback(pruner))
    trainer.train(log=0.5)
    assert pruner.history.events[-1].loss == 0.5
    pruner = made("acdc")
    trainer = TransformersTrainer(pruner.model, tmp_path, transformers_callback(pruner))
    with pytest.raises(FloatingPointError, match="the loss is nan after 1 steps"):
        trainer.train(log=float("nan"))


# -- Lightning -------------------------------------------------------------------------


class LightningTrainer:
    """Calls the hooks of a Callback as `lightning.pytorch.Trainer.fit` does."""

    fast_dev_run = False

    def __init__(self, model, callback, accumulate, max_steps=STEPS):
        self.model, self.callback, self.accumulate = model, callback, accumulate
        self.estimated_stepping_batches = max_steps
        self.global_step = 0

    def fit(self, resume=None, save_at=()):
        """Train to the end; return what was saved."""
        saved = {}
        if resume is not None:  # callbacks first, optimizers after they are made
            self.model.load_state_dict(resume["state_dict"])
            self.callback.load_state_dict(resume["callback"])
        self.optimizers = [torch.optim.Adam(self.model.parameters(), lr=0.01)]
        (optimizer,) = self.optimizers
        if resume is not None:
            optimizer.load_state_dict(resume["optimizer"])
            self.global_step = resume["global_step"]
        self.callback.on_train_start(self, self.model)
        n_steps = self.estimated_stepping_batches
        data = list(batches(n_steps, self.accumulate))
        for n in range(self.accumulate * self.global_step, len(data)):
            x, y = data[n]
            loss = functional.cross_entropy(self.model(x), y) / self.accumulate
            if n % self.accumulate == 0:
                optimizer.zero_grad()
            loss.backward()
            if (n + 1) % self.accumulate == 0:
                optimizer.step()
                self.global_step += 1
            told = {"loss": loss.detach()}
            self.callback.on_train_batch_end(self, self.model, told, (x, y), n)
            if (n + 1) % self.accumulate == 0 and self.global_step in save_at:
                saved[self.global_step] = {
                    "state_dict": weights(self.model),
                    "callback": self.callback.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "global_step": self.global_step,
                }
                torch.save(saved[self.global_step], save_at[self.global_step])
        self.callback.on_train_end(self, self.model)
        self.callback.on_fit_end(self, self.model)


class Callback:
    """What Lightning's own does: nothing."""

    def on_train_end(self, trainer, pl_module):
        pass


@pytest.fixture
def lightning(monkeypatch):
    """A module with the class that callbacks derive from, under Lightning's name."""
    parent, module = types.ModuleType("lightning"), types.ModuleType("pytorch")
    parent.pytorch, module.Callback = module, Callback
    monkeypatch.setitem(sys.modules, "lightning", parent)
    monkeypatch.setitem(sys.modules, "lightning.pytorch", module)


@pytest.mark.usefixtures("lightning")
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_lightning_prunes_saves_and_resumes(method, accumulate, tmp_path):
    pruner = made(method)
    trainer = LightningTrainer(pruner.model, lightning_callback(pruner), accumulate)
    paths = {n: tmp_path / f"{n}.ckpt" for n in (5, 19)}
    trainer.fit(save_at=paths)
    found = weights(pruner.model)
    assert list(found) == list(weights(mlp()))
    assert pruner.history.events[-1].step == STEPS
    by_hand = straight(method)
    for name, weight in found.items():
        torch.testing.assert_close(weight, by_hand[name], rtol=1e-3, atol=1e-4)
    for path in paths.values():
        other = made(method)
        again = LightningTrainer(other.model, lightning_callback(other), accumulate)
        again.fit(resume=torch.load(path, weights_only=True))
        assert same(weights(other.model), found)


@pytest.mark.usefixtures("lightning")
def test_lightning_refuses_a_training_that_is_too_short():
    pruner = made("acdc")
    trainer = LightningTrainer(pruner.model, lightning_callback(pruner), 1, 23)
    with pytest.raises(ValueError, match="make it with total_steps=23, or raise"):
        trainer.fit()
    trainer.fast_dev_run = True
    with pytest.warns(UserWarning, match="finalized after 23 of 24"):
        trainer.fit()


@pytest.mark.usefixtures("lightning")
def test_lightning_stops_at_a_loss_that_is_not_finite():
    pruner = made("acdc")
    trainer = LightningTrainer(pruner.model, lightning_callback(pruner), 1)
    with torch.no_grad():
        pruner.model[4].bias[0] = float("inf")  # a layer that is not pruned
    with pytest.raises(FloatingPointError, match="the loss is"):
        trainer.fit()


def test_missing_libraries_are_named(monkeypatch):
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match="pip install lightning"):
        lightning_callback(made("acdc"))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match=r"vitalfew\[hf\]"):
        transformers_callback(made("acdc"))


# -- the real ones ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_trainer_of_lightning(tmp_path):
    pl = pytest.importorskip("lightning.pytorch")

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
            options = {"total_steps": STEPS, "min_blocks": 1}
            self.pruner = Pruner(self.net, Blocks((4, 4), density=0.25), **options)

        def training_step(self, batch, index):
            return functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
            rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
            return [optimizer], [rates]

    data = [torch.cat(parts) for parts in zip(*BATCHES, strict=True)]
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(*data), batch_size=16
    )

    def fit(**options):
        module = Module()
        saving = pl.callbacks.ModelCheckpoint(
            tmp_path, filename="{epoch}", every_n_epochs=1, save_top_k=-1
        )
        trainer = pl.Trainer(
            max_epochs=6,
            accumulate_grad_batches=2,
            callbacks=[lightning_callback(module.pruner), saving],
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, loader, **options)
        return module

    first = fit()
    assert next(iter(first.state_dict())) == "net.0.weight"
    second = fit(ckpt_path=tmp_path / "epoch=2.ckpt")
    assert same(weights(first), weights(second))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_trainer_of_transformers(tmp_path):
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()

        def forward(self, x, labels):
            logits = self.net(x)
            return {"loss": functional.cross_entropy(logits, labels), "logits": logits}

    data = [{"x": x[i], "labels": y[i]} for x, y in BATCHES for i in range(len(x))]

    def train(resume=None):
        model = Model()
        options = {"total_steps": STEPS, "min_blocks": 1}
        pruner = Pruner(model, Blocks((4, 4), density=0.25), **options)
        arguments = TrainingArguments(
            str(tmp_path),
            max_steps=STEPS,
            save_steps=9,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=2,
            learning_rate=0.01,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        callback = transformers_callback(pruner)
        trainer = Trainer(model, arguments, train_dataset=data, callbacks=[callback])
        trainer.train(resume_from_checkpoint=resume)
        assert sum(pruner.kept.values()) == sum(s.n_atoms for s in pruner.sites) // 4
        return weights(model)

    first = train()
    assert "net.0.weight" in first
    assert same(train(str(tmp_path / "checkpoint-9")), first)
    assert same(train(str(tmp_path / "checkpoint-18")), first)

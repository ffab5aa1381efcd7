"""One of two processes that train together; started by test_distributed.py.

``python -m tests.pruning.training.worker RANK FOLDER JOB [ARGUMENT ...]``
"""

import os
import sys
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.checkpoint import state_dict as sharded
from torch.distributed.fsdp import fully_shard
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from tests.pruning.networks import mlp
from tests.pruning.training.trainings import BATCHES
from vitalfew.pruning import Pruner
from vitalfew.structures import Blocks

STEPS = 24
WORLD = 2
METHODS = ("sequential-attention++", "rigl", "movement", "swamp", "attention-refit")


def made(method, seed=0, **options):
    model = mlp(seed).double()
    options = {"total_steps": STEPS, "exclude": "4", "min_blocks": 1} | options
    structure = Blocks((4, 4), density=0.25)
    return model, Pruner(model, structure, method=method, **options)


def part(n, rank):
    """The half of a batch that a process sees; all of it without a rank."""
    x, y = BATCHES[n % 4]
    mine = slice(None) if rank is None else slice(16 * rank, 16 * rank + 16)
    return x[mine].double(), y[mine]


def go(run, optimizer, pruner, rank, n_steps):
    """Train; return the masks after every step."""
    masks = []
    for _ in range(n_steps):
        x, y = part(pruner.n_steps, rank)
        optimizer.zero_grad()
        loss = functional.cross_entropy(run(x), y)
        loss.backward()
        optimizer.step()
        pruner.step(loss)
        masks.append(pruner.masks)
    return masks


def replicated(rank, method, seed=0):
    """DistributedDataParallel; without a rank, one process with all the data."""
    model, pruner = made(method, seed)
    run = model if rank is None else DistributedDataParallel(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    pruner.attach(optimizer)
    masks = go(run, optimizer, pruner, rank, STEPS)
    pruner.finalize()
    return {"masks": masks, "weights": model.state_dict()}


def job_replicated(rank, folder):
    found = {method: replicated(rank, method) for method in METHODS}
    try:
        wrapped = DistributedDataParallel(mlp())
        Pruner(
            wrapped,
            Blocks((4, 4), density=0.5),
            total_steps=5,
            min_blocks=1,
            method="sequential-attention++",
        )
    except ValueError as error:
        found["refused"] = str(error)
    return found


def job_apart(rank, folder):
    """Processes whose weights differ until they are wrapped; then back to the start."""
    return replicated(rank, "iterative", seed=rank)


def shard(model, each):
    for layer in (model[0], model[2]) if each == "each" else ():
        fully_shard(layer)
    fully_shard(model)


def job_sharded(rank, folder, method, each):
    def begin():
        model, pruner = made(method)
        shard(model, each)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        pruner.attach(optimizer)
        return model, optimizer, pruner

    def whole(model):
        options = sharded.StateDictOptions(full_state_dict=True)
        return sharded.get_model_state_dict(model, options=options)

    straight = begin()
    model, optimizer, pruner = straight
    masks = go(model, optimizer, pruner, rank, 13)
    kept = sharded.get_state_dict(model, optimizer)
    kept = [{k: clone(v) for k, v in each_.items()} for each_ in kept]
    state = pruner.state_dict()
    masks += go(model, optimizer, pruner, rank, STEPS - 13)
    x, _ = part(0, None)
    before = model(x).detach()  # leaves the weights of the root gathered
    pruner.finalize()
    with torch.no_grad():
        found = {"masks": masks, "moved": float((model(x) - before).abs().max())}
    found["weights"] = {k: v.clone() for k, v in whole(model).items()}

    again = begin()
    sharded.set_state_dict(
        again[0], again[1], model_state_dict=kept[0], optim_state_dict=kept[1]
    )
    again[2].load_state_dict(state)
    go(again[0], again[1], again[2], rank, STEPS - 13)
    again[2].finalize()
    found["resumed"] = whole(again[0])

    # the optimizer keeps working
    optimizer.zero_grad()
    model(x).square().sum().backward()
    optimizer.step()
    found["later"] = whole(model)
    return found


def clone(value):
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {k: clone(v) for k, v in value.items()}
    return value


def job_dies(rank, folder, wrapped):
    """The second process goes away; the first one says what it saw of it."""
    model, pruner = made("gradual-magnitude")
    run = DistributedDataParallel(model) if wrapped == "wrapped" else model
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    pruner.attach(optimizer)
    masks = go(run, optimizer, pruner, rank, 9)
    if rank == 1:
        os._exit(9)
    try:
        go(run, optimizer, pruner, rank, STEPS - 9)
    except RuntimeError as error:
        said = f"{type(error).__name__}: {error}"
    return {"masks": masks, "said": said, "after": pruner.masks}


def main():
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    store = distributed.FileStore(str(folder / "store"), WORLD)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=WORLD)
    found = globals()[f"job_{sys.argv[3]}"](rank, folder, *sys.argv[4:])
    torch.save(found, folder / f"{rank}.pt")
    if sys.argv[3] != "dies":
        distributed.barrier()
    os._exit(0)  # gloo's threads may not outlive each other


if __name__ == "__main__":
    main()

"""Networks of torch: targets, odd outputs, further arguments, and no trace left."""

import numpy as np
import pytest

from vitalfew.attribution import (
    BlurIG,
    GradientTimesInput,
    GreedyPIG,
    GuidedIG,
    IntegratedGradients,
    curves,
)

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402


def network(p=6, C=3, *, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(p, 8), nn.Tanh(), nn.Linear(8, C)).to(dtype)


@pytest.fixture
def x():
    torch.manual_seed(1)
    return torch.randn(5, 6, dtype=torch.float64)


CLASSES = torch.tensor([0, 2, 1, 1, 0])


def slope(function, x):
    """Gradient times input by autograd of a plain function."""
    leaf = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(function(leaf).sum(), leaf)
    return (g * x).numpy()


def by_hand(target):
    rows = torch.arange(5)
    return {
        "softmax": lambda z: z.softmax(1)[rows, CLASSES],
        "logit": lambda z: z[rows, CLASSES],
        "loss": lambda z: -functional.cross_entropy(z, CLASSES, reduction="none"),
    }[target]


@pytest.mark.parametrize("target", ["softmax", "logit", "loss"])
def test_targets(target, x):
    model = network()
    found = GradientTimesInput(model, target=target).explain(x, CLASSES)
    wanted = slope(lambda p: by_hand(target)(model(p)), x)
    np.testing.assert_allclose(found.scores.numpy(), wanted, atol=1e-14)
    with torch.no_grad():
        np.testing.assert_allclose(found.values, by_hand(target)(model(x)))


def test_the_predicted_class_is_the_default(x):
    model = network()
    x = x.repeat(30, 1) + torch.randn(150, 6)  # more than are predicted at once
    method = GradientTimesInput(model)
    wanted = method.attribute(x, model(x).argmax(1))
    np.testing.assert_array_equal(method.attribute(x), wanted)


@pytest.mark.parametrize("flat", [True, False])
def test_single_outputs(flat, x):
    model = network(C=1)
    model = nn.Sequential(model, nn.Flatten(0)) if flat else model
    z = lambda p: model(p).reshape(-1)  # noqa: E731
    y = torch.tensor([0, 1, 1, 0, 1])
    sign = 2.0 * y - 1

    def scores(classes=None, **settings):
        return GradientTimesInput(model, **settings).attribute(x, classes).numpy()

    np.testing.assert_allclose(scores(target="logit"), slope(z, x), atol=1e-14)
    np.testing.assert_allclose(
        scores(y, target="logit"), slope(lambda p: sign * z(p), x), atol=1e-14
    )
    wanted = slope(lambda p: torch.sigmoid(sign * z(p)), x)
    np.testing.assert_allclose(scores(y), wanted, atol=1e-14)
    np.testing.assert_allclose(scores(), scores((z(x) > 0).long()), atol=1e-14)
    wanted = slope(
        lambda p: (
            -functional.binary_cross_entropy_with_logits(
                z(p), y.double(), reduction="none"
            )
        ),
        x,
    )
    np.testing.assert_allclose(scores(y, target="loss"), wanted, atol=1e-14)
    wanted = slope(lambda p: -((z(p) - 0.3) ** 2), x)
    np.testing.assert_allclose(
        scores(np.full(5, 0.3), target="loss"), wanted, atol=1e-14
    )


def test_a_saturated_softmax_still_has_an_order(x):
    """Where 1 - p is lost in the rounding of p its gradient is not."""
    model = network(dtype=torch.float32)
    with torch.no_grad():
        model[2].bias.copy_(torch.tensor([40.0, 0.0, 0.0]))
    x = x.float()
    found = GradientTimesInput(model).attribute(x, 0).numpy()
    exact = GradientTimesInput(model.double()).attribute(x.double(), 0).numpy()
    assert 0 < np.abs(exact).max() < 1e-12
    np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-22)
    far = GreedyPIG(model.float()).attribute(x, 0)
    np.testing.assert_array_equal(
        np.sort(far.numpy()), np.tile(np.arange(1, 7), (5, 1))
    )


class Tangled(nn.Module):
    """Dropout, noise in any mode, writing into its input, outputs like a library's."""

    def __init__(self, p=6, form="mapping"):
        super().__init__()
        self.first, self.norm = nn.Linear(p, 8), nn.BatchNorm1d(8)
        self.last = nn.Linear(8, 3)
        self.form = form

    def forward(self, x):
        x.mul_(2.0 + 0 * torch.rand(1))
        h = functional.dropout(
            torch.relu_(self.norm(self.first(x))), 0.5, self.training
        )
        z = self.last(h)
        return {"logits": z} if self.form == "mapping" else (z, h)


@pytest.mark.parametrize("form", ["mapping", "tuple"])
@pytest.mark.parametrize(
    "method", [IntegratedGradients, GreedyPIG, GuidedIG, GradientTimesInput, BlurIG]
)
def test_no_trace_is_left(method, form, x):
    torch.manual_seed(0)
    model = Tangled(form=form).train()
    model.norm.eval()
    model.first.weight.requires_grad_(False)
    model.last.bias.grad = torch.ones(3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    noise, given = torch.get_rng_state(), x.float()
    copy = given.clone()
    if method is BlurIG:
        flatten = lambda image: model(image.flatten(1))  # noqa: E731
        explain = BlurIG(model, forward=flatten)
        scores = explain.attribute(given.reshape(5, 2, 3), CLASSES)
    else:
        scores = method(model).attribute(given, CLASSES)
    assert not scores.requires_grad
    assert scores.grad_fn is None
    assert model.training
    assert model.first.training
    assert not model.norm.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    asked = {name: p.requires_grad for name, p in model.named_parameters()}
    assert not asked.pop("first.weight")
    assert all(asked.values())
    assert torch.equal(model.last.bias.grad, torch.ones(3))
    assert model.first.bias.grad is None
    assert torch.equal(given, copy)
    assert torch.equal(torch.get_rng_state(), noise)
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._backward_hooks


def test_the_mode_is_restored_after_an_error(x):
    class Faulty(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(6, 3)

        def forward(self, x):
            raise RuntimeError("a fault of its own")

    model = Faulty().train()
    with pytest.raises(RuntimeError, match="a fault of its own"):
        IntegratedGradients(model).attribute(x)
    assert model.training
    assert model.last.weight.requires_grad


class Cut(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how, self.last = how, nn.Linear(6, 3).double()

    def forward(self, x):
        return self.how(self.last(x))


@pytest.mark.parametrize(
    "how",
    [
        lambda z: z.detach(),
        lambda z: functional.one_hot(z.argmax(1), 3).double(),
        lambda z: torch.tensor(z.detach().numpy()),
        lambda z: torch.ones(len(z), 3, requires_grad=True),
    ],
)
def test_models_that_cannot_be_differentiated_say_so(how, x):
    for method in (IntegratedGradients, GreedyPIG, GuidedIG):
        with pytest.raises(ValueError, match="the model must be differentiable"):
            method(Cut(how)).attribute(x, 0)


@pytest.mark.parametrize(
    ("how", "classes", "settings", "message"),
    [
        (lambda z: z * torch.nan, 0, {}, "outputs of the model are not finite"),
        (lambda z: z, 3, {}, "classes must be from 0 to 2, got 3"),
        (lambda z: z, -100, {}, "classes must be from 0 to 2, got -100"),
        (lambda z: z, [0, 1], {}, "one entry for each of the 5 inputs"),
        (lambda z: z, 0.5, {}, "classes must be integers, unless target is 'loss'"),
        (lambda z: z, None, {"target": "loss"}, "needs classes"),
        (lambda z: z, 0, {"amp": "half"}, "amp must be a dtype of torch or None"),
        (lambda z: z, np.ones(5), {"target": "loss"}, "the shape of the outputs"),
        (lambda z: z.sum(), 0, {}, "one row of outputs for each row"),
        (lambda z: {"hidden": z}, 0, {}, "in which no logits were found"),
        (lambda z: z[:, None].repeat(1, 4, 1), 0, {}, "each prediction of the model"),
    ],
)
def test_wrong_outputs_and_classes_are_named(how, classes, settings, message, x):
    with pytest.raises(ValueError, match=message):
        IntegratedGradients(Cut(how), **settings).attribute(x, classes)


class Tokens(nn.Module):
    """Embeddings, attention with a mask of padding, a mean over tokens."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 4)
        self.q, self.k, self.v = (nn.Linear(4, 4) for _ in range(3))
        self.last = nn.Linear(4, 3)

    def forward(self, ids=None, mask=None, embeddings=None):
        h = self.embedding(ids) if embeddings is None else embeddings
        near = self.q(h) @ self.k(h).mT
        near = near.masked_fill(~mask[:, None], -torch.inf).softmax(-1)
        h = torch.tanh(h + near @ self.v(h)) * mask[..., None]
        return self.last(h.sum(1) / mask.sum(1, keepdim=True))


def test_tokens_through_their_embeddings():
    torch.manual_seed(0)
    model = Tokens().double().train()
    ids = torch.randint(11, (4, 6))
    mask = torch.arange(6) < torch.tensor([6, 3, 5, 1])[:, None]
    inputs = model.embedding(ids).detach()
    settings = {
        "forward": lambda e, mask: model(embeddings=e, mask=mask),
        "baseline": model.embedding.weight[0],
    }
    for memory in (10_000, 2**28):
        ig = IntegratedGradients(model, steps=40, memory=memory, **settings)
        found = ig.explain(inputs, 1, given={"mask": mask})
        assert not found.scores.requires_grad
        np.testing.assert_allclose(found.scores[~mask], 0, atol=1e-12)
        np.testing.assert_allclose(found.gaps, 0, atol=5e-3)
    with torch.no_grad():
        wanted = model.eval()(ids, mask).softmax(1)[:, 1]
    np.testing.assert_allclose(found.values, wanted)
    pig = GreedyPIG(model, groups="tokens", **settings)
    ranks = pig.attribute(inputs, 1, given={"mask": mask})
    assert torch.equal(ranks, ranks[:, :, :1].expand(4, 6, 4))
    alone = pig.attribute(inputs[1:2], 1, given={"mask": mask[1:2]})
    assert torch.equal(ranks[1], alone[0])


def test_edges_of_a_graph():
    """A mask over edges: those within a node's neighbourhood make its class."""
    torch.manual_seed(0)
    n_nodes = 6
    edges = torch.tensor([[1, 2, 4, 5, 3, 0], [0, 0, 3, 3, 0, 1]])
    X = torch.randn(n_nodes, 4, dtype=torch.float64)
    last = nn.Linear(4, 2).double()

    def forward(masks):  # (m, edges) to logits (m, nodes, classes)
        messages = masks[:, :, None] * X[edges[0]]
        sums = X.expand(len(masks), -1, -1).index_add(1, edges[1], messages)
        return last(sums)

    labels = torch.full((1, n_nodes), -100)
    labels[0, 0] = 1  # only node 0 counts
    settings = {"forward": forward, "target": "logit"}
    ig = IntegratedGradients(last, **settings)
    found = ig.attribute(torch.ones(1, 6, dtype=torch.float64), labels)[0]
    into = X[edges[0]] @ last.weight[1].detach()
    wanted = torch.where(edges[1] == 0, into, 0)
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), atol=1e-12)
    order = GreedyPIG(last, **settings).attribute(np.ones((1, 6)), labels)[0]
    assert order.argmax() == int(wanted.argmax())
    both = torch.tensor([[0, -100, -100, 1, -100, -100]])
    half = IntegratedGradients(last, **settings).attribute(np.ones((1, 6)), both)[0]
    W = last.weight.detach()
    wanted = X[edges[0]] @ W[0] * (edges[1] == 0) + X[edges[0]] @ W[1] * (edges[1] == 3)
    np.testing.assert_allclose(half, wanted.numpy() / 2, atol=1e-12)


def test_half_precision(x):
    model = network(dtype=torch.float32)
    exact = IntegratedGradients(model).attribute(x.float(), CLASSES)
    mixed = IntegratedGradients(model, amp=torch.bfloat16).attribute(x.float(), CLASSES)
    assert mixed.dtype == torch.float32
    np.testing.assert_allclose(mixed, exact, atol=0.02)
    assert not torch.equal(mixed, exact)
    whole = IntegratedGradients(model.to(torch.bfloat16)).attribute(x, CLASSES)
    assert whole.dtype == torch.float32
    np.testing.assert_allclose(whole, exact, atol=0.02)


def test_inputs_from_inference_mode_and_within_no_grad(x):
    model = network()
    wanted = IntegratedGradients(model).attribute(x, CLASSES)
    with torch.inference_mode():
        made = x * 1.0
        found = IntegratedGradients(model).attribute(made, CLASSES)
    np.testing.assert_array_equal(found, wanted)
    with torch.no_grad():
        found = IntegratedGradients(model).attribute(x, CLASSES)
    np.testing.assert_array_equal(found, wanted)


def test_chunks_count_what_the_network_keeps(x):
    heights = []

    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(6, 1000), nn.Linear(1000, 3)

        def forward(self, x):
            heights.append(len(x))
            return self.last(torch.relu(self.first(x)))

    budget = 2**20
    IntegratedGradients(Wide(), memory=budget).attribute(x.float().repeat(20, 1), 0)
    # relu keeps its outputs, 4,000 bytes a point; the points themselves are 24
    assert 50 < max(heights) < budget / 4000


def test_functions_of_a_network_take_tensors_elsewhere(x):
    """A NumPy function explains tensors, and gives tensors back."""

    def f(p):
        return (p**2).sum(1), 2 * p

    found = IntegratedGradients(f).attribute(x)
    assert isinstance(found, torch.Tensor)
    np.testing.assert_allclose(found.numpy(), x.numpy() ** 2)


def test_curves_of_a_network(x):
    model = network()
    scores = {"ig": IntegratedGradients(model).explain(x, CLASSES)}
    found = curves(model, x, scores, CLASSES, min_value=0.0, information="count")
    whole = model(x).softmax(1).detach().numpy()
    start = model(torch.zeros_like(x)).softmax(1).detach().numpy()
    rows = np.arange(5)
    for name in ("ig", "random", "exact greedy"):
        np.testing.assert_allclose(found.insertion[name][:, -1], whole[rows, CLASSES])
        np.testing.assert_allclose(found.insertion[name][:, 0], start[rows, CLASSES])
        np.testing.assert_allclose(found.deletion[name][:, 0], whole[rows, CLASSES])
        np.testing.assert_allclose(found.sic[name][-1], 1)
        np.testing.assert_allclose(found.kl[name][-1], 0, atol=1e-12)
        nats = np.sum(whole * np.log(whole / start), 1)
        np.testing.assert_allclose(found.kl[name][0], np.median(nats))

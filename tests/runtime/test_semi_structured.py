"""Which layers go to the sparse units of a GPU, and why others do not."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from vitalfew import pruning  # noqa: E402
from vitalfew.runtime import _semi_structured, to_semi_structured  # noqa: E402
from vitalfew.structures import NM  # noqa: E402


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(8, 16)
        self.first = nn.Linear(16, 32)
        self.shared = nn.Linear(16, 32)
        self.shared.weight = self.first.weight
        self.full = nn.Linear(32, 8)
        self.odd = nn.Linear(6, 8)
        self.single = nn.Linear(16, 8)
        self.refused = nn.Linear(16, 24)
        self.conv = nn.Conv2d(4, 4, 1)
        self.last = nn.Linear(16, 8)
        self.last.weight = self.words.weight


def network():
    torch.manual_seed(0)
    model = Network()
    pruning.prune(model, NM(2, 4), include=["first", "single", "refused", "conv"])
    model.bfloat16()
    model.single.float()
    return model


@pytest.fixture
def device(monkeypatch):
    """A device that takes weights, and a conversion that marks them."""

    def convert(weight):
        assert weight.is_contiguous()
        if weight.shape[0] % 16 == 8:
            raise RuntimeError("the shape is not supported!\nand more")
        return weight.clone().requires_grad_(False)

    monkeypatch.setattr(_semi_structured, "_capable", lambda device: True)
    monkeypatch.setattr(_semi_structured, "to_sparse_semi_structured", convert)


def test_layers_are_chosen_by_their_weights(device):
    model = network()
    weights = {name: m.weight for name, m in model.named_children()}
    biases = {name: getattr(m, "bias", None) for name, m in model.named_children()}
    converted, left = to_semi_structured(model)
    assert converted == ["first"]
    assert model.first.weight is not weights["first"]
    assert model.first.weight is model.shared.weight
    assert torch.equal(model.first.weight, weights["first"])
    assert not model.first.weight.requires_grad
    for name, module in model.named_children():
        if name not in ("first", "shared"):
            assert module.weight is weights[name]
        assert getattr(module, "bias", None) is biases[name]
    reasons = {
        "words": "an embedding",
        "full": "keeps 4 of some four inputs",
        "odd": "6 inputs are no whole number of fours",
        "single": "of torch.float32",
        "refused": "torch does not take it: the shape is not supported!",
        "conv": "Conv2d has no such form",
        "last": "its weight is an embedding's too",
    }
    assert set(left) == set(reasons)
    for name, why in reasons.items():
        assert why in left[name], name
    assert "and more" not in left["refused"]


def test_on_the_cpu_it_refuses_and_says_why():
    model = network()
    before = {name: id(p) for name, p in model.named_parameters()}
    with pytest.raises(ValueError, match=r"first: it is on cpu.*runtime.compile"):
        to_semi_structured(model)
    assert {name: id(p) for name, p in model.named_parameters()} == before


def test_a_model_without_such_layers(device):
    with pytest.raises(ValueError, match="it has no linear layers"):
        to_semi_structured(nn.Sequential(nn.ReLU()))
    dense = nn.Sequential(nn.Linear(16, 16)).half()
    with pytest.raises(ValueError, match=r"keeps 4 .*prune it with NM\(2, 4\)"):
        to_semi_structured(dense)


def test_devices_with_such_units(monkeypatch):
    capability = [(7, 5)]
    monkeypatch.setattr(
        torch.cuda, "get_device_capability", lambda device: capability[0]
    )
    assert not _semi_structured._capable(torch.device("cpu"))
    assert not _semi_structured._capable(torch.device("cuda"))
    capability[0] = (9, 0)
    assert _semi_structured._capable(torch.device("cuda"))


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU with sparse units"
)
def test_a_converted_layer_computes_the_same():
    model = nn.Sequential(nn.Linear(128, 128)).cuda().half()
    pruning.prune(model, NM(2, 4))
    x = torch.randn(64, 128, device="cuda", dtype=torch.float16)
    with torch.no_grad():
        wanted = model(x)
        assert to_semi_structured(model)[0] == ["0"]
        assert torch.allclose(model(x), wanted, rtol=1e-2, atol=1e-2)

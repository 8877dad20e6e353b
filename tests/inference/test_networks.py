"""Networks made ready to predict, and what is done ahead of them."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

from lumbar_kaggle.core.cluster import ahead
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.inference.networks import ready
from lumbar_kaggle.training.encoders import build_encoder
from lumbar_kaggle.two_stage.locate.find import Locator


def used(network: nn.Module, pictures: torch.Tensor) -> nn.Module:
    """A network whose norms have seen pictures, so that they are more than the identity."""
    for _ in range(3):
        network.train()(pictures)
    return network.eval()


@pytest.mark.parametrize("name", ["locator", "small_resnet", "resnet18"])
def test_a_ready_network_says_the_same(name: str) -> None:
    """Norms that follow their convolution are gone, outputs are equal up to rounding."""
    torch.manual_seed(0)
    pictures = torch.randn(4, 1, 64, 64) * 2 + 1
    network = used(Locator((4, 8, 8, 8, 8), 10) if name == "locator" else build_encoder(name)[0], pictures)
    with torch.inference_mode():
        expected = network(pictures)
        made = ready(network, torch.device("cpu"), Path("weights"))
        torch.testing.assert_close(made(pictures), expected, atol=1e-4, rtol=1e-4)
    if name != "resnet18":
        assert not any(isinstance(one, nn.BatchNorm2d) for one in made.modules())


def test_weights_without_numbers_are_named() -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    network[0].weight.data.fill_(torch.inf)
    with pytest.raises(InputError, match="some/weights: these weights give no finite numbers"):
        ready(network, torch.device("cpu"), Path("some/weights"))(torch.ones(1, 2))


def test_no_more_is_begun_than_memory_is_meant_for() -> None:
    """Results come in the order of the items, and while one is looked at, two more are begun at most."""
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        return item * item

    with ThreadPoolExecutor(1) as pool:
        for number, result in enumerate(ahead(pool, work, range(20), 2)):
            assert result == number * number
            assert len(begun) <= number + 3
    assert begun == list(range(20))


def test_what_an_item_raises_comes_in_its_turn() -> None:
    """The items before it are not lost."""
    with ThreadPoolExecutor(1) as pool:
        found = ahead(pool, [1, 2].__getitem__, range(5), 3)
        assert [next(found), next(found)] == [1, 2]
        with pytest.raises(IndexError):
            next(found)

"""A grader that has met other pictures than those at hand says less."""

from dataclasses import replace

import pytest
import torch

from lumbar_kaggle.two_stage.grade.data import Samples, cut
from lumbar_kaggle.two_stage.grade.domain import Domain, textures
from lumbar_kaggle.two_stage.grade.domain_fit import fit_domain, spoil
from lumbar_kaggle.two_stage.grade.network import Grader, predict_batch
from tests.two_stage.test_grading import TINY, cached_batch

CONFIG = replace(TINY, fallback=True)
PRIOR = torch.tensor([0.8, 0.15, 0.05]).expand(3, 5, 3)


class Levels(Samples):
    """The sixty levels of twelve studies that lie in memory."""

    def __init__(self, seed: int) -> None:
        self.studies, self.whole = [], cached_batch(CONFIG, count=60, seed=seed)

    def __len__(self) -> int:
        return 60


@pytest.fixture(scope="module")
def fitted() -> Grader:
    """A network with random weights, which is worth little anywhere, sure of itself."""
    torch.manual_seed(3)
    network = Grader(CONFIG).eval()
    with torch.no_grad():
        for head in network.heads:
            head[-1].weight *= 40
    fit_domain(network, PRIOR, Levels(1), Levels(2), CONFIG)
    return network


def test_before_it_is_fitted_it_changes_nothing() -> None:
    """Whatever the distance."""
    probabilities = torch.rand(7, 5, 3).softmax(dim=2)
    same, share = Domain(16)(probabilities, torch.linspace(0, 9, 21).view(7, 3), torch.arange(7) % 5)
    torch.testing.assert_close(same, probabilities)
    assert not share.any()


def test_pictures_of_another_kind_are_further_away(fitted: Grader) -> None:
    """Held-out ones are about as far as those of the training, spoilt ones further; absent views do not count."""
    assert fitted.domain is not None
    torch.manual_seed(0)
    batch = cached_batch(CONFIG, count=60, seed=3)
    with torch.inference_mode():
        plain, spoilt = cut(batch, CONFIG), spoil(batch, CONFIG)
        far = [
            fitted.domain.distance(fitted(one)["described"], one["present"], textures(one)) for one in (plain, spoilt)
        ]
        nothing = [torch.zeros_like(there) for there in plain["present"]]
        assert not fitted.domain.distance(fitted(plain)["described"], nothing, textures(plain)).any()
    assert far[1].mean() > 1.2 * far[0].mean()
    # One scanner took all levels of a study.
    torch.testing.assert_close(far[0].view(-1, 5, 3), far[0][::5, None].expand(-1, 5, 3))


def test_answers_worth_less_than_the_prior_give_way_to_it(fitted: Grader) -> None:
    """Beyond the usual distances much of a worthless answer is the prior, within them little."""
    domain = fitted.domain
    assert domain is not None
    assert (domain.most >= torch.tensor([0.4, 0.5, 0.5])).all()
    assert (domain.least <= 0.05).all()
    sure = torch.tensor([0.0, 0.0, 1.0]).expand(2, 5, 3)
    near_and_far = torch.tensor([[0.0] * 3, [100.0] * 3])
    (near, far), _ = domain(sure, near_and_far, torch.tensor([0, 4]))
    for found, share in ((near, domain.least), (far, domain.most)):
        torch.testing.assert_close(found[:, 2], 1 - share[[0, 1, 1, 2, 2]] * 0.95)
    torch.testing.assert_close(far.sum(dim=1), torch.ones(5))


def test_predictions_take_it_into_account(fitted: Grader) -> None:
    """With and without it a network's predictions of strange pictures differ, and are probabilities."""
    batch = cached_batch(CONFIG, count=20, seed=4)
    # The training pictures are noise.
    ramps = [torch.linspace(0, 255, one.shape[-1]).byte().expand_as(one).clone() for one in batch["images"]]
    known, share = predict_batch([fitted], {**batch, "images": ramps}, CONFIG)
    domain, fitted.domain = fitted.domain, None
    alone, none = predict_batch([fitted], {**batch, "images": ramps}, CONFIG)
    fitted.domain = domain
    assert domain is not None
    torch.testing.assert_close(share, domain.most.expand(20, 3))
    assert not none.any()
    assert (known - alone).abs().max() > 0.05
    torch.testing.assert_close(known.sum(dim=2), torch.ones(20, 5))

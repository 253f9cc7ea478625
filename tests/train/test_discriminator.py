"""The discriminator alone: bounded, blind to how often it looks, and able to tell."""

import pytest
import torch
import torch.nn.functional as F

from disca_rt.tiny.config import TINY
from disca_rt.train.discriminator import Discriminator, Features, hinge_loss
from disca_rt.train.optimizers import make_optimizers
from disca_rt.train.predictor import feature_depths
from disca_rt.train.presets import tiny_predictor


def test_frozen_logits_give_gradients_to_the_features_alone() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(hidden=8, depths=2, width=4)
    found = []
    for look in (discriminator.frozen_logits, discriminator):
        torch.manual_seed(1)
        hidden = [torch.randn(2, 16, 8, requires_grad=True) for _ in range(2)]
        logits = look(Features(hidden, (1, 4, 4)))
        torch.stack([each.mean() for each in logits]).mean().backward()
        found.append([*logits, *(each.grad for each in hidden)])
        trains = [parameter.grad is not None for parameter in discriminator.parameters()]
        assert set(trains) == {look is discriminator}
    assert all(map(torch.equal, *found))


def test_a_grid_may_be_smaller_than_what_the_discriminator_pools() -> None:
    discriminator = Discriminator(hidden=8, depths=1, width=4)
    logits = discriminator(Features([torch.randn(2, 6, 8)], (2, 1, 3)))
    assert [tuple(each.shape) for each in logits] == [(2, 1, 2, 1, width) for width in (3, 2, 1)]


def test_spectral_norms_bound_the_discriminator() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(hidden=8, depths=1, width=4)
    features = Features([torch.randn(1, 16, 8)], (1, 4, 4))
    before = discriminator(features)
    again = discriminator.train()(features)  # looking changes nothing
    assert all(map(torch.equal, before, again))
    for _ in range(30):
        discriminator.advance()
    for module in discriminator.modules():
        if isinstance(module, torch.nn.Conv3d):
            norm = torch.linalg.matrix_norm(module.weight.detach().flatten(1), 2)
            assert norm.item() == pytest.approx(1, abs=0.05)


def test_the_discriminator_tells_blurred_from_sharp_with_the_preset_s_settings() -> None:
    """A positive control: a hinge of 1.99 on a real run means too close, not broken."""
    config, grid = tiny_predictor("dit"), (3, 8, 8)
    depths = len(feature_depths(TINY.double + TINY.single))
    torch.manual_seed(0)
    discriminator = Discriminator(TINY.hidden, depths, config.discriminator_width)
    optimizers = make_optimizers(discriminator, config.run, config.discriminator_lr)
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(TINY.hidden, 8, generator=generator)  # few, as of hidden states
    hinges = []
    for _ in range(21):
        discriminator.advance()
        sharp = torch.randn(depths * 4, 8, *grid, generator=generator)  # not seen before
        blurred = F.avg_pool3d(sharp, (1, 3, 3), 1, (0, 1, 1), count_include_pad=False)
        real, fake = (
            Features((each.flatten(2).mT @ directions.T).unflatten(0, (depths, 4)), grid)
            for each in (sharp, blurred)
        )
        loss = hinge_loss(discriminator(real), discriminator(fake))
        loss.backward()
        hinges.append(loss.item())
        torch.nn.utils.clip_grad_norm_(discriminator.parameters(), config.run.clip)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert hinges[0] == pytest.approx(2, abs=0.05)  # a coin's; 2.002 to 2.016 over three seeds
    assert hinges[-1] < 1.8  # 1.57 to 1.69 over three seeds

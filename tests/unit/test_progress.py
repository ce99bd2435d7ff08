"""The state of a training: the least value is kept, and a restored loop goes on as if unbroken."""

import itertools
import math

import pytest
import torch

from scalespec.models.progress import Progress, cosine_rate


def made(measure="best_loss", width=2):
    model = torch.nn.Linear(width, 1)
    with torch.no_grad():
        model.weight.zero_()
    return Progress(model, torch.optim.AdamW(model.parameters(), lr=0.1), measure)


def step(progress):
    """One step of gradient descent, done and kept."""
    progress.adam.zero_grad()
    loss = (progress.model(torch.ones(3, 2)) - 1).square().mean()
    torch.autograd.backward(loss)
    progress.adam.step()
    progress.done += 1
    progress.keep_best(loss.item())
    progress.history.append({"loss": loss.item()})


def test_only_a_lower_value_is_kept_and_others_age_by_their_epochs():
    progress = made()
    for value, epochs, stale in [(2.0, 1, 0), (2.0, 3, 3), (math.nan, 1, 4), (1.0, 1, 0)]:
        progress.model.bias.data.fill_(value)
        progress.keep_best(value, epochs)
        assert progress.stale == stale
    progress.model.bias.data.fill_(7.0)  # what is kept is a copy
    assert progress.best["bias"].item() == progress.least == 1.0


@pytest.mark.parametrize("measure", ["best_loss", "best_error"])
def test_a_restored_loop_goes_on_as_if_unbroken(measure):
    torch.manual_seed(1)
    whole, first, second = made(measure), made(measure), made(measure)
    first.model.load_state_dict(whole.model.state_dict())
    for _ in range(3):
        step(whole)
        step(first)
    arrays, meta = first.state()
    assert meta[measure] == first.least  # the names that older checkpoints have
    second.restore(3, arrays, meta)
    for _ in range(3):
        step(whole)
        step(second)
    assert second.history == whole.history
    assert (second.done, second.stale, second.least) == (whole.done, whole.stale, whole.least)
    for name, tensor in whole.best.items():
        assert torch.equal(second.best[name], tensor)


def test_another_models_state_is_refused():
    with pytest.raises(ValueError, match="the checkpoint is of another model"):
        made(width=3).restore(1, *made().state())


def test_rates_fall_to_nearly_nothing_after_a_gentle_first_epoch():
    rates = [cosine_rate(2e-3, epoch, 50) for epoch in range(50)]
    assert rates[0] == pytest.approx(1e-3)
    assert all(a > b for a, b in itertools.pairwise(rates[1:]))
    assert rates[-1] < 2e-3 * 0.0015  # sin²(pi / 100) = 0.00099
    assert sum(rates[1:]) == pytest.approx(2e-3 * 24.5, rel=1e-3)  # half of 50 epochs less half one

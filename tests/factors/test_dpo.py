"""TRL tunes to our tokens, and its loss is the one of the ratio factor that comes out."""

import random

import pytest
import torch

from factorlm.algebra import Power
from factorlm.errors import InputError
from factorlm.factors import dpo
from factorlm.factors.adapter import ratio
from factorlm.factors.feedback import Pair
from factorlm.models import CausalLM

HAS_TRL = not dpo.missing()
needs_trl = pytest.mark.skipif(not HAS_TRL, reason="needs the extra align")
pytestmark = pytest.mark.filterwarnings("ignore")  # of TRL, PEFT and datasets, which are not ours


def planted(num: int, seed: int = 0) -> list[Pair]:
    """The text with more of the letter a is chosen."""
    chance = random.Random(seed)
    pairs = []
    while len(pairs) < num:
        one, other = (" ".join(chance.choices("abcd", k=6)) for _ in range(2))
        if one.count("a") != other.count("a"):
            better, worse = sorted((one, other), key=lambda text: -text.count("a"))
            pairs.append(Pair(f"the {len(pairs)}", better, worse))
    return pairs


@needs_trl
def test_tuning_learns_the_pairs_and_touches_nothing_else(tiny_lm: CausalLM) -> None:
    before = {name: weight.clone() for name, weight in tiny_lm.model.state_dict().items()}
    pairs = planted(48)
    settings = dpo.DpoSettings(learning_rate=2e-2, epochs=4, batch_pairs=8, rank=4)
    tuned = dpo.tune(tiny_lm, pairs, settings)
    assert len(tuned.losses) == 4 * 6
    assert tuned.losses[0] == pytest.approx(torch.tensor(2.0).log().item(), abs=1e-3)  # policy and reference agree
    assert sum(tuned.losses[-6:]) / 6 < 0.45
    held = dpo.reward_gaps(tiny_lm, tuned.adapter, planted(40, seed=1))
    assert float((held > 0).double().mean()) > 0.8
    for name, weight in tiny_lm.model.state_dict().items():
        assert torch.equal(weight, before[name])


@needs_trl
def test_loss_of_trl_is_that_of_the_ratio(tiny_lm: CausalLM) -> None:
    pairs = planted(8)
    settings = dpo.DpoSettings(beta=0.3, learning_rate=5e-2, epochs=3, batch_pairs=8, rank=2)
    first = dpo.tune(tiny_lm, pairs, settings.model_copy(update={"epochs": 2}))
    again = dpo.tune(tiny_lm, pairs, settings)
    gap_R = dpo.reward_gaps(tiny_lm, first.adapter, pairs)
    expected = -torch.nn.functional.logsigmoid(0.3 * gap_R).mean()
    assert abs(float(expected) - 0.6931) > 0.05
    # The warm-up does not depend on the number of steps, so the third step of the longer run starts where the shorter
    # one ended; losses are logged with few digits.
    assert again.losses[2] == pytest.approx(float(expected), abs=2e-4)


@needs_trl
def test_ratio_at_exponent_one_is_the_tuned_model(tiny_lm: CausalLM) -> None:
    tuned = dpo.tune(tiny_lm, planted(8), dpo.DpoSettings(learning_rate=5e-2, epochs=3, rank=2))
    factor = ratio("tuned", tiny_lm, tuned.adapter)
    prefix_BT = torch.tensor([list(tiny_lm.start_ids)])
    product = (tiny_lm * Power(factor, 1.0)).start(prefix_BT).log_weight_BV
    assert float((product - tiny_lm.start(prefix_BT).log_weight_BV).abs().max()) > 1e-3
    torch.testing.assert_close(product.logsumexp(-1), torch.zeros(1), atol=1e-4, rtol=0)


def test_without_trl_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dpo.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"trl and peft .* pip install 'factorlm\[align\]'"):
        dpo.needs_trl()

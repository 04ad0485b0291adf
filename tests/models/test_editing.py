"""Facts in weights: the algebra against its definition, and what an edit leaves alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from factorlm.algebra import pad_right
from factorlm.errors import IncompatibleError, InputError
from factorlm.models import CausalLM
from factorlm.models.editing.algebra import rank_one, ridge
from factorlm.models.editing.facts import EditFact, located, read_facts
from factorlm.models.editing.methods import METHODS, EditSettings, write_facts
from factorlm.models.editing.moments import moments
from factorlm.models.editing.patching import patched, weights_hash
from factorlm.models.editing.sites import batched, check_residual, run, site_of
from factorlm.models.editing.values import ValueSettings, wanted_values

FACT = EditFact(subject="the cat", prompt="i met {}", target="good")
OTHER = EditFact(subject="a dog", prompt="{}", target="bad")
TEXTS = [f"the {a} had a {b}." for a in ("cat", "dog", "pig", "hen") for b in ("hat", "good bag", "bad pen", "cup")]
VALUE = ValueSettings(prefixes=(3, 4), steps=15, clamp=20.0, learning_rate=1.0)
FLOAT32 = 1e-5


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spread(seed: int = 5) -> Tensor:
    keys_NF = random(40, 7, seed=seed)
    return keys_NF.T @ keys_NF / 40


def test_a_rank_one_change_gives_the_value_and_keeps_what_is_orthogonal() -> None:
    weight_OF, moment_FF, key_F, want_O = random(5, 7), spread(), random(7, seed=1), random(5, seed=2)
    change, denominator = rank_one(moment_FF, key_F, key_F, weight_OF @ key_F, want_O)
    after_OF = weight_OF + change.dense_OF
    torch.testing.assert_close(after_OF @ key_F, want_O)
    inverse_F = torch.linalg.inv(moment_FF) @ key_F
    assert denominator == pytest.approx(float(inverse_F @ key_F))
    other_F = random(7, seed=3)
    other_F -= inverse_F * (inverse_F @ other_F) / (inverse_F @ inverse_F)
    assert abs(float(inverse_F @ other_F)) < 1e-12
    torch.testing.assert_close(after_OF @ other_F, weight_OF @ other_F)
    assert change.norm == pytest.approx(float(change.dense_OF.norm()))


def test_no_other_change_with_that_value_disturbs_texts_less() -> None:
    weight_OF, moment_FF, key_F, want_O = random(5, 7), spread(), random(7, seed=1), random(5, seed=2)
    best_OF = rank_one(moment_FF, key_F, key_F, weight_OF @ key_F, want_O)[0].dense_OF

    def harm(change_OF: Tensor) -> float:
        return float(torch.trace(change_OF @ moment_FF @ change_OF.T))

    for seed in range(20):
        other_OF = random(5, 7, seed=seed)
        other_OF -= torch.outer(other_OF @ key_F, key_F) / (key_F @ key_F)  # the value stays
        assert harm(best_OF + 0.1 * other_OF) > harm(best_OF)


def test_two_keys_in_rome_miss_the_mean_and_hit_the_one() -> None:
    weight_OF, moment_FF, mean_F, want_O = random(5, 7), spread(), random(7, seed=1), random(5, seed=2)
    alone_F = 0.01 * mean_F
    rome = rank_one(moment_FF, mean_F, alone_F, weight_OF @ alone_F, want_O)[0]
    c_rome = rank_one(moment_FF, mean_F, mean_F, weight_OF @ mean_F, want_O)[0]
    torch.testing.assert_close((weight_OF + rome.dense_OF) @ alone_F, want_O)
    assert rome.norm > 30 * c_rome.norm  # the blow-up: the denominator shrinks with the key read alone


def test_the_ridge_solution_is_that_of_least_squares() -> None:
    keys_NF, gains_NO, others_MF, weight = random(3, 7), random(3, 5, seed=1), random(40, 7, seed=2), 2.5
    change = ridge(others_MF.T @ others_MF / 40, weight, keys_NF, gains_NO)
    rows = torch.cat([keys_NF, (weight / 40) ** 0.5 * others_MF])
    wants = torch.cat([gains_NO, torch.zeros(40, 5, dtype=torch.float64)])
    torch.testing.assert_close(change.dense_OF, torch.linalg.lstsq(rows, wants).solution.T)


def test_a_subject_is_found_by_its_characters(tiny_lm: CausalLM) -> None:
    def spoken(before: str, prompt: str, subject: str, **how: bool) -> str:
        found = located(tiny_lm, before, prompt, subject, **how)
        return tiny_lm.tokenizer.decode(found.ids[: found.place + 1])

    assert spoken("", "i met {} in", "the cat") == "<s>i met the cat"
    assert spoken("the cat. ", "{} ate the cat in", "the cat") == "<s>the cat. the cat"  # not the first, not the last
    assert spoken("", "{} ate", "a", with_start=False) == "a"


@pytest.fixture(scope="module")
def moment_of(tiny_lm: CausalLM, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Tensor]:
    sites = [site_of(tiny_lm, layer) for layer in (0, 1)]
    return moments(tiny_lm, sites, TEXTS, folder=tmp_path_factory.mktemp("moments"))


def settings(method: str, **others: Any) -> EditSettings:
    return EditSettings.model_validate({"method": method, "layer": 0, "value": VALUE, "weight": 0.01, **others})


def nats(lm: CausalLM, fact: EditFact) -> float:
    prefix = torch.tensor([[*lm.start_ids, *lm.encode_text(fact.asked)]])
    return -float(lm.score(prefix, torch.tensor([lm.encode_text(f" {fact.target}")])).sum())


def test_moments_are_the_mean_over_tokens(tiny_lm: CausalLM, moment_of: dict[int, Tensor]) -> None:
    total, count, square, plain = torch.zeros(48, 48, dtype=torch.float64), 0, 0.0, 0
    site = site_of(tiny_lm, 1)
    for text in TEXTS:
        ids = [0, *tiny_lm.encode_text(text)]
        places = torch.arange(len(ids))
        [key_BF] = run(tiny_lm, torch.tensor([ids]).expand(len(ids), -1), places, [site]).key_SBF
        for place, key_F in enumerate(key_BF):
            total += torch.outer(key_F, key_F).double()
            count += 1
            if place:
                square, plain = square + float(key_F.square().mean()), plain + 1
    expected = total / count + 1e-2 * square / plain * torch.eye(48)
    torch.testing.assert_close(moment_of[1], expected, rtol=1e-4, atol=1e-5)  # keys in float32, in other batches


@pytest.mark.parametrize("method", METHODS)
def test_a_fact_is_written_and_the_original_stays(
    method: str, fresh_lm: CausalLM, moment_of: dict[int, Tensor]
) -> None:
    names = [site_of(fresh_lm, layer).name for layer in (0, 1)]
    before, hash_before, fingerprint = nats(fresh_lm, FACT), weights_hash(fresh_lm, names), fresh_lm.fingerprint
    [written] = write_facts(fresh_lm, [FACT], settings(method), moment_of)
    assert nats(written.lm, FACT) < before - 3
    assert nats(fresh_lm, FACT) == before
    assert weights_hash(fresh_lm, names) == hash_before != weights_hash(written.lm, names)
    assert written.lm.fingerprint != fingerprint
    back = patched(fresh_lm, {}, "back")
    assert weights_hash(back, names) == hash_before


def test_heads_of_the_base_fit_an_edited_model(fresh_lm: CausalLM, moment_of: dict[int, Tensor]) -> None:
    from factorlm.factors.head import EncoderCard, HeadWeights, UnboundHead

    card = EncoderCard(name="tiny", fingerprint=fresh_lm.fingerprint, width=fresh_lm.width)
    weights = HeadWeights(torch.ones(32), torch.zeros(32, 0), torch.zeros(0, 32))
    [written] = write_facts(fresh_lm, [FACT], settings("rome"), moment_of)
    [again] = write_facts(written.lm, [OTHER], settings("rome"), moment_of)
    assert UnboundHead("head", None, weights, card).bind(again.lm).lm is again.lm
    other = EncoderCard(name="tiny", fingerprint=again.lm.fingerprint, width=fresh_lm.width)
    with pytest.raises(IncompatibleError, match="needs the encoder"):
        UnboundHead("head", None, weights, other).bind(fresh_lm)


@pytest.mark.parametrize("method", ["rome", "c-rome"])
def test_the_new_matrix_gives_the_value_at_the_key(
    method: str, fresh_lm: CausalLM, moment_of: dict[int, Tensor]
) -> None:
    site, prefixes = site_of(fresh_lm, 0), ["the hen. ", "good bags. "]
    [written] = write_facts(fresh_lm, [FACT], settings(method), moment_of, prefixes=prefixes)
    found = wanted_values(fresh_lm, site, [FACT], prefixes, VALUE)
    seen = run(fresh_lm, *batched(fresh_lm, found.row_of[0]), [site])
    pick = (lambda x: x.mean(0)) if method == "c-rome" else (lambda x: x[0])
    want_O = pick(seen.value_SBO[0]) + found.delta_NO[0]
    got_O = site_of(written.lm, 0).weight_OF @ pick(seen.key_SBF[0])
    torch.testing.assert_close(got_O, want_O, atol=FLOAT32 * float(want_O.abs().max()) * 10, rtol=1e-5)


def test_memit_writes_many_at_once_in_one_layer_as_least_squares(
    fresh_lm: CausalLM, moment_of: dict[int, Tensor]
) -> None:
    chosen, prefixes = settings("memit", num_layers=1), ["the hen. "]
    [written] = write_facts(fresh_lm, [FACT, OTHER], chosen, moment_of, prefixes=prefixes)
    site = site_of(fresh_lm, 0)
    value = VALUE.model_copy(update={"clamp": chosen.value_clamp_memit})
    found = wanted_values(fresh_lm, site, [FACT, OTHER], prefixes, value, lengths_of="after")
    keys = [run(fresh_lm, *batched(fresh_lm, rows), [site]).key_SBF[0].mean(0) for rows in found.row_of]
    expected = ridge(moment_of[0], chosen.weight, torch.stack(keys), found.delta_NO)
    torch.testing.assert_close(written.change[site.name].dense_OF, expected.dense_OF, rtol=1e-4, atol=1e-6)


def test_memit_shares_the_work_among_layers(fresh_lm: CausalLM, moment_of: dict[int, Tensor]) -> None:
    chosen = settings("memit", num_layers=2, layer=1, weight=1e-6)
    [written] = write_facts(fresh_lm, [FACT, OTHER], chosen, moment_of)
    assert sorted(written.change) == [site_of(fresh_lm, layer).name for layer in (0, 1)]
    assert max(nats(written.lm, fact) for fact in (FACT, OTHER)) < min(nats(fresh_lm, f) for f in (FACT, OTHER)) - 1


def test_a_value_is_no_longer_than_allowed(fresh_lm: CausalLM) -> None:
    site = site_of(fresh_lm, 0)
    found = wanted_values(fresh_lm, site, [FACT, OTHER], [], VALUE.model_copy(update={"clamp": 0.5, "enough": 0.0}))
    for n, rows in enumerate(found.row_of):
        [value_BO] = run(fresh_lm, *batched(fresh_lm, rows[:1]), [site]).value_SBO
        assert float(found.delta_NO[n].norm()) == pytest.approx(0.5 * float(value_BO.norm()), rel=1e-3)


def test_values_of_facts_do_not_depend_on_their_company(fresh_lm: CausalLM) -> None:
    site = site_of(fresh_lm, 0)
    both = wanted_values(fresh_lm, site, [FACT, OTHER], ["the hen. "], VALUE)
    for n, fact in enumerate((FACT, OTHER)):
        alone = wanted_values(fresh_lm, site, [fact], ["the hen. "], VALUE)
        torch.testing.assert_close(both.delta_NO[n], alone.delta_NO[0], rtol=1e-2, atol=1e-3)  # Adam divides by little


def test_a_fact_can_be_written_at_the_end_of_its_prompt(fresh_lm: CausalLM, moment_of: dict[int, Tensor]) -> None:
    fact = EditFact(subject="the cat", prompt="i met {} in", target="good")
    value = VALUE.model_copy(update={"place": "prompt"})
    [written] = write_facts(fresh_lm, [fact], settings("rome", layer=1, value=value), moment_of)
    found = wanted_values(fresh_lm, site_of(fresh_lm, 1), [fact], ["the hen. "], value)
    assert all(row.place == len(row.ids) - 1 for row in found.row_of[0])
    assert nats(written.lm, fact) < nats(fresh_lm, fact) - 3


def test_networks_of_other_kinds(tiny_lm: CausalLM, moment_of: dict[int, Tensor]) -> None:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig, GPT2Config, GPT2LMHeadModel

    def lm_of(network: Any) -> CausalLM:
        with torch.no_grad():
            for weight in network.parameters():
                weight += 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
        return CausalLM(network.float(), tiny_lm.tokenizer, name="other", start_ids=(0,), end_ids=(1,))

    size = tiny_lm.vocabulary.size
    gpt2 = lm_of(GPT2LMHeadModel(GPT2Config(vocab_size=size, n_embd=32, n_layer=2, n_head=4, n_positions=64)))
    site = site_of(gpt2, 0)
    assert site.is_transposed
    assert site.weight_OF.shape == (32, 128)
    moment = {0: torch.eye(128, dtype=torch.float64)}
    [written] = write_facts(gpt2, [FACT], settings("rome"), moment)
    assert nats(written.lm, FACT) < nats(gpt2, FACT) - 1
    gemma = Gemma3TextConfig(vocab_size=size, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                             num_attention_heads=4, num_key_value_heads=2, head_dim=8)  # fmt: skip
    other = lm_of(Gemma3ForCausalLM(gemma))
    with pytest.raises(IncompatibleError, match="changes what its MLPs give"):
        check_residual(other, site_of(other, 0))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("Paris | x", "SUBJECT"), ("Paris | in it | x", "once is wanted"), (" | {} is | x", "subject")],
)
def test_bad_facts(text: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        EditFact.parse(text)


def test_facts_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_text('{"subject": "Lyon", "prompt": "The twin of Lyon is", "target_new": "Manila", "case_id": 4}\n')
    assert read_facts(path) == [EditFact(subject="Lyon", prompt="The twin of {} is", target="Manila")]
    path.write_text('{"subject": "Lyon", "prompt": "The twin of Paris is", "target_new": "Manila"}\n')
    with pytest.raises(InputError, match=r"line 1 of .* needs its subject"):
        read_facts(path)


def test_refusals(tiny_lm: CausalLM, moment_of: dict[int, Tensor]) -> None:
    with pytest.raises(InputError, match="0 to 1"):
        site_of(tiny_lm, 2)
    with pytest.raises(InputError, match="at least one fact"):
        write_facts(tiny_lm, [], settings("rome"), moment_of)
    with pytest.raises(InputError, match="denominator"):
        rank_one(torch.eye(2), torch.tensor([1.0, 0]), torch.tensor([0.0, 1]), torch.zeros(2), torch.ones(2))


def test_padding_does_not_matter(tiny_lm: CausalLM) -> None:
    site, short, long = site_of(tiny_lm, 1), [0, 5, 6], [0, 5, 6, 7, 8, 9]
    alone = run(tiny_lm, pad_right([short]), torch.tensor([2]), [site]).after_SBD[0]
    beside = run(tiny_lm, pad_right([short, long]), torch.tensor([2, 2]), [site]).after_SBD[0]
    torch.testing.assert_close(alone[0], beside[0], atol=FLOAT32, rtol=1e-5)

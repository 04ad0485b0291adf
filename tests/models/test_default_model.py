"""The default model against transformers itself."""

import pytest
import torch

import factorlm as fl
from factorlm.algebra import PAD, pad_left
from factorlm.inference.local import Row, sample_local
from factorlm.models import CausalLM
from factorlm.text import TextStream

pytestmark = pytest.mark.model

OPENINGS = ("The weather", "My old friend", "In 1912,", "She opened the", "Do not", "A recipe for", "Once", "def f(x):")
ENDINGS = ("", " today", " and the very long road to the city of", " because", " was\n", " 3 + 4 =")
PROMPTS = [opening + ending for opening in OPENINGS for ending in ENDINGS] + ["1, 2, 3, 4,", "¿Qué es la vida?"]
NEW_TOKENS = 12
NEAR_TIE = 1e-3  # nats: float32 sums in another order differ by 1e-4 of logits near 30


@torch.inference_mode()
def generated_by_transformers(lm: CausalLM, rows: list[list[int]]) -> list[list[int]]:
    """Greedy decoding by `generate`, with its own padding on the left."""
    end_ids = list(lm.vocabulary.end_ids)
    prefix_BT = pad_left(rows)
    written = lm.model.generate(
        prefix_BT.clamp(min=0),
        attention_mask=(prefix_BT != PAD).long(),
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        eos_token_id=end_ids,
        pad_token_id=end_ids[0],
    )
    texts = written[:, prefix_BT.shape[1] :].tolist()
    lengths = [next((n + 1 for n, token in enumerate(text) if token in end_ids), len(text)) for text in texts]
    return [text[:length] for text, length in zip(texts, lengths, strict=True)]


def greedy(lm: CausalLM, rows: list[list[int]]) -> list[list[int]]:
    batch = [Row(row, torch.Generator(), TextStream()) for row in rows]
    list(sample_local(lm, batch, max_tokens=NEW_TOKENS, sampling=fl.Sampling(temperature=0)))
    return [row.token_ids for row in batch]


def test_greedy_decoding_equals_generate(lm: CausalLM) -> None:
    assert len(set(PROMPTS)) == 50
    rows = [[*lm.start_ids, *lm.encode_text(prompt)] for prompt in PROMPTS]
    want = [text for n in (0, 25) for text in generated_by_transformers(lm, rows[n : n + 25])]
    got = [text for n in range(0, 50, 10) for text in greedy(lm, rows[n : n + 10])]
    for row, mine, theirs in zip(rows, got, want, strict=True):
        if mine != theirs:  # only where two tokens are equally good to rounding
            place = next(n for n, pair in enumerate(zip(mine, theirs, strict=False)) if pair[0] != pair[1])
            log_prob_V = lm.start(torch.tensor([row + theirs[:place]])).log_weight_BV[0]
            assert abs(log_prob_V[mine[place]] - log_prob_V[theirs[place]]) < NEAR_TIE, (row, mine, theirs)


def test_sampled_texts_do_not_depend_on_the_batch(model: fl.Model) -> None:
    prompts = PROMPTS[:3]
    together = model.generate(prompts, max_tokens=8, seed=3, n=2)
    alone = [r for prompt in prompts for r in model.generate(prompt, max_tokens=8, seed=3, n=2)]
    assert [r.token_ids for r in together] == [r.token_ids for r in alone]
    assert [r.log_prob for r in together] == pytest.approx([r.log_prob for r in alone], abs=1e-2)


def test_a_text_is_scored_as_it_was_drawn(model: fl.Model) -> None:
    lm = model.lm
    rows = [[*lm.start_ids, *lm.encode_text(prompt)] for prompt in PROMPTS[:4]]
    responses = model.generate(PROMPTS[:4], max_tokens=8, seed=1)
    for row, response in zip(rows, responses, strict=True):
        score_BT = lm.score(pad_left([row]), torch.tensor([response.token_ids]))
        assert response.log_prob == pytest.approx(float(score_BT.double().sum()), abs=1e-2)  # 8 tokens of float32
        assert response.base_log_prob == pytest.approx(response.log_prob, abs=1e-2)


def test_names_of_special_tokens_are_plain_text(lm: CausalLM) -> None:
    ids = lm.encode_text("<|im_start|>user é€ <|endoftext|>")
    assert lm.vocabulary.decode(ids).decode() == "<|im_start|>user é€ <|endoftext|>"
    assert not set(ids) & set(lm.vocabulary.end_ids)
    assert lm.encode_message("hi")[-3:] != ids[-3:]

"""The parts `likelihood` and `unlike` on a tiny model: numbers against what they are made of."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from factorlm.algebra import Backoff
from factorlm.errors import InputError
from factorlm.evaluation.corpora import DataFolder
from factorlm.evaluation.memories.domains import DOMAINS, Domain, Texts
from factorlm.evaluation.memories.likelihood import BEST, BOTH, NEAR, OTHER, Likelihood, measure_likelihood
from factorlm.evaluation.memories.matches import ALONE
from factorlm.evaluation.memories.mixed import documents_of, evidence_by_document, nats_under
from factorlm.evaluation.memories.stores import infini_of
from factorlm.evaluation.memories.unlike import Unlike, measure_unlike
from factorlm.evaluation.suites.memory import Settings, run
from factorlm.evaluation.texts import Corpus
from factorlm.evaluation.workbench import Cache, Workbench
from factorlm.inference import Model
from factorlm.inference.expression import Composed
from factorlm.memory.datastore import NeighbourSettings
from factorlm.memory.gates import ConstantGate
from factorlm.models import CausalLM

Put = Callable[..., DataFolder]
WORDS = {
    "law": ("the", "bag", "bad", "court", "fine", "party", "shall", "sign", "term", "clause", "null", "void"),
    "tale": ("dog", "good", "girl", "woods", "king", "once", "lamp", "moon", "fox", "home", "kind", "sea"),
}


def texts(kind: str, num: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS[kind], 10)) for _ in range(num)]


def domain(kind: str) -> Domain:
    parts = (Texts(corpus=Corpus(part=f"{kind}/{name}", max_documents=None)) for name in ("train", "valid", "test"))
    stored, valid, test = parts
    return Domain(name=kind, stored=stored, valid=valid, test=test)


@pytest.fixture
def bench(tiny_lm: CausalLM, put: Put, tmp_path: object) -> Workbench:
    for kind in WORDS:
        for seed, (part, num) in enumerate((("train", 30), ("valid", 12), ("test", 10))):
            data = put(f"{kind}/{part}", [{"text": text} for text in texts(kind, num, seed)])
    composed = Composed("tiny", Model(tiny_lm, tiny_lm), (), "tiny")
    return Workbench((composed,), data, Cache(data.folder / "cache"), lambda *_: None)


SMALL = Likelihood(
    domains=(domain("law"), domain("tale")), test_tokens=400, valid_tokens=400, longest=60, neighbour_characters=600,
    neighbours=NeighbourSettings(window=40, pilot=50),
)  # fmt: skip


def test_memories_of_the_kind_help_and_others_less(bench: Workbench) -> None:
    part = measure_likelihood(bench, SMALL)
    for kind in WORDS:
        saved = part.measures[f"nats saved/{kind}"]
        assert set(saved) >= {BEST, OTHER, NEAR, BOTH}
        assert saved[BEST].value > 2 * saved[OTHER].value  # type: ignore[operator]
        assert saved[BEST].value > 0.5  # type: ignore[operator]
        assert saved[BOTH].value > saved[NEAR].value  # type: ignore[operator]
        assert part.measures[f"perplexity/{kind}"][BEST].value < part.measures[f"perplexity/{kind}"][ALONE].value  # type: ignore[operator]
        by_length = part.measures[f"agreement by suffix length/{kind}"]
        known = [estimate.value for estimate in by_length.values() if estimate.value is not None]
        whole = part.measures[f"agreement/{kind}"]
        assert min(known) <= (whole["all"].value or 0) <= max(known)
    assert len(part.headlines) == 2


def test_evidence_is_that_of_the_mixture(bench: Workbench, tiny_lm: CausalLM) -> None:
    law = domain("law")
    memory = infini_of(bench, tiny_lm, "law", law.stored.load(bench.data))
    documents = documents_of(tiny_lm, law.test.load(bench.data), 100, 30)
    assert [len(row) for row in documents.rows[:-1]] == [30] * (len(documents.rows) - 1)
    assert sum(map(len, documents.rows)) == 100
    parts = evidence_by_document(bench, {}, memory, tiny_lm, tiny_lm.start_ids, documents, "reading")
    gate = ConstantGate(weight=0.4)
    mixed = Backoff((memory.gated(gate), tiny_lm))
    for row, lost in zip(documents.rows, nats_under(gate, parts), strict=True):
        want = -mixed.score(torch.tensor([list(tiny_lm.start_ids)]), torch.tensor([list(row)]))[0]
        np.testing.assert_allclose(lost, want.numpy(), atol=2e-4)  # kept with five digits; float32 in other batches
    again = evidence_by_document(bench, {}, memory, tiny_lm, tiny_lm.start_ids, documents, "reading")
    assert [e.model_N.tolist() for e in again] == [e.model_N.tolist() for e in parts]


def test_one_long_text_is_parted_and_copies_are_left_out(bench: Workbench, tiny_lm: CausalLM) -> None:
    long = "the good dog " * 40
    documents = documents_of(tiny_lm, [long], 70, 32)
    assert [len(row) for row in documents.rows] == [32, 32, 6]
    copied = SMALL.model_copy(
        update={"domains": (domain("law").model_copy(update={"test": domain("law").stored}), domain("tale"))}
    )
    with pytest.raises(InputError, match="all test texts of law stand in what its memory was built from"):
        measure_likelihood(bench, copied)
    with pytest.raises(InputError, match="at least two kinds"):
        measure_likelihood(bench, SMALL.model_copy(update={"domains": DOMAINS[:1]}))


def test_unlike_makes_its_corpus_dearer(bench: Workbench) -> None:
    settings = Unlike(
        domain=domain("law"), other=domain("tale"), exponents=(-2.0, 1.0), test_tokens=200, longest=40, prompts=6,
        prompt_tokens=8, max_tokens=10,
    )  # fmt: skip
    part = measure_unlike(bench, settings)
    own, other = (part.measures[f"nats by exponent/{kind}"] for kind in WORDS)
    assert own["-2"].value > own["0"].value > own["1"].value  # type: ignore[operator]
    assert own["-2"].value - own["0"].value > other["-2"].value - other["0"].value  # type: ignore[operator]
    copied = part.measures["copied by exponent"]
    assert copied["1"].value > copied["-2"].value  # type: ignore[operator]
    [line] = part.headlines
    assert line.startswith("Unlike law (exponent -2)")


def test_the_suite_runs_the_parts_that_are_asked_for(bench: Workbench) -> None:
    found = run(bench, Settings(parts=("likelihood",), likelihood=SMALL))
    assert [section.title for section in found.sections] == ["Likelihood", "What is matched"]
    with pytest.raises(InputError, match="at least one part is needed"):
        run(bench, Settings(parts=()))
    two = Workbench((*bench.models, *bench.models), bench.data, bench.cache, bench.report)
    with pytest.raises(InputError, match="one language model"):
        run(two, Settings())
    assert Settings.sized("full").likelihood.test_tokens > Settings.sized("small").likelihood.test_tokens

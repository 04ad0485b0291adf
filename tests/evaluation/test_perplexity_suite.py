"""The suite over tiny models and files made on the spot: loading, blocks, verdicts, and that nothing is read twice."""

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from factorlm.errors import InputError, UnknownNameError
from factorlm.evaluation.corpora import DataFolder, Document, fingerprint
from factorlm.evaluation.document import Curve, Matrix, Prose, Report, Table
from factorlm.evaluation.intervals import Estimate
from factorlm.evaluation.perplexity import token_log_probs
from factorlm.evaluation.run import evaluate
from factorlm.evaluation.suites import settings_of
from factorlm.evaluation.suites.perplexity import Settings, load
from factorlm.evaluation.texts import Corpus, cut, load_corpora, load_own
from factorlm.evaluation.workbench import Cache, Workbench
from factorlm.factors import bind, lexicon
from factorlm.factors.head import Head
from factorlm.inference import Model, mix
from factorlm.inference.expression import Composed
from factorlm.models import CausalLM
from factorlm.settings import changed

WORDS = ("the", "good", "bad", "house", "in", "cat", "sees", "internationalism", "dog", "was", "here")


def sentence(num_words: int, generator: np.random.Generator) -> str:
    return " ".join(generator.choice(WORDS, num_words)) + "."


def composed(name: str, model: Model) -> Composed:
    return Composed(name, model, ({"name": name, "kind": "model", "fingerprint": name},), name)


@pytest.fixture
def plain(tiny_lm: CausalLM) -> Composed:
    return composed("tiny", Model(tiny_lm, tiny_lm))


@pytest.fixture
def headed(tiny_lm: CausalLM, make_head: Callable[..., Head]) -> Composed:
    return composed("tiny * head", Model(tiny_lm, tiny_lm) * make_head(2, 1))


@pytest.fixture
def own(tmp_path: Path) -> tuple[str, ...]:
    """Ten documents in each of two languages, translations of each other; the second is the longer one."""
    generator = np.random.default_rng(0)
    specs = []
    for group, size in (("short", 12), ("long", 24)):
        rows = [{"text": sentence(size, generator), "id": str(i)} for i in range(10)]
        (tmp_path / f"{group}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        specs.append(f"{group}={tmp_path / group}.jsonl")
    return tuple(specs)


def measured(models: list[Composed], settings: Settings, folder: Path | None = None) -> Report:
    return evaluate("perplexity", models, settings=settings, data=DataFolder(Path("nowhere")), cache=Cache(folder))


def block_of(report: Report, kind: type, title: str) -> object:
    return next(b for s in report.sections for b in s.blocks if isinstance(b, kind) and title in b.title)  # type: ignore[attr-defined]


def test_figures_are_those_of_the_protocol(plain: Composed, own: tuple[str, ...]) -> None:
    report = measured([plain], Settings(texts=own, window=20, stride=10))
    groups, _ = load_own(own, None, None)
    for name, documents in groups.items():
        texts = [d.text for d in documents]
        rows = token_log_probs(plain.model, texts, window=20, stride=10)
        nats = -sum(row.sum() for row in rows)
        found = report.measures[f"bits_per_byte/{name}"]["tiny"]
        assert found.n == 10
        assert found.value == pytest.approx(nats / math.log(2) / sum(len(t.encode()) for t in texts))
        assert report.measures[f"token_perplexity/{name}"]["tiny"].value == pytest.approx(
            math.exp(nats / sum(map(len, rows)))
        )
        assert report.measures[f"word_perplexity/{name}"]["tiny"].value == pytest.approx(
            math.exp(nats / sum(len(t.split()) for t in texts))
        )
        assert report.provenance.data[name] == fingerprint(texts)
    assert report.comparisons == ()
    assert len(report.headlines) == 2
    assert report.headlines[0].startswith("tiny needs ")
    means = [report.measures[f"bits_per_byte/{g}"]["tiny"].value for g in groups]
    assert report.measures["bits_per_byte/mean of groups"]["tiny"].value == pytest.approx(np.mean(np.array(means)))
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_parallel_groups_are_set_against_the_first(plain: Composed, own: tuple[str, ...]) -> None:
    report = measured([plain], Settings(texts=own))
    groups, _ = load_own(own, None, None)
    num_tokens = [sum(len(plain.model.lm.encode_text(d.text)) for d in documents) for documents in groups.values()]
    nats = [-sum(r.sum() for r in token_log_probs(plain.model, [d.text for d in ds])) for ds in groups.values()]
    assert report.measures["token_parity/long"]["tiny"].value == pytest.approx(num_tokens[1] / num_tokens[0])
    assert report.measures["information_parity/long"]["tiny"].value == pytest.approx(nats[0] / nats[1])
    table = block_of(report, Table, "The same documents as in short")
    assert isinstance(table, Table)
    [row] = table.rows
    assert row[:2] == ("long · tiny", 10)
    assert row[2].value == pytest.approx(nats[1] / math.log(2) / 10)  # type: ignore[union-attr]
    assert f"{(nats[1] - nats[0]) / math.log(2) / 10:.3g} for tiny" in table.note


def test_a_rival_is_compared_document_by_document(plain: Composed, headed: Composed, own: tuple[str, ...]) -> None:
    report = measured([headed, plain], Settings(texts=own))
    for group, found in zip(("short", "long"), report.comparisons, strict=True):
        ours, theirs = (report.measures[f"bits_per_byte/{group}"][name].value for name in ("tiny * head", "tiny"))
        assert ours is not None
        assert theirs is not None
        assert found.measure == f"bits per byte on {group}"
        assert found.difference.value == pytest.approx(ours - theirs)
        assert found.difference.n == 10
        assert found.p_value is not None
        if found.verdict in ("better", "worse"):
            assert found.verdict == ("better" if ours < theirs else "worse")
            assert f"{abs(ours - theirs):.3f} {'fewer' if ours < theirs else 'more'} than tiny" in " ".join(
                report.headlines
            )
    assert any("p-values are adjusted" in b.text for s in report.sections for b in s.blocks if isinstance(b, Prose))
    assert isinstance(block_of(report, Matrix, "by corpus"), Matrix)
    curve = block_of(report, Curve, "by position on long")
    assert isinstance(curve, Curve)
    assert [s.name for s in curve.series] == ["tiny * head", "tiny"]
    words = block_of(report, Table, "by kind of word")
    assert isinstance(words, Table)
    every = next(row for row in words.rows if row[0] == "all words")
    assert every[1] == 10 * (12 + 24)
    assert {row[0] for row in words.rows} >= {"function word", "long", "seen before", "first mention"}


def test_models_of_other_tokens_are_compared_by_bytes_and_words(
    tiny_lm: CausalLM, plain: Composed, own: tuple[str, ...]
) -> None:
    """The same network over single letters in another order: it knows nothing, but what it costs can be compared."""
    pieces = ["<s>", "</s>", " ", ".", *"zyxwvutsrqponmlkjihgfedcba"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, [])),
        bos_token="<s>",
        eos_token="</s>",
    )
    speller = CausalLM(tiny_lm.model, tokenizer, name="speller", start_ids=(0,), end_ids=(1,))
    report = measured([composed("speller", Model(speller, speller)), plain], Settings(texts=own))
    assert "The tokenizers differ" in report.cautions[0]
    held = block_of(report, Table, "What tokens hold")
    assert isinstance(held, Table)
    assert [row[0] for row in held.rows] == ["short · speller", "short · tiny", "long · speller", "long · tiny"]
    assert report.measures["bytes_per_token/long"]["speller"].value == 1
    texts = [d.text for d in load_own(own, None, None)[0]["long"]]
    num_bytes, nats = sum(map(len, texts)), -sum(r.sum() for r in token_log_probs(Model(speller, speller), texts))
    assert report.measures["bits_per_byte/long"]["speller"].value == pytest.approx(nats / math.log(2) / num_bytes)
    words = block_of(report, Table, "speller against tiny by kind of word")
    assert isinstance(words, Table)
    both = [report.measures[f"bits_per_byte/{g}"] for g in ("short", "long")]
    size = [sum(len(d.text) for d in documents) for documents in load_own(own, None, None)[0].values()]
    for column, name in ((3, "speller"), (4, "tiny")):  # the nats of all words are those of all bytes
        total = sum(float(m[name].value or 0) * n * math.log(2) for m, n in zip(both, size, strict=True))
        assert words.rows[0][column].value == pytest.approx(total / 360)  # type: ignore[union-attr]
    assert isinstance(block_of(report, Curve, "Nats per byte by position on long"), Curve)


def test_few_documents_are_not_ranked(plain: Composed, headed: Composed, own: tuple[str, ...]) -> None:
    report = measured([headed, plain], Settings(texts=own, max_documents=4))
    assert {c.verdict for c in report.comparisons} == {"cannot rank"}
    assert any("no ranking is made on short, long" in caution for caution in report.cautions)
    assert any(caution.startswith("Of 10 documents of short, 4 were read") for caution in report.cautions)
    assert "it cannot be ranked against tiny (4 units; at least 8 are needed)" in report.headlines[0]


def test_a_second_run_reads_nothing(
    tiny_lm: CausalLM, plain: Composed, headed: Composed, own: tuple[str, ...], tmp_path: Path
) -> None:
    settings = Settings(texts=own)
    before = tiny_lm.num_tokens_read
    first = measured([plain, headed], settings, tmp_path)
    between = tiny_lm.num_tokens_read
    assert between > before
    again = measured([plain, headed], settings, tmp_path)
    assert tiny_lm.num_tokens_read == between
    assert again.measures == first.measures
    found = first.measures["bits_per_byte/long"]
    assert found["tiny"] != found["tiny * head"], "what one model needs is not taken for what the other needs"
    for change in ({"stride": 7}, {"window": 30}, {"count_first": False}):
        before = tiny_lm.num_tokens_read
        measured([plain], settings.model_copy(update=change), tmp_path)
        assert tiny_lm.num_tokens_read > before, f"{change} is another measurement"


def test_the_first_token_may_be_left_out(plain: Composed, own: tuple[str, ...]) -> None:
    with_first, without = (measured([plain], Settings(texts=own, count_first=c)) for c in (True, False))
    tokens = [block_of(r, Table, "in all units").rows[0][2] for r in (with_first, without)]  # type: ignore[attr-defined]
    assert tokens[0] - tokens[1] == 10
    assert "their first tokens not counted" in without.sections[0].lead


def test_cautions_say_what_figures_cannot_bear(
    tiny_lm: CausalLM, plain: Composed, headed: Composed, tmp_path: Path
) -> None:
    (tmp_path / "own.txt").write_text("good house\n\nthe CAT\nthe 日本 house\n", encoding="utf-8")
    mixture = composed("mixture", mix([plain.model, headed.model]))
    report = measured([mixture], Settings(texts=(f"own={tmp_path / 'own.txt'}",)))
    said = " ".join(report.cautions)
    assert "The mixture in mixture learns anew in every window" in said
    assert "changes characters of 2 documents" in said  # it has neither capitals nor Japanese
    assert "1 documents are not in the tables by kind of word" in said


def test_impossible_texts_are_said_to_be(tiny_lm: CausalLM, plain: Composed, own: tuple[str, ...]) -> None:
    banned = Model(bind(tiny_lm * lexicon({"good": -math.inf}, name="ban"), tiny_lm), tiny_lm)
    report = measured([composed("banned", banned), plain], Settings(texts=own))
    assert report.measures["bits_per_byte/long"]["banned"].value == math.inf
    assert {c.verdict for c in report.comparisons} == {"cannot rank"}
    assert any("documents probability zero" in caution for caution in report.cautions)
    words = block_of(report, Table, "by kind of word")
    assert isinstance(words, Table)
    assert words.rows[0][2:4] == (Estimate(value=None, n=20), Estimate(value=math.inf, n=20))


@pytest.mark.parametrize(
    ("spec", "content", "message"),
    [
        ("no path", "", "texts are group=path, got 'no path'"),
        ("a={}/missing.txt", "", "cannot be read as UTF-8 text"),
        ("a={}/x.jsonl", '{"text": "good"}\n{"body": 1}', "in line 2"),
        ("a={}/x.jsonl", '{"text": "good", "id": "1"}\n{"text": "bad", "id": "1"}', "got '1' twice in 'a'"),
        ("a={}/x.txt", " \n\n", "at least one text is needed, got none"),
    ],
)
def test_files_that_cannot_be_used_are_refused(
    plain: Composed, tmp_path: Path, spec: str, content: str, message: str
) -> None:
    for name in ("x.jsonl", "x.txt"):
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        measured([plain], Settings(texts=(spec.format(tmp_path),)))


def test_rows_may_name_their_group(tmp_path: Path) -> None:
    rows = [{"text": "good", "group": "de", "id": 7}, {"text": "bad\u2028bad"}, {"text": " "}]
    (tmp_path / "x.jsonl").write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows), encoding="utf-8")
    groups, sentences = load_own([f"en={tmp_path / 'x.jsonl'}"], 5, 4)
    assert groups == {"de": [Document("good", "de", "7")], "en": [Document("bad", "en")]}
    assert sentences == ["Of 1 documents of en, 1 were read, 1 of them cut to 4 characters."]


def test_corpora_are_cut_into_documents(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    wiki = " \n = One = \n \n = = Part = = \n Text of one . \n \n = Two ( film ) = \n \n Text of two . \n"
    (tmp_path / "w/wiki.txt.gz").write_bytes(gzip.compress(wiki.encode()))
    rows = [{"q": "a b", "a": "c"}, {"q": "d", "a": ""}]
    (tmp_path / "w/rows.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    data = DataFolder(tmp_path)
    articles = Corpus(part="w/wiki", documents="headings", max_characters=None)
    found = [d.text for d in articles.load(data)]
    assert found == [wiki[2 : wiki.index(" = Two")], wiki[wiki.index(" = Two") :]], "raw text, sections kept"
    assert len(Corpus(part="w/wiki", documents="lines").load(data)) == 5
    assert [d.text for d in Corpus(part="w/wiki", documents="whole", max_characters=None).load(data)] == [wiki]
    joined = Corpus(part="w/rows", name="qa", fields=("q", "a"), joint="|", max_documents=1)
    assert load_corpora([joined, articles], data)["qa"] == [Document("a b|c", "qa")]
    with pytest.raises(InputError, match="w/rows has the fields q, a, got 'text'"):
        Corpus(part="w/rows").load(data)
    with pytest.raises(UnknownNameError, match="w/wiki"):
        Corpus(part="w/wikis", documents="whole").load(data)


def test_documents_are_cut_before_white_space() -> None:
    assert cut("good house", 20) == cut("good house", None) == "good house"
    assert [cut("good house", n) for n in (3, 4, 5, 9)] == ["goo", "good", "good", "good"]


def test_settings_can_be_changed_by_name() -> None:
    assert settings_of("perplexity", "small") == Settings()
    full = settings_of("perplexity", "full")
    assert isinstance(full, Settings)
    assert all(a.part == b.part for a, b in zip(full.corpora, Settings().corpora, strict=True))
    found = changed(Settings(), None, ['corpora=[{part="ptb/test", documents="lines"}]', "window=64", 'texts=["a=b"]'])
    assert found.corpora == (Corpus(part="ptb/test", documents="lines"),)
    assert (found.window, found.texts) == (64, ("a=b",))
    with pytest.raises(InputError, match="window"):
        changed(Settings(), None, ["window=0"])


def test_the_shipped_corpora_are_there(plain: Composed) -> None:
    data = DataFolder.default()
    missing = [c.part for c in Settings().corpora if not data.has(c.part)]
    if missing:
        pytest.skip(f"no data sets in {data.folder}: {', '.join(missing)}; set FACTORLM_DATA")
    bench = Workbench((plain,), data, Cache(None), lambda stage, done, total: None)
    groups, _ = load(bench, Settings())
    assert {name: len(documents) for name, documents in groups.items()} == {
        "wikitext": 10, "tinystories": 10, "gsm8k": 12, "humaneval": 12, "cuad": 8,
    }  # fmt: skip
    assert 50_000 < sum(len(d.text) for documents in groups.values() for d in documents) < 80_000
    assert set(bench.used) == {corpus.part for corpus in Settings().corpora}
    assert groups["wikitext"][0].text.startswith(" = ")

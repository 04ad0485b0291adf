"""factorlm factor train, each way of teaching, on a tiny model."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from factorlm.factors import dpo

Run = Callable[..., Any]
WORDS = list("abcdefghijk")
LIKED, OTHER = ("good", "bad")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Good and bad input, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACTORLM_CACHE", str(tmp_path / "cache"))
    chance = random.Random(0)

    def text(word: str) -> str:
        words = [*chance.choices(WORDS, k=5), word, word]
        chance.shuffle(words)
        return " ".join(words)

    pairs = [{"prompt": f"p {n}", "chosen": text(LIKED), "rejected": text(OTHER)} for n in range(60)]
    thumbs = [{"text": text(word), "thumb": thumb} for n in range(40) for word, thumb in ((LIKED, "up"), (OTHER, 0))]
    for name, rows in (("pairs", pairs), ("few", pairs[:5]), ("thumbs", thumbs)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "broken.jsonl").write_text('{"chosen": "a"}\n')
    (tmp_path / "both.jsonl").write_text('{"text": "a", "thumb": 1}\n{"text": "a", "thumb": 0}\n')
    (tmp_path / "words.txt").write_text("good\nmud\n")
    (tmp_path / "texts.txt").write_text("\n".join(text("sun") for _ in range(30)))
    (tmp_path / "good.txt").write_text("\n".join(text(LIKED) for _ in range(30)))
    (tmp_path / "bad.txt").write_text("\n".join(text(OTHER) for _ in range(30)))
    return tmp_path


def card(run: Run, name: str) -> dict[str, Any]:
    return json.loads(run("factor", "show", name, "--json").out)


def test_from_texts(run: Run, files: Path, tiny_folder: Path) -> None:
    ran = run(
        "factor", "train", "liked", "--positive", "good.txt", "--negative", "bad.txt", "--model", str(tiny_folder)
    )
    assert ran.status == 0, ran.err
    assert "held-out AUC 1.000" in ran.out
    assert "pairs" not in ran.out
    assert card(run, "liked")["calibration"]["pair_accuracy"] is None


def test_from_pairs(run: Run, files: Path, tiny_folder: Path) -> None:
    ran = run("factor", "train", "liked", "--pairs", "pairs.jsonl", "--model", str(tiny_folder), "--licence", "CC0-1.0")
    assert ran.status == 0, ran.err
    assert "pairs in order" in ran.out
    assert "of those of like length" in ran.out
    found = card(run, "liked")
    assert found["calibration"]["pair_accuracy"] > 0.9
    assert found["data"]["train"][0]["name"] == "pairs.jsonl"
    assert found["licence"] == "CC0-1.0"
    assert found["strengths"]["points"]
    again = run("factor", "train", "liked", "--pairs", "pairs.jsonl", "--model", str(tiny_folder))
    assert again.status == 2
    assert "--replace" in again.err


def test_from_thumbs(run: Run, files: Path, tiny_folder: Path) -> None:
    ran = run("factor", "train", "liked", "--thumbs", "thumbs.jsonl", "--model", str(tiny_folder))
    assert ran.status == 0, ran.err
    found = card(run, "liked")
    assert found["calibration"]["pair_accuracy"] is None  # no prompt has both thumbs
    assert found["calibration"]["dev_auc"] > 0.9


def test_from_an_instruction(run: Run, files: Path, tiny_folder: Path) -> None:
    words = ["factor", "train", "liked", "--from-prompt", "be kind", "--texts", "texts.txt", "--rank", "2"]
    ran = run(*words, "--model", str(tiny_folder))
    assert ran.status == 0, ran.err
    assert "% of what its teacher does" in ran.out
    found = card(run, "liked")
    assert found["origin"] == "distilled from the instruction 'be kind'"
    assert found["settings"]["rank"] == 2
    assert found["calibration"] is None
    assert found["effect"]["share of the teacher's divergence explained"] > 0
    assert [source["num_texts"] for source in found["data"]["train"]] == [63, 30]
    assert run("factor", "list").status == 0


@pytest.mark.parametrize("teacher", ["words.txt", "boosts"])
def test_from_a_lexicon(run: Run, files: Path, tiny_folder: Path, teacher: str) -> None:
    assert run("factor", "create", "boosts", "--words", "words.txt").status == 0
    ran = run("factor", "train", "liked", "--from-lexicon", teacher, "--exponent", "1.5", "--model", str(tiny_folder))
    assert ran.status == 0, ran.err
    found = card(run, "liked")
    assert found["effect"]["share of the teacher's divergence explained"] > 0.1
    assert teacher in found["origin"]


BAD = {
    "nothing": ([], "give exactly one"),
    "two ways": (["--pairs", "pairs.jsonl", "--from-prompt", "be kind"], "give exactly one"),
    "one file": (["--positive", "good.txt"], "--negative"),
    "one file and pairs": (["--positive", "good.txt", "--pairs", "pairs.jsonl"], "give exactly one"),
    "no such pairs": (["--pairs", "absent.jsonl"], "no file absent.jsonl"),
    "a field lacks": (["--pairs", "broken.jsonl"], "'rejected' is needed in line 1 of broken.jsonl"),
    "few pairs": (["--pairs", "few.jsonl"], "at least 10 different prompts"),
    "both thumbs": (["--thumbs", "both.jsonl"], "line 1 of both.jsonl and line 2 of both.jsonl"),
    "pairs as thumbs": (["--thumbs", "pairs.jsonl"], "line 1 of pairs.jsonl"),
    "rank of pairs": (["--pairs", "pairs.jsonl", "--rank", "4"], "got --rank 4; leave it out"),
    "own texts of pairs": (["--pairs", "pairs.jsonl", "--own-texts", "9"], "got 9; leave it out"),
    "texts without a teacher": (["--pairs", "pairs.jsonl", "--texts", "texts.txt"], "--from-prompt"),
    "exponent without a teacher": (["--thumbs", "thumbs.jsonl", "--exponent", "2"], "--from-prompt"),
    "no such teacher": (["--from-lexicon", "boosst"], "boosst"),
    "no such words": (["--from-lexicon", "absent.txt"], "no file absent.txt"),
    "no such texts": (["--from-prompt", "be kind", "--texts", "absent.txt"], "no file absent.txt"),
    "no exponent": (["--from-prompt", "be kind", "--exponent", "nan"], "finite number other than 0"),
    "exponent nought": (["--from-prompt", "be kind", "--exponent", "0"], "finite number other than 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_one_line(case: str, run: Run, files: Path, tiny_folder: Path) -> None:
    words, wanted = BAD[case]
    ran = run("factor", "train", "liked", *words, "--model", str(tiny_folder))
    assert ran.status == 2
    lines = [line for line in ran.err.splitlines() if line.startswith("factorlm: ")]
    assert len(lines) == 1, ran.err
    assert wanted in lines[0]
    assert '"liked"' not in run("factor", "list", "--json").out


def test_a_reward_of_whole_responses_and_what_chooses_by_it(run: Run, files: Path, tiny_folder: Path) -> None:
    model = ("--model", str(tiny_folder))
    ran = run("factor", "train", "liked", "--pairs", "pairs.jsonl", "--as", "reward", *model)
    assert ran.status == 0, ran.err
    assert "pairs in order" in ran.out
    assert "--reward liked" in ran.out
    assert card(run, "liked")["settings"] == {"kind": "reward"}
    write = ("generate", "the", *model, "--max-tokens", "6", "--json", "--reward", "liked")

    def rewards(*more: str) -> list[float]:
        ran = run(*write, *more)
        assert ran.status == 0, ran.err
        return [json.loads(line)["reward"] for line in ran.out.splitlines()]

    two = ("--sampler", "best-of-n", "--particles", "2", "--n", "8")
    of_two, of_eight = rewards(*two), rewards("--sampler", "best-of-n", "--particles", "8", "--n", "2")
    assert sum(of_eight) / 2 > sum(of_two) / 8
    particles = ("--sampler", "smc", "--particles", "16", "--n", "3", "--limit", "cut", "--max-tokens", "8")
    strong, weak = (rewards(*particles, "--beta", beta) for beta in ("0.1", "100"))
    assert sum(strong) > sum(weak)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--reward", "liked"), "--reward judges whole texts"),
        (("--sampler", "best-of-n"), "chooses by a reward, got none"),
        (("--reward", "positive", "--sampler", "smc", "--beta", "0"), "positive --beta"),
        (("--reward", "positive", "--sampler", "best-of-n"), "works token by token"),
        (("--reward", "positive^2", "--sampler", "best-of-n"), "NAME or NAME=WEIGHT"),
    ],
)
def test_rewards_that_cannot_choose(run: Run, tiny_folder: Path, words: tuple[str, ...], complaint: str) -> None:
    ran = run("generate", "the", "--model", str(tiny_folder), "--max-tokens", "2", *words)
    assert (ran.status, len(ran.err.splitlines())) == (2, 1), ran.err
    assert complaint in ran.err


@pytest.mark.skipif(bool(dpo.missing()), reason="needs the extra align")
@pytest.mark.filterwarnings("ignore")
def test_an_adapter_tuned_to_pairs(run: Run, files: Path, tiny_folder: Path) -> None:
    model = ("--model", str(tiny_folder))
    ran = run("factor", "train", "tuned", "--pairs", "pairs.jsonl", "--as", "dpo", *model)
    assert ran.status == 0, ran.err
    assert "--factor tuned^1" in ran.out
    assert card(run, "tuned")["settings"] == {"kind": "adapter", "scale": 2.0}
    (files / "three.txt").write_text("good good a\n")
    score = json.loads(run("score", "three.txt", "--factor", "tuned^1", "--json", *model).out)
    assert score["factors"]["tuned"] != 0


def test_only_preferences_teach_rewards(run: Run, files: Path, tiny_folder: Path) -> None:
    texts = ("--positive", "good.txt", "--negative", "bad.txt")
    ran = run("factor", "train", "liked", *texts, "--as", "reward", "--model", str(tiny_folder))
    assert ran.status == 2
    assert "--as reward is for --pairs and --thumbs" in ran.err
    assert run("factor", "train", "liked", "--pairs", "pairs.jsonl", "--as", "rewrd").status == 2

"""The judges that can be trained, and from what.

Sets that the factors of the shelf were trained on are left to the factors wherever others do: a judge that learned from
the same texts would take their accidents for the attribute. Penalties, weights and features were chosen by accuracy on
training and development parts that no judge of the shelf learns from (sst2/train and dev, jigsaw_toxic/dev,
asset/valid), or by cross-validation.
"""

from __future__ import annotations

from typing import Any

from factorlm.errors import UnknownNameError
from factorlm.evaluation.corpora import DataFolder
from factorlm.evaluation.judges.card import JudgeCard
from factorlm.evaluation.judges.features import CharacterFeatures, Report, SentenceFeatures, WordFeatures
from factorlm.evaluation.judges.labelled import JudgeRecipe, ScoreSet, TestSet, TrainingSet
from factorlm.evaluation.judges.refusals import audited, learned_from
from factorlm.evaluation.judges.sources import (
    PARADETOX_KEPT,
    SHORT,
    film_sentences,
    kept_pairs,
    news,
    passages,
    perspective,
    rewrites,
    rows_of,
    short_comments,
    simplifications,
    surge,
    tweets,
)
from factorlm.evaluation.judges.training import train

Tensors = dict[str, Any]

REWRITES = TrainingSet(
    "review_sentiment_transfer/yelp_test with rewrites, amazon_test rewrites",
    "CC BY-SA 4.0",
    "J. Li, R. Jia, H. He, P. Liang, Delete, Retrieve, Generate (2018); "
    "github.com/lijuncen/Sentiment-and-Style-Transfer",
    rewrites,
)
FILMS = TrainingSet(
    "movie_reviews/all, sentences",
    "CC BY 4.0",
    "B. Pang, L. Lee, A Sentimental Education (2004); polarity dataset 2.0, from github.com/nltk/nltk_data",
    film_sentences,
    is_noisy=True,
)
SURGE = "Surge AI; github.com/surge-ai/toxicity"
SENTIMENT_TESTS = (
    TestSet("sst2/test", "other", rows_of("sst2/test")),
    TestSet("review_sentiment_transfer/yelp_dev", "same", rows_of("review_sentiment_transfer/yelp_dev")),
)
JIGSAW_TEST, HATECHECK, TWEET_TEST = (
    (f"jigsaw_toxic/test, to {SHORT} characters", short_comments("test")),
    ("hatecheck/test", rows_of("hatecheck/test")),
    ("hate_speech_offensive/test", tweets("test")),
)
PERSPECTIVE = ScoreSet("toxic", "Perspective toxicity", "rtp_prompts/generations", perspective)

RECIPES = (
    JudgeRecipe(
        name="sentiment",
        attribute="sentiment",
        labels=("negative", "positive"),
        description="Sentiment of a sentence, by its meaning as a sentence vector.",
        licence="CC-BY-SA-4.0",
        features=SentenceFeatures(),
        sets=(REWRITES, TrainingSet(FILMS.name, FILMS.licence, FILMS.credit, film_sentences, most=6000, is_noisy=True)),
        tests=SENTIMENT_TESTS,
        reference="sst2/test",
        floor=0.74,
        inverse_penalty=0.03,
    ),
    JudgeRecipe(
        name="sentiment-words",
        attribute="sentiment",
        labels=("negative", "positive"),
        description="Sentiment of a sentence, by its words and pairs of words.",
        licence="CC-BY-SA-4.0",
        features=WordFeatures(),
        sets=(TrainingSet(REWRITES.name, REWRITES.licence, REWRITES.credit, rewrites, weight=3.0), FILMS),
        tests=SENTIMENT_TESTS,
        reference="sst2/test",
        floor=0.69,
        inverse_penalty=1.0,
    ),
    JudgeRecipe(
        name="sentiment-sst2",
        attribute="sentiment",
        labels=("negative", "positive"),
        description="Sentiment of a sentence, by its meaning, learned from labelled sentences of film reviews.",
        licence="not stated by the source; for your own use",
        features=SentenceFeatures(),
        sets=(
            TrainingSet(
                "sst2/train", "not stated", "R. Socher et al., Stanford Sentiment Treebank (2013)",
                rows_of("sst2/train"), most=6000,
            ),
        ),
        tests=(
            TestSet("sst2/test", "same", rows_of("sst2/test")),
            TestSet("review_sentiment_transfer/yelp_test", "other", rows_of("review_sentiment_transfer/yelp_test")),
        ),
        reference="sst2/test",
        floor=0.77,
    ),
    JudgeRecipe(
        name="toxicity",
        attribute="toxicity",
        labels=("civil", "toxic"),
        description="Insults and contempt, by the meaning of a text as a sentence vector.",
        licence="MIT",
        features=SentenceFeatures(),
        sets=(
            TrainingSet("surge_toxicity/all, first half", "MIT", SURGE, surge(0)),
            TrainingSet(
                f"paradetox/train, last {PARADETOX_KEPT} pairs", "CC0 1.0",
                "V. Logacheva et al., ParaDetox (2022); github.com/s-nlp/paradetox", kept_pairs,
            ),
        ),
        tests=(
            TestSet("surge_toxicity/all, second half", "same", surge(1)),
            TestSet(JIGSAW_TEST[0], "other", JIGSAW_TEST[1]),
            TestSet(TWEET_TEST[0], "other", TWEET_TEST[1]),
            TestSet(HATECHECK[0], "other", HATECHECK[1]),
        ),
        reference=JIGSAW_TEST[0],
        floor=0.68,
        inverse_penalty=1.0,
        scores=(PERSPECTIVE,),
    ),
    JudgeRecipe(
        name="toxicity-characters",
        attribute="toxicity",
        labels=("civil", "toxic"),
        description="Insults and contempt, by the spelling of words.",
        licence="MIT",
        features=CharacterFeatures(),
        sets=(
            TrainingSet(
                "hate_speech_offensive/train", "MIT",
                "T. Davidson et al. (2017); github.com/t-davidson/hate-speech-and-offensive-language", tweets("train"),
            ),
            TrainingSet("surge_toxicity/all, second half", "MIT", SURGE, surge(1), weight=3.0),
        ),
        tests=(
            TestSet(TWEET_TEST[0], "same", TWEET_TEST[1]),
            TestSet("surge_toxicity/all, first half", "same", surge(0)),
            TestSet(JIGSAW_TEST[0], "other", JIGSAW_TEST[1]),
            TestSet(HATECHECK[0], "other", HATECHECK[1]),
        ),
        reference=JIGSAW_TEST[0],
        floor=0.66,
        inverse_penalty=10.0,
        naive_bayes=True,
        scores=(PERSPECTIVE,),
    ),
    JudgeRecipe(
        name="toxicity-jigsaw",
        attribute="toxicity",
        labels=("civil", "toxic"),
        description="Insults and contempt, by the meaning of a text, learned from comments on Wikipedia's talk pages.",
        licence="not stated by the source; for your own use",
        features=SentenceFeatures(),
        sets=(
            TrainingSet(
                f"jigsaw_toxic/train, to {SHORT} characters", "not stated",
                "Jigsaw, Toxic Comment Classification (2018)", short_comments("train"), most=4000,
            ),
        ),
        tests=(
            TestSet(JIGSAW_TEST[0], "same", JIGSAW_TEST[1]),
            TestSet("surge_toxicity/all", "other", rows_of("surge_toxicity/all")),
            TestSet(TWEET_TEST[0], "other", TWEET_TEST[1]),
            TestSet(HATECHECK[0], "other", HATECHECK[1]),
        ),
        reference=JIGSAW_TEST[0],
        floor=0.78,
        inverse_penalty=0.3,
        scores=(PERSPECTIVE,),
    ),
    JudgeRecipe(
        name="topic",
        attribute="topic",
        labels=("world", "sports", "business", "science"),
        description="Topic of a piece of news, by its meaning as a sentence vector.",
        licence="for research and non-commercial use, as the source has it",
        features=SentenceFeatures(),
        sets=(
            TrainingSet("ag_news/train", "research and non-commercial", "X. Zhang, J. Zhao, Y. LeCun (2015), AG's News",
                        news("train"), most=4000),
        ),
        tests=(TestSet("ag_news/test", "same", news("test")),),
        reference="ag_news/test",
        floor=0.83,
    ),
    JudgeRecipe(
        name="politeness",
        attribute="politeness",
        labels=("impolite", "polite"),
        description="Politeness of a request, by its meaning as a sentence vector.",
        licence="Apache-2.0",
        features=SentenceFeatures(),
        sets=(
            TrainingSet(
                "politeness/stack_exchange, outer quarters", "Apache-2.0",
                "C. Danescu-Niculescu-Mizil et al. (2013); github.com/sudhof/politeness",
                rows_of("politeness/stack_exchange"),
            ),
        ),
        tests=(TestSet("politeness/wikipedia, outer quarters", "other", rows_of("politeness/wikipedia")),),
        reference="politeness/wikipedia, outer quarters",
        floor=0.7,
        inverse_penalty=0.3,
        holds_out=True,
    ),
    JudgeRecipe(
        name="simplicity",
        attribute="simplicity",
        labels=("complex", "simple"),
        description="Plain rather than elaborate writing, by the spelling of words; best on passages.",
        licence="CC-BY-SA-4.0",
        features=CharacterFeatures(),
        sets=(
            TrainingSet(
                "onestop_english/texts, elementary and advanced, in passages", "CC BY-SA 4.0",
                "S. Vajjala, I. Lucic, OneStopEnglish (2018); github.com/nishkalavallabhi/OneStopEnglishCorpus",
                passages,
            ),
        ),
        tests=(TestSet("asset/test, first of each pair against a simplification", "other", simplifications),),
        reference="asset/test, first of each pair against a simplification",
        floor=0.6,
        inverse_penalty=1.0,
        holds_out=True,
    ),
    JudgeRecipe(
        name="refusal",
        attribute="refusal",
        labels=("complies", "refuses"),
        description="Whether an answer refuses what it was asked for, by its meaning as a sentence vector.",
        licence="CC0-1.0",
        features=SentenceFeatures(),
        sets=(
            TrainingSet("refusals and compliances written by us, answers of smollm2 to everyday instructions",
                        "CC0 1.0", "the founders of factorlm", learned_from),
        ),
        tests=(TestSet("audited answers of smollm2 that are shipped", "other", audited),),
        reference="audited answers of smollm2 that are shipped",
        floor=0.8,
        inverse_penalty=1.0,
    ),
)  # fmt: skip
JUDGES = {recipe.name: recipe for recipe in RECIPES}


def train_judge(name: str, data: DataFolder, report: Report) -> tuple[JudgeCard, Tensors]:
    """Train a judge of the table: its card and the content of its weights file.

    Raises:
        UnknownNameError: if there is no recipe of that name, or a data set is missing.
    """
    if name not in JUDGES:
        raise UnknownNameError.of("recipe for a judge", name, JUDGES)
    return train(JUDGES[name], data, report)

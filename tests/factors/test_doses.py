import pytest

from factorlm.errors import InputError
from factorlm.factors.doses import choose, is_monotone, rising_rates
from factorlm.factors.manifest import Dose, Response


def _response(*points: tuple[float, float, float], error: float = 0.02) -> Response:
    doses = tuple(
        Dose(strength=s, rate=rate, rate_error=error, perplexity_ratio=ratio, distinct=1.0) for s, rate, ratio in points
    )
    return Response(judge="a judge", accuracy=0.9, num_texts=128, num_tokens=20, doses=doses)


KNOWN = _response((-0.6, 0.1, 1.6), (-0.2, 0.3, 1.2), (0.0, 0.6, 1.0), (0.2, 0.8, 1.1), (0.6, 1.0, 1.4))


def test_a_target_takes_the_least_strength_that_reaches_it() -> None:
    choice = choose("sunny", KNOWN, 0.9)
    assert choice.strength == pytest.approx(0.4)
    assert choice.rate == pytest.approx(0.9)
    assert choice.base_rate == 0.6
    assert choice.perplexity_ratio == pytest.approx((1.1 * 1.4) ** 0.5)  # linear in the logarithm
    assert choose("sunny", KNOWN, 0.8).strength == pytest.approx(0.2)
    assert choose("sunny", KNOWN, 0.6).strength == 0


def test_a_target_below_the_base_turns_the_factor_down() -> None:
    choice = choose("sunny", KNOWN, 0.2)
    assert choice.strength == pytest.approx(-0.4)
    assert choice.rate == pytest.approx(0.2)


def test_rates_that_fall_are_pooled_with_their_neighbours() -> None:
    dented = _response((0.0, 0.5, 1.0), (0.2, 0.9, 1.1), (0.4, 0.8, 1.2), (0.6, 0.95, 1.3))
    assert rising_rates(dented) == pytest.approx([0.5, 0.85, 0.85, 0.95])
    assert choose("sunny", dented, 0.85).strength == pytest.approx(0.2)


def test_a_fall_within_the_errors_is_no_fall() -> None:
    assert is_monotone(_response((0.0, 0.5, 1.0), (0.2, 0.48, 1.1)))
    assert not is_monotone(_response((0.0, 0.5, 1.0), (0.2, 0.4, 1.1)))
    assert not is_monotone(_response((0.0, 0.5, 1.0), (0.2, 0.47, 1.1), (0.6, 0.44, 1.2)))


@pytest.mark.parametrize(
    ("response", "rate", "words"),
    [
        (KNOWN, 1.5, "share between 0 and 1"),
        (KNOWN, 0.0, "share between 0 and 1"),
        (None, 0.9, "factorlm factor measure sunny"),
        (_response((0.0, 0.6, 1.0), (0.6, 0.8, 1.4)), 0.9, "reaches 80% at strength \\+0.6"),
        (_response((-0.6, 0.3, 1.3), (0.0, 0.6, 1.0)), 0.1, "at least 0.3"),
    ],
)
def test_a_target_out_of_reach_says_what_is_in_reach(response: Response | None, rate: float, words: str) -> None:
    with pytest.raises(InputError, match=words):
        choose("sunny", response, rate)

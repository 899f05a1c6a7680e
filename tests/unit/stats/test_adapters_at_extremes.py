"""Extreme inputs of the reference cases' schema: every answer is a finite number, or null with a reason."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest

from tests.vectors import adapters

Arm = dict[str, Any]

RATES: list[Arm] = [
    {"successes": successes, "trials": trials}
    for successes, trials in [
        *[(0, 0), (0, 1), (1, 1), (0, 10**12), (1, 10**12), (10**12 - 1, 10**12), (10**12, 10**12)],
        *[(5 * 10**11, 10**12), (3, 10)],
    ]
]
MEANS: list[Arm] = [
    {"n": 0, "sum": 0.0, "sum_squares": 0.0},
    {"n": 1, "sum": 3.5, "sum_squares": 12.25},
    {"n": 1000, "sum": 0.0, "sum_squares": 0.0},
    {"n": 1000, "sum": 7000.0, "sum_squares": 49000.0},
    {"n": 10**9, "sum": 1e15, "sum_squares": 1e21 + 1e9},
    {"n": 500, "sum": -200.0, "sum_squares": 1e4},
    {"n": 50, "sum": 1e-9, "sum_squares": 1e-15},
    {"n": 3.0, "sum": 1e9, "sum_squares": 1e18},
]
RATIOS: list[Arm] = [
    dict(
        zip(
            ("n", "num_sum", "num_sum_squares", "den_sum", "den_sum_squares", "num_den_sum_products"), sums, strict=True
        )
    )
    for sums in [
        (0, 0.0, 0.0, 0.0, 0.0, 0.0),
        (1, 2.0, 4.0, 3.0, 9.0, 6.0),
        (100, 40.0, 60.0, 0.0, 0.0, 0.0),
        (100, 0.0, 0.0, 200.0, 700.0, 0.0),
        (100, 200.0, 700.0, 200.0, 700.0, 700.0),
        (10**9, 3e9, 2e10, 5e9, 4e10, 2.1e10),
    ]
]
COVARIATES: list[Arm] = [
    dict(
        zip(
            ("n", "post_sum", "post_sum_squares", "pre_sum", "pre_sum_squares", "post_pre_sum_products"),
            sums,
            strict=True,
        )
    )
    for sums in [
        (0, 0.0, 0.0, 0.0, 0.0, 0.0),
        (1, 2.0, 4.0, 3.0, 9.0, 6.0),
        (100, 40.0, 60.0, 0.0, 0.0, 0.0),
        (100, 200.0, 700.0, 200.0, 700.0, 700.0),
        (10**9, 3e9, 2e10, 5e9, 4e10, 2.1e10),
    ]
]


def _pairs(arms: list[Arm]) -> Iterator[dict[str, Arm]]:
    for control, treatment in itertools.product(arms, repeat=2):
        yield {"control": control, "treatment": treatment}


def _each(*cases: dict[str, Any], **options: list[Any]) -> Iterator[dict[str, Any]]:
    """Yield every case with every combination of the options."""
    for case, values in itertools.product(cases, itertools.product(*options.values())):
        yield {**case, **dict(zip(options, values, strict=True))}


CASES: dict[str, list[dict[str, Any]]] = {
    "wilson_interval": list(_each(*RATES, confidence=[0.5, 0.95, 0.999999])),
    "difference_of_proportions": list(
        _each(*_pairs(RATES), method=["newcombe", "agresti_caffo", "wald", "miettinen_nurminen"])
    ),
    "two_proportion_test": list(
        _each(*_pairs(RATES), variance=["pooled", "unpooled"], continuity_correction=[False, True])
    ),
    "k_proportion_chi_square": [{"arms": RATES[1:]}, {"arms": RATES}, {"arms": RATES[:1] * 6}],
    "welch_t_test": list(_each(*_pairs(MEANS), alternative=["two-sided", "greater", "less"])),
    "ratio_delta_method": list(_each(*_pairs(RATIOS), distribution=["welch_t", "normal"])),
    "cuped_mean": list(_each(*_pairs(COVARIATES), distribution=["welch_t", "normal"])),
    "srm_chi_square": [
        {"observed": observed, "expected_weights": weights}
        for observed, weights in [
            *[([0, 0], [1, 1]), ([7, 0], [1, 0]), ([7, 1], [1, 0]), ([10**12, 1], [0.5, 0.5])],
            *[([1] * 8, [1] * 8), ([10**9, 10**9 + 10**5], [50, 50]), ([0, 10**12], [1e-9, 1])],
        ]
    ],
    "srm_sequential": list(
        _each(
            *(
                {"observed": o, "expected_weights": w}
                for o, w in [([0, 0], [1, 1]), ([10**12, 1], [1, 1]), ([3] * 8, [1] * 8)]
            ),
            dirichlet_concentration=[1e-3, 100.0, 1e9],
        )
    ),
    "always_valid_interval": list(
        _each(*_pairs(RATES), *_pairs(MEANS), *_pairs(RATIOS), difference=["absolute", "relative"])
    ),
    "bayes_beta_binomial": list(_each(*_pairs(RATES[::2]), prior_alpha=[0.5], prior_beta=[1.0, 95.0])),
    "bayes_prob_best": [{"arms": RATES}, {"arms": RATES[:1] * 6}, {"arms": RATES[:1]}],
    "bayes_normal": list(
        _each(
            *_pairs(RATES),
            *_pairs(MEANS),
            difference=["absolute", "relative"],
            prior=[None, {"mean": 0.0, "variance": 1e-12}, {"mean": -3.0, "variance": 1e12, "proper": True}],
        )
    ),
    "multiple_testing": list(
        _each({"p_values": []}, {"p_values": [0.0, 1.0, 1e-300] * 10}, method=["holm", "benjamini_hochberg"])
    ),
    "relative_lift": list(
        _each(
            *_pairs(RATES), *_pairs(MEANS), method=["delta_welch_t", "log_ratio", "fieller_normal", "fieller_welch_t"]
        )
    ),
    "power": [
        *_each(
            {"kind": "mde_proportions", "power": 0.8},
            {"kind": "power_proportions", "mde_relative": 0.5},
            baseline=[0.0, 1e-9, 0.5, 0.6],
            n_control=[1, 10**12],
            ratio_treatment_to_control=[1e-3, 1.0, 1e3],
        ),
        *_each(
            {"kind": "mde_means", "power": 0.8},
            {"kind": "power_means", "difference": 1.0},
            std=[1e-9, 1.0, 1e9],
            n_control=[3, 10**9],
            ratio_treatment_to_control=[0.5, 50.0],
            alpha=[1e-6, 0.5],
        ),
        *_each(
            {"kind": "sample_size_means", "power": 0.99},
            std=[1e-6, 1.0, 1e6],
            difference=[0.0, 1e-6, 1e6],
            method=["noncentral_t", "z"],
        ),
        *_each(
            {"kind": "sample_size_proportions", "power": 0.99}, baseline=[0.0, 1e-9, 0.5], mde_absolute=[0.0, 1e-9, 0.5]
        ),
    ],
}
_UNDEFINED_WITHOUT_REASON = frozenset({"df", "standard_error", "mde_relative"})


def _numbers(value: object) -> Iterator[object]:
    if isinstance(value, list):
        yield from value
    else:
        yield value


@pytest.mark.parametrize("group", CASES)
def test_adapter__extreme_inputs__answers_with_finite_numbers_or_a_reason(group: str) -> None:
    problems = []

    for inputs in CASES[group]:
        result = getattr(adapters, group)(**inputs)
        missing = {key for key, value in result.items() if value is None} - _UNDEFINED_WITHOUT_REASON - {"null_reason"}
        if missing and result.get("null_reason") is None:
            problems.append((inputs, missing))
        problems += [
            (inputs, {key})
            for key, value in result.items()
            for number in _numbers(value)
            if isinstance(number, float) and not math.isfinite(number)
        ]

    assert problems == []

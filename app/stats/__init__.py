"""The statistics engine: pure functions on sufficient statistics, without input or output.

Give each function the statistics of two arms, control first; get a frozen dataclass. Differences are
treatment minus control, lifts are fractions (0.05 is +5 %), `confidence` is the two-sided level. What is
undefined is None, with a `null_reason`; no NaN or infinity ever comes out. Statistics add up: `hot + cold` is
the arm over both stores.

    from app.stats.samples import MeanSample, Proportion, RatioSample

    arm = Proportion(successes=140, trials=2000)
    arm = MeanSample.from_sums(n=1200, sum_values=6268.84, sum_squares=377188.9316)
    arm = RatioSample.from_sums(n=1500, num_sum=2759, num_sum_squares=14215, den_sum=12188,
                                den_sum_squares=165876, num_den_sum_products=38741)

| asked for | function, called as f(control, treatment) if not shown otherwise | gives |
|---|---|---|
| interval of a rate | `proportions.wilson_interval(arm)` | `Interval` |
| interval of a mean or ratio | `means.value_interval(arm)` | `Interval` |
| difference of rates, Newcombe | `proportions.difference_of_proportions` | `Interval` |
| test of two rates, pooled z | `proportions.two_proportion_test` | `HypothesisTest` |
| test over all arms | `proportions.k_proportion_chi_square(arms)` | `HypothesisTest` |
| difference of means, Welch | `means.welch_t_test` | `Comparison` |
| difference of ratios, delta method | `ratios.ratio_difference` | `Comparison` |
| difference of means, CUPED | `cuped.cuped_difference` | `CupedComparison` |
| lift of any metric, Fieller | `lift.relative_lift` | `Lift` |
| sample ratio mismatch | `srm.srm_check(observed, expected_weights)`; `srm_chi_square`, `srm_exact` | `SrmTest` |
| the same, at every look | `srm.srm_sequential(observed, expected_weights)` | `SequentialSrm` |
| is an effect the same in all groups | `homogeneity.cochran_q([effects.effect_of(...), ...])` | `Homogeneity` |
| difference of means within strata | `poststratification.poststratified_difference(strata)` | `PostStratified` |
| is a rate worse by less than a margin | `noninferiority.noninferiority_rates(..., margin=0.02)` | `NonInferiority` |
| the same of any metric | `noninferiority.noninferiority_test(..., margin=0.02)` | `NonInferiority` |
| effect at every look | `sequential.always_valid_interval` | `AlwaysValidInterval` |
| lift at every look | `sequential.always_valid_lift` | `AlwaysValidInterval` |
| bounds of planned looks | `group_sequential.sequential_bounds([0.25, 0.5, 1])` | `tuple[Look, ...]` |
| belief about two rates | `bayes_rates.bayes_beta_binomial` | `BetaComparison` |
| belief about their difference | `bayes_difference.bayes_rate_difference` | `RateDifference` |
| belief about the best rate | `bayes_best.prob_best_rate(arms)` | `tuple[float, ...]` |
| belief about the best mean or ratio | `bayes_best.prob_best_value(arms)` | `tuple[float, ...]` |
| belief about an effect | `bayes_effect.bayes_normal` | `EffectPosterior` |
| detectable effect | `power_rates.mde_proportions(baseline=0.1, n_control=8000)` | `DetectableEffect` |
| sample size | `power_rates.sample_size_proportions(baseline=0.1, effect=0.01)` | `SampleSize` |
| several tests at once | `multiple.adjust_p_values(p_values)` | `AdjustedTests` |

Every interval takes `confidence=0.95` (always-valid: `alpha=0.05`, Bayesian: `credibility=0.95`).
Arguments of type `Sample` (of lifts, always-valid intervals, beliefs about effects) take any of the three
statistics, or the estimates that `cuped.cuped_estimates` and `poststratification.poststratified_estimates`
make. `power_means` plans tests of means, and with a deviation of `unit_deviation` tests of ratios, of quantiles
and with CUPED; a `planning.Design` says how: level, direction, share of the arms.

`bayes_rates` has the same beliefs about rates by a slower integration, with the interval of the lift.
"""

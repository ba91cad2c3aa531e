"""Statistics for clustered conversations (pure: values in, values out). Clusters are prompts.

    intervals.py   means (cluster-t), rates (Wilson averaged over the ICC), bands over turns
    compare.py     paired differences and ratios, McNemar, permutation over prompts, Holm, non-inferiority
    levels.py      training runs, wordings and judges beside the prompts
    survival.py    Kaplan-Meier with log-log bands, cumulative incidence, hazard by turn, restricted mean
    dropout.py     what a deleted conversation would have scored: AUC definitions, survivors, IPCW, bounds
    design.py      the detectable effect of a planned study; a judge's mean corrected by human labels

Why clusters: samples of one prompt are not independent. Intervals are 95 %; tests/test_stats.py simulates the
coverage of means and rates in one design, tests/test_stats_reference.py holds estimators against scipy, statsmodels
and lifelines.
"""

from placid.report.stats.compare import (
    Grouped,
    McNemar,
    difference,
    differences,
    holm,
    mcnemar,
    non_inferiority,
    paired_shares,
    ratio,
    reduction,
    reduction_by_definition,
    sign_flip,
)
from placid.report.stats.design import Labelled, corrected_difference, corrected_mean, detectable, weighted_kappa
from placid.report.stats.dropout import Dropout, auc_observed, dropout
from placid.report.stats.intervals import NOTHING, Band, Estimate, Floats, Scale, bands, mean, quantile_t, rate
from placid.report.stats.levels import (
    UNWORDED,
    Level,
    Worded,
    level,
    p_value,
    samples_variance,
    widened,
    worded,
    wording_level,
)
from placid.report.stats.survival import Held, Survival, kaplan_meier, restricted_mean, restricted_mean_difference

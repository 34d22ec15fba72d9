"""Agreement, calibration, contests, intervals: pure functions on arrays.

Every figure that leaves here for ``metrics.json`` or ``card.json`` is a ``Figure``: value, interval and n.
"""

from rlaif.statistics.agreement import cohen_kappa, fleiss_kappa, krippendorff_alpha, percent_agreement
from rlaif.statistics.calibration import calibration_error, calibration_figure, log_loss, reliability
from rlaif.statistics.contests import discrete, length_controlled, mcnemar, standard_error, win_rate
from rlaif.statistics.figures import Figure, Means, cluster_mean, paired_difference, points, resampled, share, wilson
from rlaif.statistics.meters import Pull, error_correlation, pull
from rlaif.statistics.people import AltTest, alt_test, flip_rate, human_ceiling, noise_corrected

__all__ = [
    "AltTest",
    "Figure",
    "Means",
    "Pull",
    "alt_test",
    "calibration_error",
    "calibration_figure",
    "cluster_mean",
    "cohen_kappa",
    "discrete",
    "error_correlation",
    "fleiss_kappa",
    "flip_rate",
    "human_ceiling",
    "krippendorff_alpha",
    "length_controlled",
    "log_loss",
    "mcnemar",
    "noise_corrected",
    "paired_difference",
    "percent_agreement",
    "points",
    "pull",
    "reliability",
    "resampled",
    "share",
    "standard_error",
    "wilson",
    "win_rate",
]

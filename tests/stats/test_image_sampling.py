import numpy as np
import pytest

from lmcbench.stats.estimates import Estimate, estimate, estimate_over_images


def mean_over_images(values):
    """The statistic that is a mean over images of `values`, `[replicates, images]`."""
    return lambda weights: weights @ values.T


def crossed(generator, replicates, images, between, among, noise):
    """Values [replicates, images] with an effect of each replicate and of each image, mean 0."""
    rows = between * generator.normal(size=(replicates, 1))
    columns = among * generator.normal(size=(1, images))
    return rows + columns + noise * generator.normal(size=(replicates, images))


def test_the_half_width_adds_both_parts():
    generator = np.random.default_rng(0)
    values = crossed(generator, 5, 400, 0.1, 1.0, 0.0)
    found = estimate_over_images(mean_over_images(values), 400, np.random.default_rng(1))
    over_replicates = estimate(values.mean(axis=1).tolist())
    images = 1.96 * values.mean(axis=0).std() / 20
    assert found.mean == pytest.approx(over_replicates.mean)
    assert found.half_width == pytest.approx(np.hypot(over_replicates.half_width, images), rel=0.05)
    assert found.n == 5


def test_replicates_that_agree_still_have_an_interval():
    values = np.tile(np.arange(100) % 2, (3, 1)).astype(float)
    found = estimate_over_images(mean_over_images(values), 100, np.random.default_rng(0))
    assert estimate(values.mean(axis=1).tolist()).half_width == 0
    assert found.half_width == pytest.approx(1.96 * 0.05, rel=0.1)


def test_one_replicate_has_no_interval_and_undefined_resamples_none_either():
    one = estimate_over_images(mean_over_images(np.zeros((1, 10))), 10, np.random.default_rng(0))
    assert (one.mean, one.half_width, one.n) == (0.0, None, 1)

    def fragile(weights):
        # undefined where an image is not drawn: about 35 % of resamples
        values = weights @ np.ones((10, 3))
        return np.where(weights[:, :1] > 0, values, np.nan)

    found = estimate_over_images(fragile, 10, np.random.default_rng(0))
    assert (found.mean, found.half_width) == (pytest.approx(1.0), None)


def test_a_replicate_without_a_value_leaves_no_mean():
    """Not a number would be printed as one."""
    found = estimate_over_images(
        lambda weights: weights @ np.array([[0.5, np.nan]] * 10), 10, np.random.default_rng(0)
    )
    assert found == Estimate(None, None, 2)


def test_equal_generators_give_equal_intervals():
    values = np.random.default_rng(0).random((4, 50))
    halves = {
        estimate_over_images(mean_over_images(values), 50, np.random.default_rng(seed)).half_width
        for seed in (3, 3, 4)
    }
    assert len(halves) == 2


def coverage(runs, between, among, noise, replicates=5, images=100):
    generator = np.random.default_rng(7)
    inner = {"both": 0, "replicates": 0}
    for _ in range(runs):
        values = crossed(generator, replicates, images, between, among, noise)
        both = estimate_over_images(mean_over_images(values), images, generator, draws=100)
        alone = estimate(values.mean(axis=1).tolist())
        inner["both"] += abs(both.mean) <= both.half_width
        inner["replicates"] += abs(alone.mean) <= alone.half_width
    return {name: count / runs for name, count in inner.items()}


def test_coverage_where_images_matter_most():
    """An interval over replicates alone holds the truth in fewer than half of all cases here."""
    found = coverage(400, between=0.02, among=1.0, noise=0.1)
    assert found["replicates"] < 0.5
    assert 0.92 <= found["both"] <= 0.99


@pytest.mark.slow_tier
@pytest.mark.parametrize(
    ("between", "among", "noise"), [(0.1, 0.0, 1.0), (0.1, 1.0, 1.0), (0.0, 1.0, 0.0), (0.5, 0.2, 0.2)]
)
@pytest.mark.parametrize("replicates", [3, 5, 10])
def test_coverage_is_at_least_what_is_promised(between, among, noise, replicates):
    assert coverage(1500, between, among, noise, replicates)["both"] >= 0.935

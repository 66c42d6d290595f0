"""The flags of tune offer what there is, without importing it."""

from rrd_search import early_stopping, flags, samplers


def test_they_offer_what_there_is() -> None:
    assert tuple(early_stopping.SCHEDULERS) == flags.SCHEDULERS
    assert tuple(samplers.SAMPLERS) == flags.SAMPLERS

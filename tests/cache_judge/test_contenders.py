"""The judge's contenders: all can run, and no method is forgotten."""

from pathlib import Path

import pytest

from cache_draws import OPS
from disca_rt.cache.method import Parts, sketched
from disca_rt.cache.policies import POLICIES, build_policy, read_policy
from disca_rt.cache.site import check_sites
from disca_rt.cache_judge.contenders import QUICK, contenders
from disca_rt.cache_judge.embedded import SUBJECTS
from disca_rt.cache_judge.subject import UNCACHED
from disca_rt.calibration.file import read_calibration
from disca_rt.tiny.config import TINY
from disca_rt.tiny.runtime import SHIPPED

LADDER = Path(__file__).parents[2] / "ladder"
PASSES = {"base": 2, "distilled": 1}
CALIBRATIONS = {
    "base": LADDER / "calibrations/base-50-steps.json",
    "distilled": SHIPPED / "calibrations/restricted-meanflow-20-steps.json",
}
NEED_MORE = {"edit"}  # a video to edit and a mask
SAME_AS_ANOTHER = {
    "taylorseer-attention",  # attention is too small a part of this model
    *("ssta", "sta"),  # one tile is larger than its grid
}


@pytest.mark.parametrize("subject", [*SUBJECTS])
def test_every_contender_can_run(subject: str) -> None:
    calibration = read_calibration(CALIBRATIONS[subject])
    parts = Parts(TINY, OPS, sketched(TINY).predictor, calibration)
    every = contenders(subject, LADDER)
    for policy in {*every, *QUICK[subject]}:
        sites = [slot.site for slot in build_policy(policy, parts).slots]
        check_sites(sites, TINY, PASSES[subject])
    assert len({*every}) == len(every)


def test_no_method_is_forgotten() -> None:
    texts = [text for subject in SUBJECTS for text in contenders(subject, LADDER)]
    judged = {part.name for text in texts for part in read_policy(text)}
    assert {*POLICIES} - judged - NEED_MORE - SAME_AS_ANOTHER == {UNCACHED}

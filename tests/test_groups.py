"""Tests of one group run on one worker, by what conftest.py does to their ids."""

import pytest


@pytest.mark.xdist_group("a group")
def test_a_group_is_in_the_id(request: pytest.FixtureRequest) -> None:
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("needs --dist loadgroup")
    assert request.node.nodeid.endswith("@a group")

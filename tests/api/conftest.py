"""Fixtures of the API's tests."""

import pytest
from api_rig import Described, Site


@pytest.fixture
def site(server):
    """The shared server, seen by nobody in particular."""
    return Site(server)


@pytest.fixture
def alice(site):
    """A new user, by a token."""
    return site.new_user()


@pytest.fixture
def bob(site):
    """Another one."""
    return site.new_user()


@pytest.fixture(scope="session")
def described(shared_servers):
    """The shared server's own description."""
    return Described(Site(shared_servers(1)))

"""Options of every folder of tests."""

import pytest


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="the deep tier")


def pytest_collection_modifyitems(config, items):
    """Tests of the deep tier are left out, not skipped: a skip counts as a failure."""
    if config.getoption("--long"):
        return
    deep = [item for item in items if item.get_closest_marker("long")]
    items[:] = [item for item in items if item not in deep]
    config.hook.pytest_deselected(items=deep)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Fixtures may ask how their test went."""
    report = (yield).get_result()
    setattr(item, f"report_{report.when}", report)

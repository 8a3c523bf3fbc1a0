"""Which test files begin first."""

from __future__ import annotations

LONGEST_FIRST = (
    # minutes each in `make nightly`
    "loopback/test_cli_kill_steps.py",
    "sim/test_soak.py",
    "sim/test_twelve_weeks.py",
    "loopback/test_cli_theseus.py",
    "faults/test_town_faults.py",
    "loopback/test_cli_large.py",
    "unit/simulations/test_calibration.py",
    "loopback/test_cli_keyless.py",
    "sim/test_workstations.py",
    "sim/test_dark_site.py",
    "unit/datasets/test_memory.py",
    # ten seconds or more in `make test`
    "unit/simulations/test_mc_engines.py",
    "loopback/test_cli_data.py",
    "sim/test_repair.py",
    "loopback/test_cli_leaving.py",
    "sim/test_audit.py",
    "loopback/test_cli_lab.py",
    "sim/test_dht_network.py",
    "loopback/test_cli_network.py",
    "sim/test_dht_loss.py",
    "loopback/test_cli_redundancy.py",
    "sim/test_leaving.py",
    "loopback/test_cli_demo.py",
    "sim/test_bad_repairs.py",
    "loopback/test_cli_simulate.py",
    "sim/test_common_ground.py",
    "sim/test_deep_verify.py",
    "sim/test_retention_world.py",
)
"""Below tests/, the longest first: begun last, one of them alone would keep everybody waiting for its end.

Those that wait for processes stand between those that compute.  `pytest --durations 40` shows when it is out of date.
"""

"""Tells Python processes that a test starts where the test has its warehouses; see postgres.py."""

import os

if server := os.environ.get("TESTS_POSTGRES"):
    from postgres import move_warehouses

    move_warehouses(server)

"""What must be true of each table, as Great Expectations suites; a module per table or use case."""

"""What the steps cost, measured on real data."""

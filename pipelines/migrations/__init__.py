"""Steps from each form of the warehouse's schema to the next and back, one file each; Alembic runs them."""

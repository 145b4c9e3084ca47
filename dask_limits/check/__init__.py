"""`dask-limits check`: tries which limits a machine can enforce, and how well."""

"""SQL on the lake for everybody: TAP 1.1 of the IVOA. ADQL is read as a tree, checked, and run by DuckDB apart."""
